"""The life of a bridge process: claim, connect to NATS and to the node, work, end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

from ipc_schema.config.bridge import BridgeConfig
from ipc_schema.mapi.methods import FEATURE_SEND_TIMESTAMP
from ipc_schema.paths import bridge_directory, bridge_status_file
from logos_bridge.figures import BridgeFigures
from logos_bridge.inward import APP_NAME, Inward
from logos_bridge.jetstream import JetStreamLink
from logos_bridge.outward import Outward
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient
from logos_client.messaging import MessagingClient
from logos_process.claim import claim_directory
from logos_process.exits import ExitCode, StartError
from logos_process.files import replace_file
from logos_process.logs import fields
from logos_process.stopping import StopLimit, stop_signals
from logos_process.version import version

log = logging.getLogger(__name__)

T = TypeVar("T")

_STATUS_SECONDS: Final = 1.0
_RETRY: Final = 1.0


async def serve(config: BridgeConfig, limit: StopLimit) -> int:
    """Bridge until a signal; returns the exit code. Raises `StartError`."""
    if not config.nats.nats_url:
        raise StartError("nats-url: there is no NATS server to bridge to")
    with ExitStack() as stack:
        claim_directory(stack, bridge_directory(config.ipc_dir))
        status = bridge_status_file(config.ipc_dir)
        stack.callback(status.unlink, missing_ok=True)
        bridge = _Bridge(config, status)
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in stop_signals():
            loop.add_signal_handler(number, stop.set)
        working = loop.create_task(bridge.run(), name="bridge")
        stopping = loop.create_task(stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.start()
            working.cancel()
            stopping.cancel()
            (outcome,) = await asyncio.gather(working, return_exceptions=True)
        if stop.is_set():
            return ExitCode.OK
        if isinstance(outcome, BaseExceptionGroup) and (refused := outcome.subgroup(StartError)) is not None:
            raise _first(refused)
        log.critical("the bridge has ended", exc_info=outcome if isinstance(outcome, BaseException) else None)
        return ExitCode.FAILED


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first error of nested task groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Bridge:
    """The parts of one running bridge."""

    def __init__(self, config: BridgeConfig, status: Path) -> None:
        self._config = config
        self._status = status
        self._figures = BridgeFigures()
        self._link = JetStreamLink(config)

    async def run(self) -> None:
        for part in (
            "nats",
            *(["out"] if self._config.outward.bridge_out else []),
            *(["in"] if self._config.inward.bridge_in else []),
        ):
            self._figures.trouble(part, "not started yet")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report_status(), name="status")
            group.create_task(self._work(), name="work")

    async def _work(self) -> None:
        config, figures = self._config, self._figures
        async with AsyncExitStack() as stack:
            await self._link.open()
            stack.push_async_callback(self._link.close)
            kernel = await self._connect("kernel", lambda: KernelClient.connect(config.kernel, timeout=None))
            await stack.enter_async_context(kernel)
            peer_id = str(await self._ask_peer_id(kernel))
            figures.facts["peerId"] = peer_id
            async with asyncio.TaskGroup() as group:
                if config.outward.bridge_out:
                    outward = Outward(config, kernel, peer_id, self._link, figures)
                    log.info(
                        "publishing", extra=fields(shards=len(outward.streams), server=self._link.server)
                    )
                    group.create_task(outward.run(), name="out")
                if config.inward.bridge_in and config.mapi is not None:
                    group.create_task(self._take_sends(config.mapi.apps, peer_id), name="in")

    async def _take_sends(self, endpoint: str, owner: str) -> None:
        client = await self._connect(
            "mapi",
            lambda: MessagingClient.connect(
                endpoint, name=APP_NAME, takeover=True, ack="manual", timeout=None
            ),
        )
        async with client:
            if FEATURE_SEND_TIMESTAMP not in client.features:
                raise StartError(f"{client.server} is too old: it cannot send with a given timestamp")
            await Inward(self._config, client, owner, self._link, self._figures).run()

    async def _connect(self, part: str, connect: Callable[[], Awaitable[T]]) -> T:
        while True:
            self._figures.trouble(part, "not connected yet")
            try:
                client = await connect()
            except LogosError as error:  # it is there and refuses: an operator may change that
                self._figures.trouble(part, str(error))
                log.warning("%s refuses the bridge: %s", part, error)
                await asyncio.sleep(_RETRY)
            else:
                self._figures.trouble(part, "")
                return client

    async def _ask_peer_id(self, kernel: KernelClient) -> object:
        while True:
            try:
                return (await kernel.info(["MyPeerId"]))["MyPeerId"]
            except LogosError as error:
                log.debug("the node's peer id: %s", error)
                await asyncio.sleep(_RETRY)

    async def _report_status(self) -> None:
        figures, link = self._figures, self._link
        while True:
            figures.gauge("bridge_nats_connected", float(link.connected))
            figures.gauge("bridge_nats_operations", link.congestion.under_way)
            figures.gauge("bridge_nats_window", link.congestion.width)
            figures.total("bridge_nats_reconnects", link.counters.reconnects)
            figures.total("bridge_nats_retries", link.counters.retries)
            reason = "" if link.connected else f"not connected: {link.counters.last_error or 'no server yet'}"
            figures.trouble("nats", reason)
            figures.facts["nats"] = {
                "server": link.server,
                "urls": self._config.nats.nats_url,
                "prefix": self._config.nats.nats_prefix,
            }
            try:
                status = {"program": "logos-bridge", **figures.status(version())}
                replace_file(self._status, json.dumps(status), durable=False)
            except OSError as error:  # a full disk: the messages go on
                log.warning("the status cannot be written: %s", error)
            if link.closed:  # the server refuses us; our supervisor starts us again
                raise ConnectionError(f"the connection to NATS is closed: {link.counters.last_error}")
            await asyncio.sleep(_STATUS_SECONDS)

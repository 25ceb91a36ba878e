"""`MessagingApi`: the Messaging API of a node, as an object.

There is one way to run it. What differs is where its kernel is, and who holds the object:

    MessagingApi("logos.test", mode="core", data_dir="…")      # a node of its own: the kernel is its child
    MessagingApi.attach("/run/logos", data_dir="…")            # a kernel that runs already
    MessagingApi(config=config)                                # `logos-mapi`, the process: as configured

`logos_deploy.launch(preset, mode, overrides)` is the first one in processes of their own: a kernel, and a
`logos-mapi` attached to it. A program on asyncio holds one itself:

    async with MessagingApi.attach("data/run", data_dir="mine", name="notes") as api:
        await api.subscribe(["/my-app/1/chat/proto"])
        request_id = await api.send("/my-app/1/chat/proto", b"hello")
        async for event, payload in api.events():
            …

Apps in other processes reach the same object on its sockets (`ipc_schema/SPEC.md`), with the same rights.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ipc_schema.config.mapi import MapiConfig, Mode, derive_kernel, derive_mapi, load_mapi_config
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.methods import PendingReply, PendingSend, SendRequest, StatusReply, request_id_at
from logos_client.kernel import KernelClient
from mapi_proc.core import Core
from mapi_proc.kernel_child import KernelChild, KernelChildError
from mapi_proc.local_app import LocalApp, LocalEvent
from mapi_proc.receive.history_ranges import HistoryRange
from mapi_proc.send.service import pending_reply
from mapi_proc.service import MapiService
from mapi_proc.subscriptions import AutoSubscribe

__all__ = ["MessagingApi"]

log = logging.getLogger(__name__)

_RESTART_S: Final = 1.0


class MessagingApi:
    """The Messaging API of one node. The same object can be started again after `stop`.

    Methods raise `IpcError` (with `code` and `retriable`); an invalid configuration raises `ConfigError`.
    """

    def __init__(
        self,
        preset: str = "",
        mode: Mode | str = Mode.CORE,
        overrides: Mapping[str, object] | None = None,
        *,
        config: MapiConfig | None = None,
        data_dir: str | Path = "./data",
        name: str | None = None,
        auto_subscribe: AutoSubscribe | None = None,
    ) -> None:
        """Create a node of its own. Preset, mode and overrides determine the kernel's configuration too.

        Without a preset, the node runs a local network: autosharding, one shard, no bootstrap nodes,
        loopback only. `config` replaces all of these: the object then attaches to the kernel that it names.
        `name` makes the app in this process durable. Raises ConfigError.
        """
        self._kernel_options: Mapping[str, object] | None = None
        if config is None:
            given = {"data-dir": str(Path(data_dir).resolve()), **(overrides or {})}
            self._kernel_options = derive_kernel(preset, mode, given)
            config = load_mapi_config(flags=derive_mapi(preset, mode, given))
        self.config = config
        self._name = name
        self._service = MapiService(config, auto_subscribe=auto_subscribe)
        self._service.on_end = self.end
        self._local: LocalApp | None = None
        self._opening = asyncio.Lock()
        self._child: KernelChild | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._kernel: KernelClient | None = None
        self._over = asyncio.Event()
        self._fault: BaseException | None = None

    @classmethod
    def attach(
        cls,
        kernel_dir: str | Path,
        overrides: Mapping[str, object] | None = None,
        *,
        data_dir: str | Path = "./data",
        name: str | None = None,
        auto_subscribe: AutoSubscribe | None = None,
    ) -> Self:
        """Attach to a kernel that is already running, or will be. `kernel_dir` is its `ipc-dir`.

        Cluster, shard count and maximum message size come from the kernel's hello; overrides that
        contradict them are refused then. Raises ConfigError.
        """
        flags = {
            "data-dir": str(Path(data_dir).resolve()),
            "kernel-dir": str(Path(kernel_dir).resolve()),
            **(overrides or {}),
        }
        return cls(config=load_mapi_config(flags=flags), name=name, auto_subscribe=auto_subscribe)

    # -- life ----------------------------------------------------------------------------------------------

    @property
    def service(self) -> MapiService:
        """Return the service (sockets, health, core), for programs that host this object."""
        return self._service

    @property
    def kernel(self) -> KernelClient:
        """Return a client of the kernel's own interface: peers, health, metrics.

        Raises RuntimeError when stopped, or when `start` did not wait for the kernel.
        """
        if self._kernel is None:
            raise RuntimeError("the Messaging API is not started, or did not wait for its kernel")
        return self._kernel

    async def start(self, *, timeout: float | None = 20.0) -> None:
        """Start, and wait until the kernel has answered hello.

        With `timeout` None, do not wait: apps are served as soon as the kernel answers. Raises IpcError
        (`not_ready` if the kernel has not answered within `timeout` seconds, `bad_request` if its network
        contradicts the overrides), KernelChildError if our own kernel refuses its configuration,
        StartError, and RuntimeError if already started.
        """
        if self._service.running or self._child is not None:
            raise RuntimeError("the Messaging API is already started")
        try:
            if self._kernel_options is not None:
                self._child = KernelChild(self._kernel_options)
                await self._child.start()
                self._keeper = asyncio.create_task(self._keep_child(self._child), name="kernel-child")
            await self._service.start()
            if timeout is None:
                return
            await self._wait_for_kernel(timeout)
            # The link's hello was answered, so the kernel answers this one without delay.
            self._kernel = await KernelClient.connect(self.config.kernel)
        except BaseException:
            await self.stop()
            raise

    async def _wait_for_kernel(self, timeout: float) -> None:
        up = asyncio.create_task(self._service.core.link.wait_up(timeout))
        try:
            await asyncio.wait(
                {up} if self._keeper is None else {up, self._keeper}, return_when=asyncio.FIRST_COMPLETED
            )
            if not up.done():
                assert self._keeper is not None
                self._keeper.result()  # raises: it ends only with an error
            if not up.result():
                raise IpcError(ErrorCode.NOT_READY, f"the kernel did not answer within {timeout:g} s")
        finally:
            up.cancel()

    async def _keep_child(self, child: KernelChild) -> None:
        """Restart the kernel when it dies. Apps see Disconnected, then whatever catch-up recovers."""
        while True:
            try:
                await child.ended()
            except KernelChildError as error:
                if error.final:
                    log.error("%s: it refuses its configuration", error)
                    self.end(error)
                    raise
                log.warning("%s; restarting it", error)
            await asyncio.sleep(_RESTART_S)
            await child.start()

    def end(self, error: BaseException | None = None) -> None:
        """Wake the waiters of `ended`: on a fault, a signal, or a shutdown request on the control socket."""
        self._fault = self._fault or error
        self._over.set()

    async def ended(self) -> BaseException | None:
        """Wait until this object should be stopped. Return the fault, or None for a requested shutdown."""
        await self._over.wait()
        return self._fault

    async def stop(self) -> None:
        """Stop everything that `start` began. Idempotent."""
        self._over.clear()
        self._fault = None
        if self._local is not None and self._service.running:
            self._local.close()
        self._local = None
        if self._kernel is not None:
            await self._kernel.close()
            self._kernel = None
        await self._service.stop()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        if self._child is not None:
            await self._child.stop()
            self._child = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -- the Messaging API for this process ------------------------------------------------------------------

    @property
    def _core(self) -> Core:
        return self._service.core

    async def _app(self) -> LocalApp:
        async with self._opening:
            if self._local is None:
                self._local = await LocalApp.open(self._core, self._name)
            return self._local

    async def subscribe(
        self, topics: Iterable[str], *, since_last: bool = False, history: float = 0.0
    ) -> dict[str, str]:
        """Subscribe to content topics. Return an error text for each topic that failed; the others took
        effect.

        `since_last` also delivers what was stored since this app last left the topic, `history` what was
        stored in that many seconds before now.
        """
        past = HistoryRange(since_last, int(history * 1e9))
        return await self._core.subscribe((await self._app()).app, list(topics), history=past)

    async def unsubscribe(self, topics: Iterable[str]) -> dict[str, str]:
        """Unsubscribe. Return an error text for each topic that failed (`already unsubscribed`)."""
        return await self._core.unsubscribe((await self._app()).app, list(topics))

    async def send(
        self,
        content_topic: str,
        payload: bytes,
        *,
        ephemeral: bool = False,
        meta: bytes = b"",
        request_id: bytes | None = None,
        timestamp: int | None = None,
    ) -> bytes:
        """Accept a message for sending. Return its request id (16 bytes); `events` reports the outcome.

        `timestamp`: the message's, in ns, instead of the time of the first attempt.
        """
        request = SendRequest(
            request_id=request_id or request_id_at(time.time_ns(), os.urandom(10)),
            content_topic=content_topic,
            meta=meta,
            ephemeral=ephemeral,
            timestamp=timestamp,
        )
        await asyncio.shield(self._core.send((await self._app()).app, request, payload))
        return request.request_id

    async def pending(self) -> PendingReply:
        """List this process's sends that have no final event yet, oldest first."""
        return pending_reply(self._core.pending((await self._app()).app))

    async def find_send(self, request_id: bytes) -> PendingSend | None:
        """Return this process's send of this id, final or not; None if it is unknown, or forgotten after a
        day."""
        return await self._core.find_send((await self._app()).app, request_id)

    async def cancel(self, request_id: bytes) -> bool:
        """Cancel a send before its first attempt; `message_cancelled` follows. Return False if it is too late
        or the id is unknown.
        """
        return await self._core.cancel((await self._app()).app, request_id)

    async def events(self) -> AsyncIterator[LocalEvent]:
        """Iterate over this app's events in order, until `stop`."""
        app = await self._app()
        async for event in app.events():
            yield event

    def status(self) -> StatusReply:
        """Return the connection status and the health of every content topic in use."""
        return self._core.status(self._local.app if self._local is not None else None)

    async def node_info(self, ids: Iterable[str] | None = None) -> dict[str, object]:
        """Return the kernel's node information by id (`MyPeerId`, `MyMultiaddresses`, …)."""
        return await self._core.node_info(tuple(ids) if ids is not None else None)

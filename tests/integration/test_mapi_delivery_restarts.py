"""kill -9 at every state of a send: whatever dies, each accepted send has exactly one fate, and goes out as
one message.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from ipc_schema.mapi.methods import StatusReply
from logos_client.events import (
    Event,
    MessageCancelled,
    MessageError,
    MessagePropagated,
    MessageReceived,
    MessageSent,
    MessageUnconfirmed,
)
from logos_client.messaging import MessagingClient
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import TOPIC, telling

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FINAL = MessageSent | MessageUnconfirmed | MessageError | MessageCancelled


class Sender:
    """A node whose only peer is a store. `victims` is what a state kills."""

    def __init__(self, kernel: KernelProcess, mapi: MapiProcess, store: KernelProcess) -> None:
        self.kernel = kernel
        self.mapi = mapi
        self.store = store
        self.victims: Callable[[], None] = lambda: None

    def kill_kernel(self) -> None:
        if self.kernel_lives:
            self.kernel.stop(signal.SIGKILL)

    @property
    def kernel_lives(self) -> bool:
        assert self.kernel.process is not None
        return self.kernel.process.poll() is None


class Watched:
    """The app: all its events, in order."""

    def __init__(self, client: MessagingClient) -> None:
        self.client = client
        self.events: list[Event] = []
        self._more = asyncio.Event()

    async def watch(self) -> None:
        async for event in self.client:
            self.events.append(event)
            self._more.set()

    def fates(self, request_id: bytes) -> list[Event]:
        return [event for event in self.events if isinstance(event, FINAL) and event.request_id == request_id]

    def received(self, payload: bytes) -> list[bytes]:
        """The hashes under which it was received."""
        return [
            event.message_hash
            for event in self.events
            if isinstance(event, MessageReceived) and event.payload == payload
        ]

    async def until(self, check: Callable[[], object], timeout: float = 60.0) -> None:
        """Until it holds for the events."""
        async with asyncio.timeout(timeout):
            while not check():
                self._more.clear()
                await self._more.wait()

    async def send(self, payload: bytes) -> bytes:
        return await self.client.send(TOPIC, payload, timeout=30)

    async def until_status(self, check: Callable[[StatusReply], bool]) -> None:
        until = time.monotonic() + 30
        while not check(status := await self.client.status(timeout=30)):
            assert time.monotonic() < until, status
            await asyncio.sleep(0.05)


@asynccontextmanager
async def watched(sender: Sender) -> AsyncIterator[Watched]:
    await sender.mapi.ready()
    async with MessagingClient.connect(sender.mapi.run_dir, name="app", timeout=30) as client:
        assert await client.subscribe(TOPIC, timeout=30) == {}
        app = Watched(client)
        watching = asyncio.create_task(app.watch())
        try:
            yield app
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def state_of(app: Watched, request_id: bytes) -> str:
    """Where a send stands; empty: it is final."""
    sends = (await app.client.pending(timeout=30)).sends
    return next((send.state for send in sends if send.request_id == request_id), "")


async def until_state(app: Watched, request_id: bytes, state: str) -> None:
    """Wait until a send stands there."""
    until = time.monotonic() + 20
    while (found := await state_of(app, request_id)) != state:
        assert time.monotonic() < until, found
        await asyncio.sleep(0.02)


def disconnected(status: StatusReply) -> bool:
    return status.connection == "Disconnected"


def meshed(status: StatusReply) -> bool:
    return status.topics.get(TOPIC) == "MINIMALLY_HEALTHY"


def said(app: Watched, request_id: bytes, kind: type[MessagePropagated]) -> bool:
    """Whether the app heard so of a send."""
    return any(isinstance(event, kind) and event.request_id == request_id for event in app.events)


# Each brings a send into a state and kills the victims there; what it took away for that, it brings back.


async def parked(sender: Sender, app: Watched) -> bytes:
    sender.kill_kernel()
    await app.until_status(disconnected)
    request_id = await app.send(b"parked")
    await until_state(app, request_id, "parked")
    sender.victims()
    await asyncio.to_thread(sender.kernel.start)
    return request_id


async def attempted(sender: Sender, app: Watched) -> bytes:
    assert sender.kernel.process is not None
    sender.kernel.process.send_signal(signal.SIGSTOP)
    request_id = await app.send(b"attempted")
    await until_state(app, request_id, "attempted")
    sender.victims()
    if sender.kernel.process.poll() is None:
        sender.kernel.process.send_signal(signal.SIGCONT)
    return request_id


async def retry(sender: Sender, app: Watched) -> bytes:
    sender.store.stop(signal.SIGKILL)
    await app.until_status(disconnected)
    request_id = await app.send(b"retry")
    await until_state(app, request_id, "retry")
    sender.victims()
    await asyncio.to_thread(sender.store.start)
    return request_id


async def propagated(sender: Sender, app: Watched) -> bytes:
    request_id = await app.send(b"propagated")
    await app.until(partial(said, app, request_id, MessagePropagated))
    assert await state_of(app, request_id) == "propagated"
    sender.victims()
    return request_id


@contextmanager
def network(directory: Path) -> Iterator[Sender]:
    with socket.socket() as probe:  # the store comes back where it was
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--store=true", "--shard=0", f"--tcp-port={port}", "--ip-colocation-limit=0")
    with (
        KernelProcess(directory / "s", *options) as store,
        KernelProcess(directory / "a", f"--staticnode={store.address()}") as kernel,
        MapiProcess(directory / "a") as mapi,
        telling(store.log, kernel.log, mapi.log),
    ):
        yield Sender(kernel, mapi, store)


@pytest.mark.parametrize("victims", [("mapi",), ("kernel",), ("mapi", "kernel")], ids="+".join)
@asyncio_test(115)
async def test_one_fate_whatever_is_killed_in_whatever_state(
    tmp_path: Path, victims: tuple[str, ...]
) -> None:
    states: tuple[Callable[[Sender, Watched], Awaitable[bytes]], ...] = (
        parked, attempted, retry, propagated,
    )  # fmt: skip
    with network(tmp_path) as sender:

        def kill() -> None:
            if "mapi" in victims:
                sender.mapi.kill()
            if "kernel" in victims:
                sender.kill_kernel()
            if "mapi" in victims:
                sender.mapi.start()

        sender.victims = kill
        async with watched(sender) as app:
            sends: dict[str, bytes] = {}
            for bring in states:
                await app.until_status(meshed)
                sends[bring.__name__] = request_id = await bring(sender, app)
                if not sender.kernel_lives:
                    await asyncio.to_thread(sender.kernel.start)
                if bring is not states[-1]:
                    await app.until(partial(said, app, request_id, MessagePropagated))
            for state, request_id in sends.items():
                await app.until(lambda: app.fates(request_id) and app.received(state.encode()))  # noqa: B023
            await app.send(b"after it")
            await app.until(lambda: app.received(b"after it"))
            for state, request_id in sends.items():
                # A store takes nothing that is older than 20 s: on a slow machine it may be too late.
                (fate,) = app.fates(request_id)
                assert isinstance(fate, MessageSent | MessageUnconfirmed), (state, fate)
                if state == "parked":
                    assert isinstance(fate, MessageSent), "its time begins with the first attempt"
                assert len(app.received(state.encode())) == 1, state
                assert await state_of(app, request_id) == ""

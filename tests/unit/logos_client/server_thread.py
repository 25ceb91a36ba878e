"""A test server on a loop in another thread, for clients that block the test's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from tests.unit.logos_client.server import ContractServer

S = TypeVar("S", bound=ContractServer)
T = TypeVar("T")


class Served(Generic[S]):
    """The server, which belongs to its loop: reach it with `do`."""

    def __init__(self, server: S, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self._loop = loop

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    def do(self, work: Callable[[S], T]) -> T:
        """Run something with the server, in its thread; what it returned."""

        async def run() -> T:
            return work(self.server)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)


@contextmanager
def served(make: Callable[[], S]) -> Iterator[Served[S]]:
    """Run the server that `make` gives, on a loop of its own."""
    started: list[Any] = []
    up = threading.Event()

    async def main() -> None:
        server = make()
        stop = asyncio.Event()
        started.extend((server, asyncio.get_running_loop(), stop))
        up.set()
        try:
            await stop.wait()
        finally:
            server.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="test server")
    thread.start()
    try:
        assert up.wait(10)
        yield Served(started[0], started[1])
    finally:
        if started:
            started[1].call_soon_threadsafe(started[2].set)
        thread.join(10)

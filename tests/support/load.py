"""A steady load: numbered messages, published by a kernel's own client at a fixed rate."""

from __future__ import annotations

import asyncio
import contextlib
import time

from logos_client.exceptions import NoPeersError
from logos_client.kernel import KernelClient
from tests.support.nodes import TOPIC


class Load:
    """Publishes message after message; `sent` says when each was stamped (ns), by payload."""

    def __init__(
        self, kernel: KernelClient, rate: float = 200.0, size: int = 200, topic: str = TOPIC
    ) -> None:
        """`rate` in messages a second, `size` in bytes."""
        self._kernel = kernel
        self._interval = 1 / rate
        self._size = size
        self._topic = topic
        self.sent: dict[bytes, int] = {}
        self._wanted: list[tuple[int, asyncio.Event]] = []

    async def run(self, count: int) -> None:
        """Publish `count` more messages. A message that finds no peers counts as published."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(count):
            payload = (b"%08d" % len(self.sent)).ljust(self._size, b".")
            stamp = time.time_ns()
            with contextlib.suppress(NoPeersError):
                await self._kernel.publish(self._topic, payload, timestamp=stamp)
            self.sent[payload] = stamp
            for number, event in self._wanted:
                if len(self.sent) >= number:
                    event.set()
            due += self._interval
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def reached(self, count: int) -> None:
        """Wait until `count` messages are out."""
        event = asyncio.Event()
        self._wanted.append((count, event))
        if len(self.sent) < count:
            await event.wait()

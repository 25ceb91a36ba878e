"""Query the node every two seconds for all watchers together; without watchers, not at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any, Final, NamedTuple

from logos_client.exceptions import LogosError
from logos_gateway.node_links import NodeLinks
from logos_gateway.operator.figures import node_figures
from logos_gateway.operator.scrape import Scraper

log = logging.getLogger(__name__)

BEAT_SECONDS: Final = 2.0
_PEERS_EVERY: Final = 5
"""In beats: scores change without an event, and the list of peers is long."""


class Beat(NamedTuple):
    """What was observed. `health`, `peers`, `apps`: None if not requested, or not answered."""

    number: int
    figures: dict[str, Any]
    health: dict[str, Any] | None
    peers: list[dict[str, Any]] | None
    apps: dict[str, Any] | None


class Pulse:
    """Poll while there is a reader; a slow reader misses beats, and delays no other."""

    def __init__(self, links: NodeLinks, scraper: Scraper, *, seconds: float = BEAT_SECONDS) -> None:
        self._links = links
        self._scraper = scraper
        self._seconds = seconds
        self._readers = 0
        self._last: Beat | None = None
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def beats(self) -> AsyncGenerator[Beat, None]:
        """Yield the last beat, and each new one."""
        self._readers += 1
        if self._task is None:
            self._last = None
            self._task = asyncio.get_running_loop().create_task(self._run(), name="pulse")
        seen = -1
        try:
            while True:
                came = self._came
                if self._last is not None and self._last.number > seen:
                    seen = self._last.number
                    yield self._last
                else:
                    await came.wait()
        finally:
            self._readers -= 1
            if not self._readers:
                await self.close()

    async def close(self) -> None:
        """Stop polling."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        number = 0
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                self._last = await self._look(number)
            except Exception:
                # Readers must not wait for a task that has ended: the next one may succeed.
                log.exception("a look at the node has failed")
            self._came.set()
            self._came = asyncio.Event()
            number += 1
            await asyncio.sleep(max(self._seconds / 4, self._seconds - (loop.time() - begun)))

    async def _look(self, number: int) -> Beat:
        figures: dict[str, Any] = {"atMs": time.time_ns() // 1_000_000}
        figures |= node_figures(await self._scraper.scrape())
        health = peers = None
        if self._links.kernel_seen:
            kernel = self._links.kernel
            with contextlib.suppress(LogosError):  # the stream itself says that the kernel is away
                async with asyncio.timeout(self._seconds):
                    health = (await kernel.health()).to_body()
                    if number % _PEERS_EVERY == 0:
                        peers = [one.to_body() for one in await kernel.peers()]
        return Beat(number, figures, health, peers, await self._scraper.apps())

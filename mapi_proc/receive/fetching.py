"""Query stores for a time span: all connected ones at once, hashes first, then the bodies wanted.

Stores differ in what they hold: one restarted a minute ago answers as readily as one that was there all the
time. So every store is read to its end, and the union is delivered. Each has its own time-outs; once the
first has answered completely the others get a little longer, so that one that hangs does not delay the
rest.

A page of bodies is delivered before the next one is requested, and none is requested while the disk is
behind: a day's worth of messages needs the memory of one page per store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from ipc_schema.kernel.store import StoredMessage
from mapi_proc.receive.stores import StorePeer

TOPICS_A_QUERY: Final = 10
"""Most content topics in one query: what servers accept (nwaku, go-waku)."""
HASHES_A_QUERY: Final = 100
"""Most bodies in one request: what servers answer on one page."""
LAG_S: Final = 5.0
"""Least extra time for the other stores once the first has answered."""
_CLAIM_S: Final = 3.0
"""How long to wait for a body requested from another store before requesting it from this one too."""


def chunked(topics: Iterable[str]) -> list[list[str]]:
    """Split content topics into groups that servers accept."""
    ordered = sorted(topics)
    return [ordered[start : start + TOPICS_A_QUERY] for start in range(0, len(ordered), TOPICS_A_QUERY)]


async def fetch(
    stores: Sequence[StorePeer],
    topics: Iterable[str],
    start_ns: int,
    end_ns: int,
    *,
    room: Callable[[], Awaitable[None]],
    wanted: Callable[[bytes], bool],
    deliver: Callable[[StoredMessage], None],
    lag: float = LAG_S,
) -> list[StorePeer]:
    """Deliver every message in that time span that is `wanted` (by hash), oldest first within a page.

    `room()` returns when more can be taken. Return the stores that answered completely; what the others
    delivered until then is not wanted again the next time.
    """
    portions = chunked(topics)
    shared = _Shared(room, wanted, deliver, min(_CLAIM_S, lag))
    tasks = {
        asyncio.ensure_future(_read(store, portions, (start_ns, end_ns), shared)): store for store in stores
    }
    loop = asyncio.get_running_loop()
    began, until = loop.time(), None
    answered: set[StorePeer] = set()
    pending = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(
                pending,
                timeout=None if until is None else max(0.0, until - loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            answered |= {tasks[task] for task in done if task.result()}
            if not done:
                break
            if answered and until is None:
                until = loop.time() + max(lag, loop.time() - began)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [store for store in stores if store in answered]


class _Shared:
    """Shared by the readers of one fetch: which bodies are being requested, so that each travels once."""

    def __init__(
        self,
        room: Callable[[], Awaitable[None]],
        wanted: Callable[[bytes], bool],
        deliver: Callable[[StoredMessage], None],
        patience: float,
    ) -> None:
        self.room = room
        self._patience = patience
        self.wanted = wanted
        self._deliver = deliver
        self.claimed: set[bytes] = set()
        self._released = asyncio.Condition()

    async def bodies(self, store: StorePeer, missing: list[bytes]) -> bool:
        """Deliver what the store has of these. Return False if it did not answer."""
        if not missing:
            return True
        self.claimed.update(missing)
        try:
            found = await store.messages(missing)
        finally:
            self.claimed.difference_update(missing)
        if found is not None:
            for message in sorted(found, key=lambda stored: stored.message.timestamp):
                if self.wanted(message.message_hash):  # it may have arrived another way meanwhile
                    self._deliver(message)
        async with self._released:
            self._released.notify_all()
        return found is not None

    async def wait_for(self, hashes: Sequence[bytes]) -> None:
        """Wait until no other store is being asked for these, or for long enough."""
        try:
            async with asyncio.timeout(self._patience), self._released:
                await self._released.wait_for(lambda: self.claimed.isdisjoint(hashes))
        except TimeoutError:
            pass  # the other store hangs


async def _read(store: StorePeer, portions: list[list[str]], time: tuple[int, int], shared: _Shared) -> bool:
    """Read one store. Return False if it did not answer completely."""
    left: list[bytes] = []
    for portion in portions:
        hashes = await store.hashes(portion, *time)
        if hashes is None:
            return False
        unknown = [digest for digest in hashes if shared.wanted(digest)]
        for at in range(0, len(unknown), HASHES_A_QUERY):
            await shared.room()
            wanted = [digest for digest in unknown[at : at + HASHES_A_QUERY] if shared.wanted(digest)]
            left += [digest for digest in wanted if digest in shared.claimed]
            if not await shared.bodies(store, [digest for digest in wanted if digest not in shared.claimed]):
                return False
    if any(map(shared.wanted, left)):
        await shared.wait_for(left)
    for at in range(0, len(left), HASHES_A_QUERY):
        await shared.room()
        wanted = [digest for digest in left[at : at + HASHES_A_QUERY] if shared.wanted(digest)]
        if not await shared.bodies(store, wanted):
            return False
    return True

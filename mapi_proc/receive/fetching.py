"""Asking stores for a span of time: all connected ones at once, hashes first, then the bodies wanted.

Stores differ in what they hold: one that was restarted a minute ago answers as readily as one that was there
all the time. So every store is read to its end and what is delivered is the union. Each has its own
time-outs; once the first has answered whole, the others have a little longer, so that one that hangs holds
nothing up.

A portion of bodies is delivered before the next one is asked for, and none is asked for while the disk is
behind: a day's worth of messages passes through the memory of one portion per store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

from ipc_schema.kernel.store import StoredMessage

__all__ = ["HASHES_A_QUERY", "LAG_S", "TOPICS_A_QUERY", "FetchedHistory", "Store", "chunked", "fetch"]

TOPICS_A_QUERY: Final = 10
"""Content topics in one query: what servers take (nwaku, go-waku)."""
HASHES_A_QUERY: Final = 100
"""Bodies asked for at once: what servers answer on one page."""
LAG_S: Final = 5.0
"""How much longer than the first store the others may take, at least."""
_CLAIM_S: Final = 3.0
"""How long a body that another store was asked for is waited for before it is asked for here too."""


class Store(Protocol):
    """One connected store peer, asked through the kernel. None: it gave no whole answer."""

    @property
    def connected(self) -> float:
        """For how many seconds it has been connected without a break."""
        ...

    async def hashes(
        self, shard: int, topics: Sequence[str], start_ns: int, end_ns: int
    ) -> list[bytes] | None:
        """The hashes of all messages of these content topics in that time."""
        ...

    async def messages(self, shard: int, hashes: Sequence[bytes]) -> list[StoredMessage] | None:
        """Those of these messages (at most `HASHES_A_QUERY`) that it has."""
        ...

    async def count(self, shard: int, start_ns: int, end_ns: int, most: int) -> int | None:
        """How many messages of the shard it has of that time, whatever their topic; `most` ends the count."""
        ...


class FetchedHistory(Protocol):
    """Access to the connected stores."""

    def stores(self, shard: int) -> Sequence[Store]:
        """The stores to ask about a shard now, a bounded number, the best first."""
        ...


def chunked(topics: Iterable[str]) -> list[list[str]]:
    """Content topics in the portions that servers take."""
    ordered = sorted(topics)
    return [ordered[start : start + TOPICS_A_QUERY] for start in range(0, len(ordered), TOPICS_A_QUERY)]


async def fetch(
    stores: Sequence[Store],
    shard: int,
    topics: Iterable[str],
    start_ns: int,
    end_ns: int,
    *,
    room: Callable[[], Awaitable[None]],
    wanted: Callable[[bytes], bool],
    deliver: Callable[[StoredMessage], None],
    lag: float = LAG_S,
) -> list[Store]:
    """Deliver every message of that time that is `wanted` (by its hash), oldest first within a portion.

    `room()` returns when what is delivered can be taken. Returns the stores that answered to the end; what
    the others delivered until then is no longer wanted the next time.
    """
    portions = chunked(topics)
    shared = _Shared(room, wanted, deliver, min(_CLAIM_S, lag))
    tasks = {
        asyncio.ensure_future(_read(store, shard, portions, (start_ns, end_ns), shared)): store
        for store in stores
    }
    loop = asyncio.get_running_loop()
    began, until = loop.time(), None
    answered: set[Store] = set()
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
    """What the readers of one fetch share: which bodies are being asked for, so that each travels once."""

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

    async def bodies(self, store: Store, shard: int, missing: list[bytes]) -> bool:
        """Deliver what the store has of these. False: it did not answer."""
        if not missing:
            return True
        self.claimed.update(missing)
        try:
            found = await store.messages(shard, missing)
        finally:
            self.claimed.difference_update(missing)
        if found is not None:
            for message in sorted(found, key=lambda stored: stored.message.timestamp):
                if self.wanted(message.message_hash):  # it may have come another way meanwhile
                    self._deliver(message)
        async with self._released:
            self._released.notify_all()
        return found is not None

    async def wait_for(self, hashes: Sequence[bytes]) -> None:
        """Until no other store is being asked for these, or long enough."""
        try:
            async with asyncio.timeout(self._patience), self._released:
                await self._released.wait_for(lambda: self.claimed.isdisjoint(hashes))
        except TimeoutError:
            pass  # the other store hangs


async def _read(
    store: Store, shard: int, portions: list[list[str]], time: tuple[int, int], shared: _Shared
) -> bool:
    """Read one store. False: it did not answer to the end."""
    left: list[bytes] = []
    for portion in portions:
        hashes = await store.hashes(shard, portion, *time)
        if hashes is None:
            return False
        unknown = [digest for digest in hashes if shared.wanted(digest)]
        for at in range(0, len(unknown), HASHES_A_QUERY):
            await shared.room()
            wanted = [digest for digest in unknown[at : at + HASHES_A_QUERY] if shared.wanted(digest)]
            left += [digest for digest in wanted if digest in shared.claimed]
            if not await shared.bodies(
                store, shard, [digest for digest in wanted if digest not in shared.claimed]
            ):
                return False
    if any(map(shared.wanted, left)):
        await shared.wait_for(left)
    for at in range(0, len(left), HASHES_A_QUERY):
        await shared.room()
        wanted = [digest for digest in left[at : at + HASHES_A_QUERY] if shared.wanted(digest)]
        if not await shared.bodies(store, shard, wanted):
            return False
    return True

"""Asking stores for a span of time: hashes first, then the bodies of those that are wanted, in portions.

A portion of bodies is delivered before the next one is asked for, and none is asked for while the disk is
behind: a day's worth of messages passes through the memory of one portion.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

from ipc_schema.kernel.store import StoredMessage

__all__ = ["HASHES_A_QUERY", "TOPICS_A_QUERY", "History", "chunked", "fetch"]

TOPICS_A_QUERY: Final = 10
"""Content topics in one query: what servers take (nwaku, go-waku)."""
HASHES_A_QUERY: Final = 100
"""Bodies asked for at once: what servers answer on one page."""


class History(Protocol):
    """Stores, asked through the kernel. None, or an IpcError mapped to it: no store gave a whole
    answer now.
    """

    async def hashes(
        self, shard: int, topics: Sequence[str], start_ns: int, end_ns: int
    ) -> list[bytes] | None:
        """The hashes of all messages of these content topics in that time."""
        ...

    async def messages(self, shard: int, hashes: Sequence[bytes]) -> list[StoredMessage] | None:
        """Those of these messages (at most `HASHES_A_QUERY`) that a store has."""
        ...


def chunked(topics: Iterable[str]) -> list[list[str]]:
    """Content topics in the portions that servers take."""
    ordered = sorted(topics)
    return [ordered[start : start + TOPICS_A_QUERY] for start in range(0, len(ordered), TOPICS_A_QUERY)]


async def fetch(
    history: History,
    shard: int,
    topics: Iterable[str],
    start_ns: int,
    end_ns: int,
    *,
    room: Callable[[], Awaitable[None]],
    wanted: Callable[[bytes], bool],
    deliver: Callable[[StoredMessage], None],
) -> bool:
    """Deliver every message of that time that is `wanted` (by its hash), oldest first within a portion.

    `room()` returns when what is delivered can be taken. False: no store could be asked to the end; what was
    delivered until then is no longer wanted the next time.
    """
    for portion in chunked(topics):
        hashes = await history.hashes(shard, portion, start_ns, end_ns)
        if hashes is None:
            return False
        unknown = [digest for digest in hashes if wanted(digest)]
        for at in range(0, len(unknown), HASHES_A_QUERY):
            await room()
            missing = [digest for digest in unknown[at : at + HASHES_A_QUERY] if wanted(digest)]
            if not missing:
                continue
            found = await history.messages(shard, missing)
            if found is None:
                return False
            for message in sorted(found, key=lambda stored: stored.message.timestamp):
                if wanted(message.message_hash):  # it may have come another way meanwhile
                    deliver(message)
    return True

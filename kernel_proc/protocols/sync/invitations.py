"""The messages that peers may transfer to us: those that a session asked them for. Pure.

The reference accepts whatever arrives. We cannot go by hash alone: a side that lists its messages, or lists
none, thereby asks for all others that its peer has, and these arrive before the peer's own list or without
one. So a session grants ranges of time and single messages, and each grant expires some time after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from kernel_proc.protocols.sync.keys import SyncKey, make_key, time_of

GRACE: Final = 120.0
"""Seconds after the end of a session in which its messages may still arrive."""
MAX_RANGES: Final = 100_000
"""Ranges of a grant; a session cannot ask for more (`ReconcileLimits.answer_bytes`)."""
MAX_PEERS: Final = 64
"""Peers with a grant. The one that ends first is forgotten."""
MAX_KEYS: Final = 400_000
"""Single messages and ranges of all grants whose session has ended; the largest are forgotten first."""


class TransferVerdict(StrEnum):
    """The verdict on a transferred message."""

    TAKEN = "taken"
    UNASKED = "unasked"
    """No session with the peer asked for it."""
    OVER_LIMIT = "over_limit"
    """The session has got as many messages or bytes as it may."""


class Grant:
    """What one session asked for."""

    def __init__(self, messages: int, size: int, before: Grant | None = None) -> None:
        self._messages = messages
        self._bytes = size
        self._lows, self._highs = before.ranges if before else ([], [])
        self.wanted: set[SyncKey] = before.wanted if before else set()
        """Single messages; shared with the session, which adds to it."""
        self.taken = 0
        self.settled = 0
        """How many of those taken were archived, or could not be."""
        self.streams = 0
        self.streams_ended = 0
        """Streams on which the peer transfers, and how many of them have ended."""
        self.changed: Callable[[], None] = lambda: None
        """Called after a change of `settled`; set by the session that waits for its messages."""
        self.ends: float | None = None
        """When it ends; None: the session is still in progress."""

    @property
    def ranges(self) -> tuple[list[SyncKey], list[SyncKey]]:
        """The lower and the upper bounds of the invited ranges."""
        return self._lows, self._highs

    @property
    def size(self) -> int:
        """Number of keys in memory."""
        return len(self.wanted) + 2 * len(self._lows)

    def invite(self, low: SyncKey, high: SyncKey) -> None:
        """Add a range, merged with those that it touches."""
        start = bisect_right(self._lows, low)
        if start and self._highs[start - 1] >= low:
            start -= 1
            low = self._lows[start]
        end = bisect_right(self._lows, high)
        if end > start:
            high = max(high, self._highs[end - 1])
        self._lows[start:end], self._highs[start:end] = [low], [high]
        if len(self._lows) > MAX_RANGES:
            self._lows, self._highs = [low], [high]

    def judge(self, timestamp: int, message_hash: bytes, size: int) -> TransferVerdict:
        """Decide on a message, and count it if it is taken."""
        key = make_key(timestamp, message_hash)
        if key not in self.wanted and not self._invited(key):
            return TransferVerdict.UNASKED
        if self.taken >= self._messages or size > self._bytes:
            return TransferVerdict.OVER_LIMIT
        self.taken += 1
        self._bytes -= size
        self.wanted.discard(key)
        return TransferVerdict.TAKEN

    def settle(self) -> None:
        """Record that a message that was taken was archived, or could not be."""
        self.settled += 1
        self.changed()

    @property
    def open(self) -> bool:
        """Whether more may come, as far as is known."""
        if self.wanted or self.settled < self.taken or self.streams > self.streams_ended:
            return True
        return bool(self._lows) and not self.streams_ended

    def stream_ended(self) -> None:
        """Record that a stream of the peer has ended."""
        self.streams_ended += 1
        self.changed()

    def _invited(self, key: SyncKey) -> bool:
        at = bisect_right(self._lows, key) - 1
        return at >= 0 and time_of(key) <= time_of(self._highs[at])


class Grants:
    """The grants of all peers, one for each; `clock` in seconds."""

    def __init__(self, clock: Callable[[], float], *, messages: int, size: int) -> None:
        self._clock = clock
        self._messages = messages
        self._bytes = size
        self._grants: dict[str, Grant] = {}

    def __len__(self) -> int:
        return len(self._grants)

    def open(self, peer_id: str) -> Grant:
        """Begin a session. What the last one with this peer asked for may still arrive."""
        self._expire()
        before = self._grants.pop(peer_id, None)
        ended_grants = {one: grant.size for one, grant in self._grants.items() if grant.ends is not None}
        while sum(ended_grants.values()) > MAX_KEYS:
            largest = max(ended_grants, key=ended_grants.__getitem__)
            del self._grants[largest], ended_grants[largest]
        if len(self._grants) >= MAX_PEERS:
            ended = (one for one, grant in self._grants.items() if grant.ends is not None)
            del self._grants[next(ended, next(iter(self._grants)))]
        grant = self._grants[peer_id] = Grant(self._messages, self._bytes, before)
        return grant

    def close(self, grant: Grant) -> None:
        """End a session: its messages may arrive for a while."""
        grant.ends = self._clock() + GRACE

    def find(self, peer_id: str) -> Grant | None:
        """Return the peer's grant, None if it has none."""
        self._expire()
        return self._grants.get(peer_id)

    def _expire(self) -> None:
        now = self._clock()
        for peer_id in [
            one for one, grant in self._grants.items() if grant.ends is not None and grant.ends <= now
        ]:
            del self._grants[peer_id]

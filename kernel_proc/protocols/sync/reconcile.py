"""One session of reconciliation, as nwaku runs it. Pure: time and what we have are passed in.

The two sides write frames in turn. Each frame covers a span of time with ranges; a range is skipped (nothing
to do there), a fingerprint (the other side compares it with its own), or an item set (the other side compares
it with its own, and both know what to give). Ranges whose fingerprints differ are cut in eight until they
hold few messages. A session keeps no state but its totals: whatever it does not get to is found by the next
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from kernel_proc.protocols.sync.codec import ItemSet, SyncPayload, SyncRange
from kernel_proc.protocols.sync.index import KeyView, MergedView
from kernel_proc.protocols.sync.keys import HASH_SIZE, MAX_TIME, SyncKey, key_at, time_of

ITEM_SET_LIMIT: Final = 100
"""Up to this many messages of a range are listed; nwaku's threshold."""
PARTITIONS: Final = 8
STEP: Final = 2000
"""Work between two pauses of `answer`, in keys."""
_RANGE_WORK: Final = 20
"""Work for one range besides its keys."""
_RANGE_BYTES: Final = 48
"""About the size of a fingerprint range on the wire."""
_KEY_BYTES: Final = 41
"""About the size of a key on the wire."""


class SyncWindow(NamedTuple):
    """The time span to compare: older messages may be gone, newer ones may still be on their way."""

    start: int
    end: int

    @classmethod
    def before(cls, now: int, seconds: float, jitter: float) -> SyncWindow:
        """Return the window of a session that starts now. Times in ns, durations in seconds."""
        end = max(0, min(now - int(jitter * 1e9), MAX_TIME))
        return cls(max(0, end - int(seconds * 1e9)), end)


@dataclass(frozen=True, slots=True)
class ReconcileLimits:
    """Limits of one session. Beyond them the rest is left to the next session."""

    answer_bytes: int = 15 << 20
    """Of one frame. A thousand differences among a million messages take 9 MB."""
    item_set: int = 20_000
    """Messages of one item set. nwaku has no such limit: it answers a set of one message with all of its
    hour. We cut the range instead, which costs a round trip and no megabytes."""
    to_send: int = 100_000
    """Messages that one session may find to send."""
    wanted: int = 200_000
    """Messages that a peer may list and not have sent yet: it may list what does not exist."""
    work: int = 4_000_000
    """Keys to look at for one frame: each of a hostile one's ranges may mean all that we have."""


@dataclass(slots=True)
class SyncTotals:
    """What a session found."""

    round_trips: int = 0
    to_send: list[SyncKey] = field(default_factory=list)
    """What only we have."""
    wanted: set[SyncKey] = field(default_factory=set)
    """What only the other side has, as far as it has listed it and not yet sent it."""
    lacking: int = 0
    """Number of messages that were ever put into `wanted`."""
    cut_short: bool = False
    """A limit was reached: another session would find more."""


def common_topics(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...] | None:
    """Return the topics of both sides; an empty list means all. None: there is no common topic."""
    if not ours or not theirs:
        return tuple(ours or theirs)
    found = frozenset(theirs)
    return tuple(topic for topic in ours if topic in found) or None


def partitions(low: SyncKey, high: SyncKey) -> list[tuple[SyncKey, SyncKey]]:
    """Cut a range into eight of equal time, the remainder added to the first ones. Empty if it is shorter
    than eight nanoseconds."""
    start, length = time_of(low), time_of(high) - time_of(low)
    if length < PARTITIONS:
        return []
    part, rest = divmod(length, PARTITIONS)
    bounds = [key_at(start)]
    for number in range(PARTITIONS):
        start += part + (number < rest)
        bounds.append(key_at(start))
    return list(pairwise(bounds))


class TopicFilter(NamedTuple):
    """What both sides compare; empty: all topics."""

    pubsub_topics: tuple[str, ...] = ()
    content_topics: tuple[str, ...] = ()


Invite = Callable[[SyncKey, SyncKey], None]
"""Called before a frame is written with each range in which it asks for whatever we lack, unlisted: what the
other side then sends may come before its own list, or without one."""


class Reconciliation:
    """Our side of a session. `invite`: see `Invite`."""

    def __init__(
        self,
        window: SyncWindow,
        own: TopicFilter,
        *,
        invite: Invite,
        limits: ReconcileLimits | None = None,
    ) -> None:
        self._view: KeyView = MergedView(())
        self._window = window
        self._own = own
        self._invite = invite
        self._limits = limits or ReconcileLimits()
        self._out: list[SyncRange] = []
        self._room = self._work = 0
        self.totals = SyncTotals()

    def first(self, view: KeyView) -> SyncPayload:
        """Return the frame that opens a session: the fingerprint of the whole window."""
        self._view = view
        low, high = key_at(self._window.start), key_at(self._window.end)
        found = self._view.summary(low, high)
        return self._payload([SyncRange(low, high, found.fingerprint.to_bytes(HASH_SIZE, "big"))])

    def answer(self, payload: SyncPayload, view: KeyView) -> Iterator[SyncPayload | None]:
        """Yield None while working, for pauses, then our frame. `view` is what we have of the common topics.

        A frame without ranges ends the session: write it and stop. A frame with nothing but skips is not
        answered: nothing is yielded.
        """
        self._view = view
        self.totals.round_trips += 1
        ranges = payload.ranges
        if all(one.content is None for one in ranges):
            return
        self._out, self._room, self._work = [], self._limits.answer_bytes, self._limits.work
        start = key_at(self._window.start)
        leading, paused = True, self._work
        for one in ranges:
            self._work -= _RANGE_WORK
            if paused - self._work > STEP:
                paused = self._work
                yield None
            # Older than our window: we would ask for messages that we are about to forget.
            leading = leading and (one.content is None or one.high < start)
            if leading or one.content is None:
                self._skip(one.low, one.high)
            elif self._room <= 0 or self._work <= 0:
                self.totals.cut_short = True
                self._skip(one.low, one.high)
            elif isinstance(one.content, bytes):
                self._fingerprint(one.low, one.high, int.from_bytes(one.content, "big"))
            else:
                self._items(one.low, one.high, one.content)
        # Nothing but skips: all is settled. WAKU-SYNC ends a session with an empty payload.
        if all(one.content is None for one in self._out):
            self._out = []
        yield self._payload(self._out)

    def _payload(self, ranges: Sequence[SyncRange]) -> SyncPayload:
        if not ranges:
            return SyncPayload()
        return SyncPayload(self._own.pubsub_topics, self._own.content_topics, ranges)

    # --- one range ---

    def _skip(self, low: SyncKey, high: SyncKey) -> None:
        if self._out and self._out[-1].content is None:
            self._out[-1] = SyncRange(self._out[-1].low, high)
        else:
            self._out.append(SyncRange(low, high))

    def _put(self, low: SyncKey, high: SyncKey, content: bytes | ItemSet) -> None:
        self._room -= _RANGE_BYTES
        if isinstance(content, ItemSet):
            self._room -= _KEY_BYTES * len(content.keys)
        self._out.append(SyncRange(low, high, content))

    def _fingerprint(self, low: SyncKey, high: SyncKey, theirs: int) -> None:
        # Range-based set reconciliation (WAKU-SYNC): equal fingerprints mean equal sets; a small range is
        # listed, a large one split, and the other side continues with the parts.
        found = self._view.summary(low, high)
        if found.fingerprint == theirs:
            self._skip(low, high)
        elif found.size <= ITEM_SET_LIMIT:
            self._list(low, high, found.size)
        else:
            self._cut(low, high)

    def _list(self, low: SyncKey, high: SyncKey, count: int) -> None:
        self._work -= count
        self._invite(low, high)
        # Having nothing, we need not see theirs to know what to give: nothing.
        self._put(low, high, ItemSet(self._view.keys(low, high), reconciled=not count))

    def _cut(self, low: SyncKey, high: SyncKey) -> None:
        parts = partitions(low, high)
        if not parts:  # more than a hundred messages in 8 ns: listed, or they would never be compared
            self._list(low, high, 1)
        for start, end in parts:
            found = self._view.summary(start, end)
            if end < key_at(self._window.start):
                self._skip(start, end)
            elif found.size <= ITEM_SET_LIMIT:
                self._list(start, end, found.size)
            else:
                self._put(start, end, found.fingerprint.to_bytes(HASH_SIZE, "big"))

    def _items(self, low: SyncKey, high: SyncKey, theirs: ItemSet) -> None:
        limits, totals = self._limits, self.totals
        count = self._view.summary(low, high).size
        # Their list of a few against our thousands: cut the range instead of listing all of ours.
        if not theirs.reconciled and count > limits.item_set and partitions(low, high):
            self._cut(low, high)
            return
        room = limits.to_send - len(totals.to_send)
        if not room and not theirs.keys:
            totals.cut_short = True
            self._skip(low, high)
            return
        self._work -= min(count, 2 * limits.to_send)
        if count > 2 * limits.to_send:
            # They have (next to) nothing of a long time. What we can send now is at the beginning.
            high_now = self._nearest(low, high, limits.to_send)
            totals.cut_short = True
        else:
            high_now = high
        ours = self._view.keys(low, high_now)
        there, here = set(theirs.keys), set(ours)
        missing = [key for key in ours if key not in there]
        totals.cut_short = totals.cut_short or len(missing) > room
        totals.to_send += missing[:room]
        # A key outside its range would be wanted although we have it.
        lacking = {key for key in there - here if low <= key <= high_now}
        more, room = lacking - totals.wanted, max(0, limits.wanted - len(totals.wanted))
        if len(more) > room:
            lacking.difference_update(sorted(more)[room:])
            totals.cut_short = True
        totals.wanted |= lacking
        totals.lacking += len(lacking)
        # nwaku lists its own in any case. Lacking nothing, we need not: they can work out what we send.
        if theirs.reconciled or not lacking:
            self._skip(low, high)
        else:
            self._put(low, high, ItemSet(ours, reconciled=True))

    def _nearest(self, low: SyncKey, high: SyncKey, most: int) -> SyncKey:
        """Return a bound such that there are at most about `most` messages from `low` to it."""
        while self._view.summary(low, high).size > most:
            middle = (time_of(low) + time_of(high)) // 2
            if middle <= time_of(low):
                break
            high = key_at(middle)
        return high

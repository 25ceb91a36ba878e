"""Catch-up: ask stores for what the live streams may have missed, and only then.

A gap is a time span of one shard in which messages may have been missed: the kernel had no mesh peer, was
restarted, or its replay ring had been trimmed. For each gap all connected stores are asked for all content
topics of the shard, hashes first, then the bodies of unknown ones; the kernel checks every message against
its hash, and each enters the apps' streams once.

A gap is closed by the union of the stores' answers, and only if those are conclusive: a store that was
itself away at the time proves nothing (`witnesses`). A gap that no store can vouch for is in doubt: it is
retried, since stores that held the messages may come back or synchronise; apps are notified after
`DOUBT_NOTIFY_S`, and after `DOUBT_S` it is given up.

A query reaches 40 s before the gap (clock differences, propagation) and 20 s behind it. Stores accept a
message for 20 s (13/WAKU2-STORE), so one that we missed in the gap may reach them after our query.
Therefore the query is repeated once those 20 s are over, and only then is the gap closed.

The network may have been parted in the gap, so that a store which was there heard only its part. While
another store that the node knows is away, the gap stays open for up to `LATE_S`, and that store is queried
when it returns.

The shard's good moment on disk stays before the oldest open gap, so that a restart asks again for what was
not recovered. Whether to catch up at all is the option `catch-up`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ipc_schema.kernel.store import StoredMessage
from mapi_proc.kernel_link.tracker import Missed
from mapi_proc.receive.fetching import fetch
from mapi_proc.receive.stores import StoreHistory, StorePeer
from mapi_proc.receive.witnesses import witnessed
from mapi_proc.receive.worklist import Work, Worklist, WorkVerdict

log = logging.getLogger(__name__)

OVERLAP_NS: Final = 40_000_000_000
AFTER_NS: Final = 20_000_000_000
SETTLE_NS: Final = AFTER_NS + 3_000_000_000
"""How long after a gap's end stores may still accept and archive messages from it."""
_FOLD_NS: Final = 300 * 1_000_000_000
"""Gaps of a shard that follow one another within this time are merged."""
PATIENCE_S: Final = 10.0
"""How long to wait before notifying apps of a gap that may still be recovered."""
DOUBT_NOTIFY_S: Final = 30.0
"""The same for a gap in doubt: by then every configured store has been redialled, and messages in flight to
it are archived."""
DOUBT_S: Final = 300.0
"""How long a gap in doubt is retried."""
LATE_S: Final = 300.0
"""How long a gap for which stores vouched waits for others that are away."""
_LATE_RETRY_S: Final = 5.0
"""When one of those is asked again that did not answer."""
_SPANS: Final = 8
"""Most spans of one gap that are vouched for separately; further ones are merged."""
MAX_GAPS: Final = 64
"""Most open gaps of one shard; further ones are folded into the newest."""


@dataclass(slots=True, eq=False)
class Gap(Work):
    """A gap that is not recovered yet.

    Its time span is on the steady clock; `since` and `next_attempt` are on the running clock.
    """

    shard: int
    from_ns: int
    to_ns: int
    reason: str
    since: float
    spans: list[tuple[int, int]] = field(default_factory=list)
    """The spans it was merged from that no store has vouched for yet."""
    suspected: bool = False
    doubtful: bool = False
    """Stores answered, but none of them was there at the time."""
    notified: bool = False
    recovered: bool = False
    """The first query succeeded; the repeated one is due after `SETTLE_NS`."""
    late: bool = False
    """It is only open for stores that are away."""
    asked: set[str] = field(default_factory=set)
    """The stores that answered."""
    scheduled: bool = False
    """A periodic round: apps are not notified when it fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUpHooks:
    """What catch-up asks of the receive path, and reports to it."""

    topics_on: Callable[[int], set[str]]
    """Return the subscribed content topics of a shard."""
    is_known: Callable[[bytes], bool]
    """Return whether a message, by its hash, has been received."""
    room: Callable[[], Awaitable[None]]
    """Wait until the disk keeps up."""
    deliver: Callable[[int, StoredMessage], None]
    """Take a recovered message of a shard."""
    notify: Callable[[Gap], None]
    """A gap cannot be recovered for now."""
    closed: Callable[[int], None]
    """A gap of a shard is closed: its good moment may advance."""


class CatchUp:
    """The open gaps of all shards, and the loop that closes them."""

    def __init__(
        self,
        setting: str | float,
        history: StoreHistory,
        *,
        clock: Callable[[], float],
        steady: Callable[[], int],
        label: Callable[[int], int],
        hooks: CatchUpHooks,
    ) -> None:
        """`setting`: `on-gap`, `never`, or the seconds between rounds that are made besides (`catch-up`).

        `steady` is the current instant and `label(instant)` its wall-clock time, which stores use (both ns).
        """
        self._recovers = setting != "never"
        self._period = None if isinstance(setting, str) else setting
        self._history = history
        self._clock = clock
        self._now_ns = steady
        self._label = label
        self._hooks = hooks
        self._gaps: Worklist[Gap] = Worklist(self._attempt, clock)
        self._rounds: dict[int, int] = {}
        self.found = 0
        """Gaps found since the start."""
        self.set_online = self._gaps.set_online
        self.run = self._gaps.run

    def __len__(self) -> int:
        return len(self._gaps)

    def add(self, shard: int, missed: Missed) -> None:
        """Add a gap. If gaps are not to be recovered, notify apps at once."""
        log.info("shard %d: messages may be missing (%s)", shard, missed.reason)
        self.found += 1
        span = missed.from_ns, missed.to_ns
        gap = Gap(shard, *span, missed.reason, self._clock(), [span], missed.suspected)
        if not self._recovers:
            self._notify(gap)
            return
        gap.next_attempt = gap.since
        other = self._neighbour(gap)
        if other is not None:
            _fold(gap, other)
            self._gaps.remove(other)
        self._gaps.add(gap)

    def _neighbour(self, gap: Gap) -> Gap | None:
        """Find a gap to merge the new one into."""
        others = [other for other in self._gaps if other.shard == gap.shard]
        for other in others:
            # Links flap, and one outage has several symptoms: one query serves for all.
            open_ = other.recovered or not (other.attempts or other.scheduled)
            if open_ and gap.to_ns - other.from_ns <= _FOLD_NS:
                return other
        if len(others) < MAX_GAPS:
            return None
        # Days without a store: no finer resolution is needed.
        return max(others, key=lambda other: other.to_ns)

    def forget(self, shards: Iterable[int]) -> None:
        """Drop the gaps of shards that no app wants any more."""
        gone = set(shards)
        for gap in self._gaps:
            if gap.shard in gone:
                self._gaps.remove(gap)
        for shard in gone:
            self._rounds.pop(shard, None)

    def oldest(self, shard: int) -> int | None:
        """Return the start of a shard's oldest open gap (ns); None if there is none."""
        return min((gap.from_ns for gap in self._gaps if gap.shard == shard), default=None)

    def wake(self) -> None:
        """Retry failed gaps, and those that wait for stores, now: new peers have appeared."""
        self._gaps.wake(lambda gap: gap.late or not gap.recovered)

    def tick(self, shards: Iterable[int]) -> None:
        """Notify apps of overdue gaps and start periodic rounds. Call it every few seconds."""
        now = self._clock()
        for gap in self._gaps:
            if not gap.recovered and now - gap.since >= (DOUBT_NOTIFY_S if gap.doubtful else PATIENCE_S):
                self._notify(gap)
        if self._period is None:
            return
        now_ns = self._now_ns()
        for shard in shards:
            last = self._rounds.setdefault(shard, now_ns)
            if now_ns - last >= self._period * 1e9 and not any(gap.shard == shard for gap in self._gaps):
                self._rounds[shard] = now_ns
                self._gaps.add(Gap(shard, last, now_ns, "periodic", now, next_attempt=now, scheduled=True))

    def _notify(self, gap: Gap) -> None:
        if not (gap.notified or gap.scheduled or gap.suspected):
            gap.notified = True
            self._hooks.notify(gap)

    async def _attempt(self, gap: Gap) -> WorkVerdict:
        if gap.late:
            return await self._ask_late(gap)
        asked_ns = self._now_ns()
        answered = await self._recover(gap)
        if answered is None:
            return WorkVerdict.FAILED
        if not gap.scheduled:
            gap.spans = [span for span in gap.spans if not await self._vouched(gap, span, answered)]
        gap.doubtful = bool(gap.spans) and not gap.scheduled
        if gap.doubtful and not gap.recovered:
            return self._doubt(gap)
        log.info("shard %d: caught up after %s", gap.shard, gap.reason)
        left = gap.to_ns + SETTLE_NS - asked_ns
        if left > 0 and not gap.scheduled and not gap.recovered:
            gap.recovered = True
            gap.next_attempt = self._clock() + min(left, SETTLE_NS) / 1e9
            return WorkVerdict.LATER
        return self._close(gap) if gap.scheduled else await self._wait_for_stores(gap)

    async def _ask_late(self, gap: Gap) -> WorkVerdict:
        """Query the stores that have returned."""
        returned = self._unasked(gap)
        if returned:
            log.info("shard %d: stores that were away are asked, too (%s)", gap.shard, gap.reason)
            await self._recover(gap, returned)
        return await self._wait_for_stores(gap)

    def _unasked(self, gap: Gap) -> list[StorePeer]:
        return [store for store in self._history.stores(gap.shard) if store.name not in gap.asked]

    async def _wait_for_stores(self, gap: Gap) -> WorkVerdict:
        """Close the gap, unless a store that may hold more has not answered yet or is away."""
        end = gap.since + LATE_S
        if self._clock() >= end or not self._hooks.topics_on(gap.shard):
            return self._close(gap)
        unasked = bool(self._unasked(gap))
        if not unasked and not await self._history.away(gap.shard, self._label(self._now_ns()) / 1e9):
            return self._close(gap)
        gap.late = gap.recovered = True
        if gap.next_attempt > 0.0:  # otherwise it was woken meanwhile
            gap.next_attempt = min(end, self._clock() + _LATE_RETRY_S) if unasked else end
        return WorkVerdict.LATER

    def _close(self, gap: Gap) -> WorkVerdict:
        self._gaps.remove(gap)
        self._hooks.closed(gap.shard)
        return WorkVerdict.DONE

    def _doubt(self, gap: Gap) -> WorkVerdict:
        log.info("shard %d: no store that answered was there (%s)", gap.shard, gap.reason)
        if self._clock() - gap.since < DOUBT_S:
            return WorkVerdict.FAILED
        self._notify(gap)
        return self._close(gap)

    async def _vouched(self, gap: Gap, span: tuple[int, int], stores: Sequence[StorePeer]) -> bool:
        """Return whether a store was there at the time."""
        start, end = span
        age = (self._now_ns() - start) / 1e9
        return not self._hooks.topics_on(gap.shard) or await witnessed(
            stores, self._label(start), self._label(end), age
        )

    async def _recover(self, gap: Gap, stores: Sequence[StorePeer] | None = None) -> list[StorePeer] | None:
        """Query these stores, or all. Return those that answered; None if none did."""
        topics = self._hooks.topics_on(gap.shard)
        if not topics:
            return []
        answered = await fetch(
            self._history.stores(gap.shard) if stores is None else stores,
            topics,
            self._label(gap.from_ns) - OVERLAP_NS,
            self._label(gap.to_ns) + AFTER_NS,
            room=self._hooks.room,
            wanted=lambda digest: not self._hooks.is_known(digest),
            deliver=lambda message: self._hooks.deliver(gap.shard, message),
        )
        gap.asked.update(store.name for store in answered)
        return answered or None


def _fold(gap: Gap, other: Gap) -> None:
    """Merge `other` into `gap`."""
    gap.from_ns, gap.to_ns = min(gap.from_ns, other.from_ns), max(gap.to_ns, other.to_ns)
    gap.suspected = gap.suspected and other.suspected
    gap.spans = sorted(gap.spans + other.spans)
    if len(gap.spans) > _SPANS:
        gap.spans[1:] = [(gap.spans[1][0], max(end for _, end in gap.spans[1:]))]

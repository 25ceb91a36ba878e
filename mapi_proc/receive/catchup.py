"""Catch-up: what the live streams may have missed is asked of stores, and only then.

A gap is time of one shard in which messages may have passed us by: the kernel had no mesh peer, was
restarted, its replay ring had been trimmed. For each gap the stores are asked for all content topics of the
shard, hashes first, bodies of the unknown ones; every message is checked against its hash by the kernel and
enters the apps' streams once.

What is asked for reaches 40 s before the gap (clocks differ, and messages travel) and 20 s behind it. Stores
take a message for 20 s, so one that passed us by in the gap may come to them after we have asked. Therefore
the same is asked once more when those 20 s are over, and only then the gap is closed.

The shard's good moment on disk stays before the oldest open gap, so that a restart asks again for what was
not recovered. When to catch up at all is a policy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from ipc_schema.kernel.store import StoredMessage
from mapi_proc.kernel_link.tracker import Missed

__all__ = [
    "AFTER_NS",
    "OVERLAP_NS",
    "CatchUp",
    "CatchUpPolicy",
    "Gap",
    "History",
    "Never",
    "OnGap",
    "Periodic",
    "catch_up_policy",
    "chunked",
]

log = logging.getLogger(__name__)

OVERLAP_NS: Final = 40_000_000_000
AFTER_NS: Final = 20_000_000_000
TOPICS_A_QUERY: Final = 10
"""Content topics in one query: what servers take (nwaku, go-waku)."""
_RETRY_S: Final = 2.0
_RETRY_MAX_S: Final = 60.0
SETTLE_NS: Final = AFTER_NS + 3_000_000_000
"""How long after a gap's end stores may still take messages of it, and write them down."""
_FOLD_NS: Final = 300 * 1_000_000_000
"""Gaps of a shard that follow one another within this time are asked for as one."""
PATIENCE_S: Final = 10.0
"""How long an app is not told of a gap that may still be recovered."""


class CatchUpPolicy(Protocol):
    """When to ask stores for what may have been missed."""

    @property
    def period(self) -> float | None:
        """Seconds between two rounds also without a gap; None: none."""
        ...

    def wants(self, shard: int, missed: Missed) -> bool:
        """Whether this gap is to be recovered."""
        ...


class OnGap:
    """The default: each gap, and nothing else."""

    period: float | None = None

    def wants(self, shard: int, missed: Missed) -> bool:  # noqa: ARG002
        return True


class Periodic(OnGap):
    """Each gap, and every so many seconds the time since the last round."""

    def __init__(self, period: float) -> None:
        self.period = period


class Never:
    """Gaps are told, not recovered."""

    period: float | None = None

    def wants(self, shard: int, missed: Missed) -> bool:  # noqa: ARG002
        return False


def catch_up_policy(setting: str | float) -> CatchUpPolicy:
    """The policy of the option `catch-up`: `on-gap`, `never`, or the seconds between periodic rounds."""
    if setting == "never":
        return Never()
    return OnGap() if isinstance(setting, str) else Periodic(setting)


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
        """Those of these messages that a store has."""
        ...


@dataclass(slots=True)
class Gap:
    """A gap that is not recovered yet. Times of `since` and `next_attempt` are on the running clock."""

    shard: int
    from_ns: int
    to_ns: int
    reason: str
    since: float
    attempts: int = 0
    next_attempt: float = 0.0
    told: bool = False
    recovered: bool = False
    """It was asked for with success, and waits to be asked for once more."""
    scheduled: bool = False
    """A periodic round: nobody is told when it fails."""


class Recovered(NamedTuple):
    """What one gap brought."""

    asked: int
    new: int


def chunked(topics: Iterable[str]) -> list[list[str]]:
    """Content topics in the portions that servers take."""
    ordered = sorted(topics)
    return [ordered[start : start + TOPICS_A_QUERY] for start in range(0, len(ordered), TOPICS_A_QUERY)]


class CatchUp:
    """The open gaps of all shards, and the loop that closes them."""

    def __init__(
        self,
        policy: CatchUpPolicy,
        history: History,
        *,
        clock: Callable[[], float],
        now_ns: Callable[[], int],
        topics_on: Callable[[int], set[str]],
        is_known: Callable[[bytes], bool],
        deliver: Callable[[int, StoredMessage], None],
        tell: Callable[[Gap], None],
        closed: Callable[[int], None],
    ) -> None:
        """`deliver(shard, message)`: a message that was missed. `tell(gap)`: it cannot be recovered for now.
        `closed(shard)`: its good moment may advance."""
        self._policy = policy
        self._history = history
        self._clock = clock
        self._now_ns = now_ns
        self._topics_on = topics_on
        self._is_known = is_known
        self._deliver = deliver
        self._tell = tell
        self._closed = closed
        self._gaps: list[Gap] = []
        self._changed = asyncio.Event()
        self._rounds: dict[int, int] = {}
        self.online = False
        self.recovered = 0
        self.queries = 0
        self.failed = 0

    def __len__(self) -> int:
        return len(self._gaps)

    def add(self, shard: int, missed: Missed) -> None:
        """A gap was found. One that the policy does not want is told at once."""
        gap = Gap(shard, missed.from_ns, missed.to_ns, missed.reason, self._clock())
        if not self._policy.wants(shard, missed):
            self._tell(gap)
            return
        gap.next_attempt = gap.since
        for other in self._gaps:
            # The links flap, or two signs tell of the same: one question serves for all.
            open_ = other.recovered or not (other.attempts or other.scheduled)
            if other.shard == shard and open_ and gap.to_ns - other.from_ns <= _FOLD_NS:
                gap.from_ns, gap.to_ns = min(gap.from_ns, other.from_ns), max(gap.to_ns, other.to_ns)
                self._gaps.remove(other)
                break
        self._gaps.append(gap)
        self._changed.set()

    def forget(self, shards: Iterable[int]) -> None:
        """Nobody wants these shards any more."""
        gone = set(shards)
        self._gaps = [gap for gap in self._gaps if gap.shard not in gone]
        for shard in gone:
            self._rounds.pop(shard, None)

    def oldest(self, shard: int) -> int | None:
        """Where the oldest open gap of a shard begins (ns); None: it has none."""
        return min((gap.from_ns for gap in self._gaps if gap.shard == shard), default=None)

    def set_online(self, online: bool) -> None:
        """Whether the kernel can be asked."""
        self.online = online
        self._changed.set()

    def wake(self) -> None:
        """Peers appeared: what failed is tried again now."""
        for gap in self._gaps:
            if not gap.recovered:
                gap.next_attempt = 0.0
        self._changed.set()

    def tick(self, shards: Iterable[int]) -> None:
        """Now and then: tell what takes too long, begin periodic rounds."""
        now = self._clock()
        for gap in self._gaps:
            if not gap.told and not gap.recovered and not gap.scheduled and now - gap.since >= PATIENCE_S:
                gap.told = True
                self._tell(gap)
        period = self._policy.period
        if period is None:
            return
        now_ns = self._now_ns()
        for shard in shards:
            last = self._rounds.setdefault(shard, now_ns)
            if now_ns - last >= period * 1e9 and not any(gap.shard == shard for gap in self._gaps):
                self._rounds[shard] = now_ns
                round_ = Gap(shard, last, now_ns, "periodic", now, next_attempt=now, scheduled=True)
                self._gaps.append(round_)
                self._changed.set()

    async def run(self) -> None:
        """Close gaps until cancelled."""
        while True:
            self._changed.clear()
            now = self._clock()
            for gap in list(self._gaps) if self.online else ():
                if gap.next_attempt <= now and gap in self._gaps:
                    await self._attempt(gap)
            delay: float | None = None
            if self._gaps and self.online:
                delay = max(0.05, min(gap.next_attempt for gap in self._gaps) - self._clock())
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _attempt(self, gap: Gap) -> None:
        gap.attempts += 1
        asked_ns = self._now_ns()
        if await self._recover(gap):
            left = gap.to_ns + SETTLE_NS - asked_ns
            if left > 0 and not gap.scheduled:
                gap.recovered, gap.attempts = True, 0
                gap.next_attempt = self._clock() + left / 1e9
                return
            if gap in self._gaps:
                self._gaps.remove(gap)
            self._closed(gap.shard)
            return
        self.failed += 1
        wait = min(_RETRY_S * 1.5 ** (gap.attempts - 1), _RETRY_MAX_S)
        gap.next_attempt = self._clock() + wait

    async def _recover(self, gap: Gap) -> bool:
        start = gap.from_ns - OVERLAP_NS
        end = min(gap.to_ns, self._now_ns()) + AFTER_NS
        for topics in chunked(self._topics_on(gap.shard)):
            self.queries += 1
            hashes = await self._history.hashes(gap.shard, topics, start, end)
            if hashes is None:
                return False
            unknown = [digest for digest in hashes if not self._is_known(digest)]
            if not unknown:
                continue
            self.queries += 1
            found = await self._history.messages(gap.shard, unknown)
            if found is None:
                return False
            for message in found:
                if not self._is_known(message.message_hash):
                    self.recovered += 1
                    self._deliver(gap.shard, message)
        log.info("shard %d: caught up after %s", gap.shard, gap.reason)
        return True

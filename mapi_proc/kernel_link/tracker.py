"""State of one shard's event stream as MAPI sees it: position, gaps, and since when they exist. Pure.

The shell calls `lease.acquire`, passes the reply to `leased`, replays while `behind`, and feeds live frames
to `live`. Times are instants of the steady clock (ns); the shell converts the kernel's labels.

What counts as missing, reported as `Missed`:
- a range of seq that the kernel's replay ring no longer has (trimmed);
- time in which the kernel had no peer to receive the shard from (a mesh peer, or on an edge node one that
  pushes it), or was not running, after the shard was once covered. The kernel's coverage intervals show it,
  and a new kernel's intervals begin at its first such peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from ipc_schema.streams import GapTracker, HeldEvents, Step
from ipc_schema.streams.coverage import Interval, holes


class Live(Enum):
    """What to do with a live frame."""

    DELIVER = 1
    DROP = 2
    """A duplicate, or a lease or replay is outstanding: `hold` it."""
    RESYNC = 3
    """A gap or another epoch: `hold` it, acquire the lease again, then replay."""
    RENEW = 4
    """Coverage changed: acquire the lease again, whose reply says when. Nothing is lost."""


class Missed(NamedTuple):
    """Messages from this time span may be missing.

    `suspected`: only a suspicion; stores are asked, but apps are not notified.
    """

    from_ns: int
    to_ns: int
    reason: str
    suspected: bool = False


class StreamPlace(NamedTuple):
    """What is kept on disk per shard."""

    instance: bytes
    epoch: bytes
    seq: int
    good_ns: int
    """Everything up to this moment was received, or reported as missing."""


def uncovered(coverage: Sequence[Interval], from_ns: int, to_ns: int) -> list[tuple[int, int | None]]:
    """Return the holes in `coverage` within from_ns … to_ns; a hole that lasts until `to_ns` ends with
    None."""
    return [(start, None if end == to_ns else end) for start, end in holes(coverage, from_ns, to_ns)]


NO_MESH_PEERS: Final = "no mesh peers"
NO_FILTER_PEERS: Final = "no filter peers"
"""An edge node receives by filter only."""
UNKNOWN_NS: Final = 30 * 60 * 1_000_000_000
"""How far back to ask when the time since the last position is unknown."""
_RESTARTED: Final = "kernel restarted"
_NEW_STREAM: Final = "stream restarted"
_TRIMMED: Final = "replay range exceeded"
_HELD_BYTES: Final = 2 << 20
"""Of live events: what comes while a page of a replay (1 MiB) is fetched, and more."""


class StreamTracker:
    """One shard's stream.

    `position` is the last one on disk, None for a shard that was not followed before. `deaf` is the reason
    for messages missed while the kernel has no coverage.
    """

    def __init__(self, position: StreamPlace | None, now_ns: int, deaf: str = NO_MESH_PEERS) -> None:
        self._deaf = deaf
        self._at = GapTracker(*position[:3]) if position else GapTracker()
        self._held = HeldEvents(_HELD_BYTES)
        self._known = position is not None
        self._ever_covered = position is not None
        self._checked_ns = position.good_ns if position else now_ns
        if self._checked_ns > now_ns:
            # The clock was set back while we were not running, by an unknown amount.
            self._checked_ns = now_ns - UNKNOWN_NS
        self._received_ns = self._checked_ns
        self._hole_from: int | None = None
        self._hole_reason = deaf
        self._heard_until: int | None = None
        """After this moment a received message does not prove completeness: the kernel had no peers, or it
        was replayed. None: it does."""
        self.covered = False
        self.live_now = False
        """Live frames are accepted; False while a lease or replay is outstanding."""
        self.recorded = False
        """The current kernel records the stream for us, so whatever is published from now on is on it."""
        self.missed: list[Missed] = []
        """For the shell to report and empty."""

    @property
    def instance(self) -> bytes:
        """The kernel instance that is followed."""
        return self._at.instance

    @property
    def epoch(self) -> bytes:
        return self._at.epoch

    @property
    def seq(self) -> int:
        """The last event received in order."""
        return self._at.last

    @property
    def position(self) -> StreamPlace:
        """The position to store now."""
        good = self._known_until
        if self._hole_from is not None:
            good = min(good, self._hole_from)
        return StreamPlace(self.instance, self.epoch, self.seq, good)

    @property
    def _known_until(self) -> int:
        """The time up to which nothing of the stream is outstanding."""
        if self._at.missing:
            return min(self._checked_ns, self._received_ns)
        return self._checked_ns

    @property
    def behind(self) -> bool:
        """True if the kernel's ring has events that we lack: replay after `seq`."""
        return not self.live_now and self._at.missing is not None

    def lost_kernel(self) -> None:
        """Handle a kernel that does not answer: no live frame counts until the next lease."""
        self.live_now = False
        self.recorded = False
        self.covered = False

    def suspect(self) -> None:
        """Handle missing heartbeats from a kernel that answers: events sent meanwhile must be replayed."""
        self.live_now = False

    def leased(
        self,
        instance: bytes,
        epoch: bytes,
        first: int,
        last: int,
        coverage: Sequence[Interval],
        now_ns: int,
    ) -> None:
        """Take a reply to lease.acquire, first or renewed."""
        self.recorded = True
        if now_ns < self._checked_ns:  # the clock was set back
            self._checked_ns = self._received_ns = min(self._received_ns, now_ns)
            self._hole_from = None if self._hole_from is None else min(self._hole_from, now_ns)
        reason = self._deaf
        in_order = self.live_now and epoch == self.epoch and instance == self.instance
        if epoch != self.epoch or instance != self.instance:
            if self._known:
                reason = _RESTARTED if instance != self.instance else _NEW_STREAM
                # The old stream's coverage log and unread events are gone with it, so only the time up to its
                # last frame is known to be complete.
                heard = self._received_ns if self._heard_until is None else self._heard_until
                self._checked_ns = max(self._known_until, min(heard, self._received_ns, now_ns))
                # The old kernel may have found its first peer after its last heartbeat.
                self._ever_covered = True
            # A new interest: what others recorded before is not ours.
            self._at.restart(instance, epoch, 0 if self._known else last)
            self._known = True
        self._at.exists(last)
        self._check_coverage(coverage, now_ns, reason)
        if not in_order:  # in order it is a renewal: events beyond our seq are still in the SUB queue
            if first > self.seq + 1 and last > self.seq:
                self.trimmed(first)
            self.live_now = self._at.missing is None
        self._heard_until = None if self.live_now and self.covered else self._checked_ns

    def _check_coverage(self, coverage: Sequence[Interval], now_ns: int, reason: str) -> None:
        self.covered = bool(coverage) and coverage[-1][1] is None
        holes = uncovered(coverage, self._checked_ns, now_ns)
        if self._hole_from is not None and holes and holes[0][0] == self._checked_ns:
            holes[0] = (min(self._hole_from, holes[0][0]), holes[0][1])  # the same hole goes on
            reason = self._hole_reason
        elif self._hole_from is not None:
            holes.insert(0, (self._hole_from, self._checked_ns))
        self._hole_from = None
        for start, end in holes:
            # Before its first peer the kernel promises nothing. That peer may have come and gone between two
            # leases, so a hole after it counts even if no lease or heartbeat ever showed the shard covered.
            if not self._ever_covered and (not coverage or start < coverage[0][0]):
                continue
            if end is None:
                self._hole_from, self._hole_reason = start, reason
            else:
                self.missed.append(Missed(start, end, reason))
        if coverage:
            self._ever_covered = True
        self._checked_ns = max(self._checked_ns, now_ns)

    def live(self, instance: bytes, epoch: bytes, seq: int, time_ns: int) -> Live:
        """Take a live event. DELIVER advances the position."""
        # While a lease or replay is outstanding, that will bring the event in its place.
        if not self.live_now:
            return Live.DROP
        step = self._at.feed(instance, epoch, seq)
        if step is Step.IN_ORDER:
            self._received_ns = time_ns
            return Live.DELIVER
        if step is Step.DUPLICATE:
            return Live.DROP
        self.live_now = False
        return Live.RESYNC

    def hold(self, event: Any, payload: bytes) -> int:
        """Hold a live event that was not delivered, unless it is a duplicate. Return how many are dropped."""
        return 1 if self.live_now else self._held.add(event, payload)

    def take_held(self) -> list[tuple[Any, bytes]]:
        """Return the held events that follow the last one received, for `replayed`.

        If there are any, nothing is missing before the next live event: they go on where the replay ends.
        """
        held = self._held.take(self.instance, self.epoch, self.seq)
        if held:
            self.live_now = True
        elif self.live_now:
            self._held.clear()  # a replay that is complete has them, or the next event shows a gap
        return held

    def heartbeat(self, instance: bytes, epoch: bytes, seq: int, time_ns: int, covered: bool) -> Live:
        """Take a heartbeat.

        RESYNC: events were lost. Without it, losing the last events before a silence would be invisible
        (SPEC.md, 2).
        """
        if not self.live_now:
            return Live.DROP
        if self._at.heartbeat(instance, epoch, seq) in (Step.GAP, Step.NEW_EPOCH):
            self.live_now = False
            return Live.RESYNC
        if not covered and self._heard_until is None:
            self._heard_until = self._received_ns
        self._received_ns = time_ns  # not max(): the clock may have been set back
        return Live.DROP if covered == self.covered else Live.RENEW

    def replayed(self, seq: int, time_ns: int) -> bool:
        """Take one event of a replay page, in order. Return True to deliver it."""
        if self._at.feed(self.instance, self.epoch, seq) is not Step.IN_ORDER:
            return False
        self._received_ns = max(self._received_ns, time_ns)
        return True

    def page_done(self, last: int, complete: bool) -> None:
        """Finish a replay page up to seq `last`; `complete` means that it reached the head of the ring."""
        # At the head of the ring nothing is between the replay and the live events (SPEC.md, "Streams").
        if complete:
            self.live_now = True
        else:
            self._at.exists(last + 1)

    def trimmed(self, first: int, now_ns: int | None = None) -> None:
        """Skip events that the ring no longer has: it begins at `first`.

        `now_ns`: when this was found, if not with the lease.
        """
        end = max(self._checked_ns, now_ns or 0)
        start = min(self._received_ns, end)
        self.missed.append(Missed(start, end, _TRIMMED))
        self._at.skip_to(first - 1)

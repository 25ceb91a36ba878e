"""`StoreSync`: opens a session with one store after the other, and answers theirs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from ipc_schema.config.ratelimits import RateLimit
from ipc_schema.message import WakuMessage
from kernel_proc.archive.api import ArchiveError
from kernel_proc.archive.service import MessageArchive
from kernel_proc.metrics import Registry, Sample
from kernel_proc.p2p.api import Host, P2pError, PeerIdText, Stream
from kernel_proc.protocols.framing import StreamFrameError
from kernel_proc.protocols.peer_select import ServicePeerChoice
from kernel_proc.protocols.ratelimit import PeerLimiter
from kernel_proc.protocols.requests import AllFailed, Attempt, PeerUnreachable
from kernel_proc.protocols.sync.codec import PROTOCOL, SyncCodecError
from kernel_proc.protocols.sync.invitations import Grant, Grants
from kernel_proc.protocols.sync.reconcile import SyncTotals, TopicFilter
from kernel_proc.protocols.sync.session import SessionFailed, SyncSession
from kernel_proc.protocols.sync.stock import SyncStock, TooManyKeys
from kernel_proc.protocols.sync.transfer import MessageTransfer
from logos_process.logs import fields

log = logging.getLogger(__name__)

SERVICE: Final = "sync"
AT_ONCE: Final = 4
"""Sessions of other stores in progress; further ones are reset."""
PER_PEER: Final = RateLimit(20, 60.0)
"""Sessions that one peer may open; nwaku opens one in five minutes."""
SESSION_SECONDS: Final = 300.0
TRANSFER_SECONDS: Final = 600.0
MAX_MESSAGES: Final = 200_000
MAX_BYTES: Final = 512 << 20
"""What is taken from a peer for one session; the rest comes with the next."""
OPEN_SECONDS: Final = 10.0
AGAIN_SECONDS: Final = 2.0
MAX_AGAIN: Final = 100
"""Between two sessions with a peer when the first was cut short by a limit, and how many of them in a row."""
QUIET_SECONDS: Final = 2.0
"""Without a message from the peer: all have come that will come."""
RETRY_SECONDS: Final = 1.0
ROUNDS: Final = (0, 1, 2, 3, 5, 10)
DIFFERENCES: Final = (0, 10, 50, 100, 500, 1000, 5000)
"""nwaku's buckets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSettings:
    """Seconds."""

    interval: float
    range: float
    jitter: float


@dataclass(frozen=True, slots=True)
class SyncTopics:
    """`names`: the pubsub topics that the archive is filled with; `whole`: these are all of the network,
    and need not be listed to the other side."""

    names: tuple[str, ...]
    whole: bool


@dataclass(slots=True)
class SyncOutcome:
    """The outcome of a session, for the operator. `at`: wall clock in ns when it ended; times in seconds."""

    peer_id: PeerIdText
    at: int = 0
    seconds: float = 0.0
    round_trips: int = 0
    missing: int = 0
    """Messages that the peer listed and we lacked."""
    received: int = 0
    to_send: int = 0
    sent: int = 0
    cut_short: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncScope:
    """What the archive accepts."""

    topics: Callable[[], SyncTopics]
    """Return what the archive is filled with now."""
    is_signed: Callable[[str, WakuMessage], bool]
    """Return whether a message is signed as its shard demands."""
    max_message_size: int


class StoreSync:
    """Mount it, then `run` it beside the archive. `clock` is the wall clock in ns."""

    def __init__(
        self,
        host: Host,
        archive: MessageArchive,
        peers: ServicePeerChoice,
        settings: SyncSettings,
        registry: Registry,
        rng: Random,
        scope: SyncScope,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._host = host
        self._peers = peers
        self._settings = settings
        self._registry = registry
        self._rng = rng
        self._topics = scope.topics
        self._clock = clock
        self.stock = SyncStock(archive, seconds=settings.range, jitter=settings.jitter, clock=clock)
        self._grants = Grants(trio.current_time, messages=MAX_MESSAGES, size=MAX_BYTES)
        self._transfer = MessageTransfer(
            host,
            archive,
            self.stock,
            self._grants,
            registry,
            is_signed=scope.is_signed,
            max_message_size=scope.max_message_size,
            clock=clock,
        )
        self._limiter = PeerLimiter(PER_PEER)
        self._opened: set[PeerIdText] = set()
        self._served: set[PeerIdText] = set()
        """The peers with a session in progress, by who opened it: two may do so at the same time."""
        self._last: dict[PeerIdText, float] = {}
        self._unfinished: PeerIdText | None = None
        self._again = trio.Event()
        """Set when a session with `_unfinished` should be opened at once."""
        self._cached = 0
        self.sessions = 0
        """Sessions that ended well, of either side."""
        self.last: SyncOutcome | None = None
        """The last session that we opened."""
        self._round_trips = registry.histogram("reconciliation_roundtrips", ROUNDS)
        self._differences = registry.histogram("reconciliation_differences", DIFFERENCES)

    def mount(self) -> None:
        """Advertise and serve both protocols."""
        self._host.set_stream_handler(PROTOCOL, self._serve, max_per_peer=2)
        self._transfer.mount()

    @property
    def busy(self) -> Set[PeerIdText]:
        """The peers with a session in progress."""
        return self._opened | self._served

    def partners(self) -> list[PeerIdText]:
        """Return the connected peers that speak the protocol."""
        return self._peers.connected((PROTOCOL,))

    def samples(self) -> Iterable[Sample]:
        """Yield nwaku's `total_messages_cached`: sync ids in memory after the last pruning."""
        yield "total_messages_cached", {}, self._cached
        yield "store_sync_peers", {}, len(self.partners())

    # --- lifetime ---

    async def run(self) -> None:
        """Fill the index, then open sessions, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_up, name="store sync index")
            due = trio.current_time() + self._settings.interval
            while True:
                with trio.move_on_at(due) as scope:
                    await self._again.wait()
                if scope.cancelled_caught:
                    # Also while one peer is never finished: the others have their turn.
                    await self._open_due(None)
                    due = trio.current_time() + self._settings.interval
                else:
                    peer_id, self._unfinished, self._again = self._unfinished, None, trio.Event()
                    await self._open_due(peer_id)

    async def _keep_up(self) -> None:
        """Keep the index of our topics, and prune it half an interval out of step with the sessions."""
        while True:
            topics = self._topics().names
            try:
                await self.stock.ensure(topics)
            except ArchiveError as error:
                log.debug("store sync waits for the archive: %s", error)
            if not topics or not self.stock.ready:
                await trio.sleep(RETRY_SECONDS)
                continue
            self._cached = self.stock.prune()
            await trio.sleep(min(self._settings.interval / 2, 10.0))

    async def _open_due(self, unfinished: PeerIdText | None) -> None:
        partners = self.partners()
        for gone in self._last.keys() - set(partners):
            del self._last[gone]
        if not partners or not self._topics().names:
            return
        peer_id = self._longest_waiting(partners)
        if unfinished in partners:
            await trio.sleep(AGAIN_SECONDS)
            peer_id = unfinished
        for _ in range(MAX_AGAIN):
            outcome = await self.sync_with(peer_id)
            # A peer that lists what it does not have brings nothing, however often it is asked.
            if outcome.error or not outcome.cut_short or not (outcome.received or outcome.sent):
                break
            await trio.sleep(AGAIN_SECONDS)

    def _longest_waiting(self, partners: list[PeerIdText]) -> PeerIdText:
        """Return the one that we have not asked for longest; nwaku takes a random one."""
        self._rng.shuffle(partners)
        return min(partners, key=lambda one: self._last.get(one, float("-inf")))

    # --- our sessions ---

    async def sync(self, peer: str | None, deadline: float) -> SyncOutcome:
        """Open a session with the named peer (id or multiaddr), or with the one that is due.

        `deadline` is on the trio clock. Raise `AllFailed`.
        """
        if peer is None:
            partners = self.partners()
            if not partners:
                raise AllFailed(SERVICE, (), "no connected peer speaks store sync")
            peer_id = self._longest_waiting(partners)
        else:
            try:
                peer_id = await self._peers.reach(peer, max(0.1, deadline - trio.current_time()))
            except PeerUnreachable as error:
                raise AllFailed(SERVICE, [Attempt(peer, error)]) from error
        if not self._topics().names:
            raise AllFailed(SERVICE, (), "the node is on no shard: there is nothing to compare")
        with trio.move_on_at(deadline):
            outcome = await self.sync_with(peer_id)
            if outcome.error:
                raise AllFailed(SERVICE, [Attempt(peer_id, PeerUnreachable(outcome.error))])
            return outcome
        raise AllFailed(SERVICE, [Attempt(peer_id, PeerUnreachable("the session did not end in time"))])

    async def sync_with(self, peer_id: PeerIdText) -> SyncOutcome:
        """Open a session with a connected peer, give it what it lacks and wait for what we lack.

        An error is in the outcome, and counted.
        """
        outcome = SyncOutcome(peer_id)
        started = trio.current_time()
        self._last[peer_id] = started
        self._opened.add(peer_id)
        try:
            await self._exchange(peer_id, None, outcome)
        finally:
            self._opened.discard(peer_id)
        outcome.seconds = trio.current_time() - started
        outcome.at = self._clock()
        self.last = outcome
        log.log(
            logging.INFO if outcome.received or outcome.sent or outcome.error else logging.DEBUG,
            "store sync",
            extra=fields(
                peer=peer_id,
                received=outcome.received,
                sent=outcome.sent,
                round_trips=outcome.round_trips,
                error=outcome.error,
            ),
        )
        return outcome

    # --- both sides ---

    async def _serve(self, stream: Stream) -> None:
        peer_id = stream.peer_id
        refusal = None
        if not self.stock.ready:
            refusal = "not_ready"
        elif len(self._served) >= AT_ONCE or peer_id in self._served:
            refusal = "busy"
        elif not self._limiter.allow(peer_id, trio.current_time()):
            refusal = "rate_limited"
        if refusal is not None:
            self._count(refusal)
            await stream.reset()
            return
        self._served.add(peer_id)
        outcome = SyncOutcome(peer_id)
        try:
            await self._exchange(peer_id, stream, outcome)
        finally:
            self._served.discard(peer_id)
        if outcome.cut_short:  # the peer does not know
            self._unfinished = peer_id
            self._again.set()

    async def _exchange(self, peer_id: PeerIdText, stream: Stream | None, outcome: SyncOutcome) -> None:
        """Run a session on the peer's stream, or on one that we open, and transfer both ways."""
        grant = self._grants.open(peer_id)
        try:
            totals = await self._reconcile(peer_id, stream, grant)
            outcome.round_trips, outcome.missing = totals.round_trips, totals.lacking
            outcome.to_send, outcome.cut_short = len(totals.to_send), totals.cut_short
            self._round_trips.observe(totals.round_trips)
            self._differences.observe(totals.lacking + len(totals.to_send))
            self.sessions += 1
            with trio.move_on_after(TRANSFER_SECONDS) as scope:
                outcome.sent = await self._transfer.send(peer_id, totals.to_send)
                if stream is None and totals.round_trips > 1:
                    await _arrivals(grant)
            if scope.cancelled_caught:
                raise SessionFailed("too_long", f"transfer did not end within {TRANSFER_SECONDS:g} s")
        except (
            P2pError,
            StreamFrameError,
            SyncCodecError,
            SessionFailed,
            ArchiveError,
            TooManyKeys,
        ) as error:
            self._count(_kind(error))
            outcome.error = str(error) or type(error).__name__
            log.debug("store sync failed", extra=fields(peer=peer_id, reason=outcome.error))
        finally:
            self._grants.close(grant)
            outcome.received = grant.settled

    async def _reconcile(self, peer_id: PeerIdText, stream: Stream | None, grant: Grant) -> SyncTotals:
        opens, topics = stream is None, self._topics()
        await self.stock.ensure(topics.names)
        if stream is None:
            stream = await self._host.open_stream(peer_id, (PROTOCOL,), deadline=OPEN_SECONDS)
        own = TopicFilter(() if topics.whole else topics.names)
        session = SyncSession(stream, self.stock, own, grant, self._registry)
        try:
            with trio.move_on_after(SESSION_SECONDS) as scope:
                await session.run(opens=opens)
        except BaseException:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise
        if scope.cancelled_caught:
            await stream.reset()
            raise SessionFailed("too_long", f"no end within {SESSION_SECONDS:g} s")
        await stream.close()
        return session.totals

    def _count(self, kind: str) -> None:
        self._registry.counter("store_sync_errors", type=kind).add()


async def _arrivals(grant: Grant) -> None:
    """Wait until everything that was asked for has been archived, or no more comes."""
    while grant.open:
        event = trio.Event()
        grant.changed = event.set
        with trio.move_on_after(QUIET_SECONDS) as scope:
            await event.wait()
        if scope.cancelled_caught:
            return


def _kind(error: Exception) -> str:
    if isinstance(error, SessionFailed):
        return error.kind
    if isinstance(error, StreamFrameError | SyncCodecError):
        return "malformed"
    if isinstance(error, TooManyKeys):
        return "too_many_topics"
    return "archive" if isinstance(error, ArchiveError) else "stream"

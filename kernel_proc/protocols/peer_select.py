"""Service peer selection: the named peer, or the best connected ones that support a protocol.

`PeerRanking` is pure: it records the outcome of requests and orders candidates. `ServicePeerChoice` finds the
candidates on a host and dials a peer named by its address.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple, TypeVar

import trio

from ipc_schema.backoff import retry_delay
from ipc_schema.config.addresses import peer_id_in
from kernel_proc.p2p.api import Host, P2pError, PeerIdText
from kernel_proc.protocols.pacing import TOO_MANY_REQUESTS, Pacer
from kernel_proc.protocols.requests import (
    AllFailed,
    Attempt,
    CallError,
    NoAnswer,
    PeerUnreachable,
    RequestRefused,
)

PENALTY: Final = 15.0
"""Seconds for which a failure puts a peer behind the others; doubled by each further one."""
MAX_PENALTY: Final = 600.0
RECENT: Final = 600.0
"""Seconds for which a success counts."""
MAX_REMEMBERED: Final = 2048
SMOOTHING: Final = 0.3
MAX_TRIES: Final = 5
"""Maximum peers tried per request, as in nwaku."""
MAX_REPEATS: Final = 5
"""Maximum repetitions of one request to a peer that answers 429."""
MAX_AT_ONCE: Final = 8
"""Our concurrent requests per peer and service; further ones wait.

Service nodes limit the streams per peer and reset the excess.
"""

LEAST_TIME: Final = 1.0
"""Seconds that a paced request must have left. Begun later, it would be cut off with its outcome unknown."""

T = TypeVar("T")


class Candidate(NamedTuple):
    """A peer that supports the protocol. `shards` comes from its metadata; None or empty: unknown."""

    peer_id: PeerIdText
    shards: Collection[int] | None = None
    configured: bool = False
    """Configured by the operator for this protocol."""


@dataclass(slots=True, eq=False)
class _Record:
    failures: int = 0
    penalty_until: float = 0.0
    last_success: float | None = None
    latency: float = 0.0


class PeerRanking:
    """The outcome of past requests by peer and protocol, and the order that follows from it.

    Peers without a recent failure come first; among them those configured by the operator, then those whose
    shards are known to match, then those with a recent success (the faster the better), then unknown ones in
    random order. A failure puts a peer behind all others for a time that doubles with each failure in a row.
    """

    def __init__(self, clock: Callable[[], float], rng: Random) -> None:
        self._clock = clock
        self._rng = rng
        self._records: dict[tuple[PeerIdText, str], _Record] = {}

    def succeeded(self, peer_id: PeerIdText, service: str, seconds: float) -> None:
        """Record a usable response after `seconds`."""
        record = self._record(peer_id, service)
        # Exponential moving average: one slow response does not change the order, a slow peer soon does.
        known = record.last_success is not None
        record.latency = record.latency + SMOOTHING * (seconds - record.latency) if known else seconds
        record.last_success = self._clock()
        record.failures = 0
        record.penalty_until = 0.0

    def failed(self, peer_id: PeerIdText, service: str) -> None:
        """Record a missing or unusable response."""
        record = self._record(peer_id, service)
        record.failures += 1
        penalty = retry_delay(record.failures, PENALTY, 2.0, MAX_PENALTY)
        record.penalty_until = self._clock() + penalty

    def order(
        self, candidates: Sequence[Candidate], service: str, shard: int | None = None
    ) -> list[PeerIdText]:
        """Return the candidates, best first.

        With a `shard`, candidates known to be on other shards only are excluded unless configured by the
        operator: their response would be meaningless.
        """
        now = self._clock()
        fitting = [
            candidate
            for candidate in candidates
            if shard is None or candidate.configured or not candidate.shards or shard in candidate.shards
        ]
        # Shuffle first: the sort is stable, so equals stay in random order and share the load.
        self._rng.shuffle(fitting)
        return [
            candidate.peer_id
            for candidate in sorted(fitting, key=lambda c: self._key(c, service, shard, now))
        ]

    def _key(
        self, candidate: Candidate, service: str, shard: int | None, now: float
    ) -> tuple[float, bool, bool, bool, float]:
        record = self._records.get((candidate.peer_id, service))
        penalty = max(0.0, record.penalty_until - now) if record else 0.0
        recent = record is not None and record.last_success is not None and now - record.last_success < RECENT
        return (
            penalty,
            not candidate.configured,
            shard is not None and not candidate.shards,
            not recent,
            record.latency if record and recent else 0.0,
        )

    def _record(self, peer_id: PeerIdText, service: str) -> _Record:
        key = (peer_id, service)
        record = self._records.pop(key, None) or _Record()
        self._records[key] = record  # move to the end: the first is the least recently used
        while len(self._records) > MAX_REMEMBERED:
            del self._records[next(iter(self._records))]
        return record


class _NoTurnError(CallError):
    """Our own concurrency limit for the peer was reached; not the peer's fault."""


class ServicePeerChoice:
    """Choose the peers to ask for each service.

    `shards` returns a peer's shards as known from metadata; `configured` holds the operator's addresses by
    service.
    """

    def __init__(
        self,
        host: Host,
        ranking: PeerRanking,
        shards: Callable[[PeerIdText], Collection[int] | None],
        configured: Mapping[str, Sequence[str]],
    ) -> None:
        self._host = host
        self.ranking = ranking
        self._shards = shards
        self._places: dict[tuple[PeerIdText, str], trio.Semaphore] = {}
        self._pacer: Pacer[tuple[PeerIdText, str]] = Pacer(trio.current_time)
        self._configured = {
            service: frozenset(filter(None, map(peer_id_in, found))) for service, found in configured.items()
        }

    def connected(self, protocols: Sequence[str]) -> list[PeerIdText]:
        """Return the connected peers that support one of `protocols` according to identify."""
        found = dict.fromkeys(connection.peer_id for connection in self._host.connections())
        return [peer_id for peer_id in found if self._speaks(peer_id, protocols)]

    def _speaks(self, peer_id: PeerIdText, protocols: Sequence[str]) -> bool:
        identity = self._host.identity(peer_id)
        return identity is not None and any(protocol in identity.protocols for protocol in protocols)

    def choose(self, service: str, protocols: Sequence[str], shard: int | None = None) -> list[PeerIdText]:
        """Return the peers to ask, best first."""
        operators = self._configured.get(service, frozenset())
        candidates = [
            Candidate(peer_id, self._shards(peer_id), peer_id in operators)
            for peer_id in self.connected(protocols)
        ]
        return self.ranking.order(candidates, service, shard)

    async def reach(self, peer: str, deadline: float) -> PeerIdText:
        """Return the id of a peer named by id or multiaddr, dialling it if necessary. Raise
        PeerUnreachable."""
        if not peer.startswith("/"):
            if not self._host.is_connected(peer):
                raise PeerUnreachable(f"{peer} is not connected")
            return peer
        named = peer_id_in(peer)
        if named and self._host.is_connected(named):
            return named
        try:
            with trio.fail_after(deadline):
                return await self._host.connect(peer, deadline=deadline)
        except trio.TooSlowError:
            raise PeerUnreachable(f"{peer} is not accessible within {deadline:g} s") from None
        except P2pError as error:
            raise PeerUnreachable(f"{peer} is not accessible: {error}") from error

    async def ask(
        self,
        service: str,
        protocols: Sequence[str],
        attempt: Callable[[PeerIdText, float], Awaitable[T]],
        *,
        named: str | None = None,
        shard: int | None = None,
        deadline: float,
        patience: float = 10.0,
        exclude: Collection[str] = (),
    ) -> tuple[PeerIdText, T]:
        """Call `attempt(peer id, seconds)` until one succeeds. Return the peer and its result.

        Tries only the `named` peer (an id or a multiaddr), or the best ones outside `exclude`, one after
        another. `deadline` (trio clock) covers all attempts; each gets at most `patience` seconds and, while
        there are alternatives, at most half of the remaining time. A CallError counts against its peer,
        except that a rate-limited peer (429) is asked again after the others, at its own pace, while
        LEAST_TIME remains. Raise AllFailed.
        """
        attempts: list[Attempt] = []
        limited: dict[str, tuple[int, CallError]] = {}
        found = [named] if named is not None else self.choose(service, protocols, shard)
        waiting = [peer for peer in found if peer == named or peer not in exclude][:MAX_TRIES]
        while waiting and (left := deadline - trio.current_time()) > 0:
            # `min` returns the first of equals: the best-ranked peer unless it is paced more than another.
            peer = min(waiting, key=lambda one: self._pacer.delay((peer_id_in(one) or one, service)))
            waiting.remove(peer)
            peer_id = peer_id_in(peer) or peer
            delay = self._pacer.delay((peer_id, service))
            if delay and delay > left - LEAST_TIME:
                busy = (
                    limited[peer][1] if peer in limited else RequestRefused(TOO_MANY_REQUESTS, "rate limited")
                )
                attempts.append(Attempt(peer, busy))
                continue
            # Reserve before sleeping: concurrent requests to one peer then queue up instead of colliding.
            pause = self._pacer.reserve((peer_id, service))
            await trio.sleep(pause)
            left -= pause
            try:
                seconds = min(patience, left / 2 if waiting else left)
                started = trio.current_time()
                peer_id = await self.reach(peer, seconds)
                async with self._turn(peer_id, service, started + seconds):
                    asked = trio.current_time()
                    answer = await attempt(peer_id, max(0.001, started + seconds - asked))
                    took = trio.current_time() - asked
            except _NoTurnError as error:
                attempts.append(Attempt(peer, limited[peer][1] if peer in limited else error))
                continue
            except CallError as error:
                if isinstance(error, RequestRefused) and error.status == TOO_MANY_REQUESTS:
                    self._pacer.refused((peer_id, service))
                    times = 1 + limited[peer][0] if peer in limited else 1
                    if times <= MAX_REPEATS:
                        limited[peer] = times, error
                        waiting.append(peer)
                        continue
                if isinstance(error, NoAnswer) and peer in limited:
                    error = limited[peer][1]  # it ran out of time because of the rate limit: report that
                attempts.append(Attempt(peer, error))
                # A final refusal (bad request) is our own mistake: no peer would answer otherwise, and none
                # is to blame.
                if isinstance(error, RequestRefused) and error.final:
                    break
                self.ranking.failed(peer_id, service)
                continue
            self._pacer.served((peer_id, service))
            self.ranking.succeeded(peer_id, service, took)
            return peer_id, answer
        attempts += [Attempt(peer, limited[peer][1]) for peer in waiting if peer in limited]
        if waiting and not attempts:
            raise AllFailed(service, attempts, f"no time left to ask a peer for {service}")
        on_shard = "" if shard is None else f" on shard {shard}"
        raise AllFailed(service, attempts, f"no connected peer serves {service}{on_shard}")

    async def paced(
        self,
        peer_id: PeerIdText,
        service: str,
        attempt: Callable[[], Awaitable[T]],
        *,
        deadline: float,
    ) -> T:
        """Call `attempt` for one peer, repeating it at the peer's pace while it is rate-limited (429),
        until `deadline` (trio clock). Raise CallError."""
        while True:
            await trio.sleep(self._pacer.reserve((peer_id, service)))
            try:
                answer = await attempt()
                self._pacer.served((peer_id, service))
                return answer
            except RequestRefused as error:
                if error.status != TOO_MANY_REQUESTS:
                    raise
                self._pacer.refused((peer_id, service))
                if trio.current_time() + self._pacer.delay((peer_id, service)) >= deadline:
                    raise

    def asked(self) -> Set[PeerIdText]:
        """Return the peers with a request of ours in progress."""
        return {peer_id for peer_id, _ in self._places}

    @asynccontextmanager
    async def _turn(self, peer_id: PeerIdText, service: str, deadline: float) -> AsyncIterator[None]:
        """Hold one of the concurrent request slots of this peer. Raise _NoTurnError if none is free in
        time."""
        key = (peer_id, service)
        places = self._places.setdefault(key, trio.Semaphore(MAX_AT_ONCE))
        with trio.move_on_at(deadline) as waiting:
            await places.acquire()
        if waiting.cancelled_caught:
            raise _NoTurnError(f"{MAX_AT_ONCE} requests to this peer are in progress")
        try:
            yield
        finally:
            places.release()
            # Keep no semaphore per peer that ever was asked.
            if places.value == MAX_AT_ONCE and not places.statistics().tasks_waiting:
                self._places.pop(key, None)

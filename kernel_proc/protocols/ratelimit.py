"""Rate limits of service protocols, modelled on nwaku's token buckets. Pure: time is passed in, in seconds.

Store, lightpush and peer exchange share one volume among all peers (`ServiceLimiter`): `volume` per `period`,
of which r times as much accumulates while idle, and one peer gets at most three quarters of that. Filter only
has buckets per peer (`PeerLimiter`).
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from ipc_schema.config.ratelimits import RateLimit
from kernel_proc.token_buckets import ROUNDING, TokenBuckets

MAX_PEERS: Final = 4096
"""Maximum peers a limiter remembers; the least recently used is forgotten first."""
PEER_SHARE: Final = 0.75


def _ratio(period: float) -> int:
    """Return how many periods' volume may accumulate."""
    if period <= 1.0:
        return 10
    return 3 if period <= 60.0 else 2


class PeerLimiter:
    """Allow each peer `limit.volume` requests per period, in a continuously refilled bucket (as nwaku's, of
    chronos): no burst of two volumes around the end of a period. None: unlimited."""

    def __init__(self, limit: RateLimit | None) -> None:
        self.limit = limit
        self._buckets: TokenBuckets[str] | None = None
        if limit is not None:
            self._buckets = TokenBuckets(limit.volume / limit.period, limit.volume, MAX_PEERS)

    def allow(self, peer_id: str, now: float) -> bool:
        """Return whether to serve the request, and count it if so."""
        return self._buckets is None or self._buckets.allow(peer_id, now)

    def has_room(self, peer_id: str, now: float) -> bool:
        """Return what `allow` would, without counting."""
        return self._buckets is None or self._buckets.has_room(peer_id, now)


class ServiceLimiter:
    """One volume for all peers, with a maximum share for each; None: unlimited.

    The common bucket starts with `volume`, refills continuously and holds at most r × volume (r = 10 for
    periods of up to a second, 3 up to a minute, else 2). The peer's own bucket is checked first, so that a
    refused peer costs the others nothing.
    """

    def __init__(self, limit: RateLimit | None) -> None:
        self.limit = limit
        if limit is None:
            return
        ratio = _ratio(limit.period)
        self._capacity = float(limit.volume * ratio)
        self._rate = limit.volume / limit.period
        self._level = float(limit.volume)
        self._at: float | None = None
        share = max(1, int(limit.volume * ratio * PEER_SHARE))
        self._peers = PeerLimiter(RateLimit(share, limit.period * ratio))

    def allow(self, peer_id: str, now: float) -> bool:
        """Return whether to serve the request, and count it if so."""
        if self.limit is None:
            return True
        if self._at is not None:
            self._level = min(self._capacity, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        if not self._peers.has_room(peer_id, now) or self._level < 1.0 - ROUNDING:
            return False
        self._level -= 1.0
        return self._peers.allow(peer_id, now)


class Allowance:
    """Limit events per `period` in seconds: `per_peer` for each peer, `in_all` in total."""

    def __init__(self, per_peer: int, in_all: int, period: float) -> None:
        self._per_peer = per_peer
        self._in_all = in_all
        self._period = period
        self._ends = float("-inf")
        # At most `in_all` entries, because each stands for an event.
        self._used: Counter[str] = Counter()

    def take(self, peer_id: str, now: float) -> bool:
        """Consume one unit if available. `now` is in seconds and monotonic."""
        if now >= self._ends:
            self._used.clear()
            self._ends = now + self._period
        if self._used[peer_id] >= self._per_peer or self._used.total() >= self._in_all:
            return False
        self._used[peer_id] += 1
        return True


RateLimiter = PeerLimiter | ServiceLimiter

"""Rate limits of service protocols, modelled on nwaku's token buckets. Pure: time is passed in, in seconds.

Store, lightpush and peer exchange share one volume among all peers (`ServiceLimiter`): `volume` per `period`,
of which r times as much accumulates while idle, and one peer gets at most three quarters of that. Filter only
has buckets per peer (`PeerLimiter`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ipc_schema.config.ratelimits import RateLimit

MAX_PEERS: Final = 4096
"""Maximum peers a limiter remembers; the least recently used is forgotten first."""
PEER_SHARE: Final = 0.75
ROUNDING: Final = 1e-9
"""Tolerance for rounding: without it, the sum of small refills would allow a request too late."""


def _ratio(period: float) -> int:
    """Return how many periods' volume may accumulate."""
    if period <= 1.0:
        return 10
    return 3 if period <= 60.0 else 2


class _Bucket:
    """A peer's remaining volume; it refills continuously."""

    __slots__ = ("at", "level")

    def __init__(self, volume: float, now: float) -> None:
        self.level = volume
        self.at = now


class PeerLimiter:
    """Allow each peer `limit.volume` requests per period, in a continuously refilled bucket (as nwaku's);
    None: unlimited."""

    def __init__(self, limit: RateLimit | None, *, forget_after: float | None = None) -> None:
        self.limit = limit
        self._forget = forget_after or (2 * limit.period if limit else 0.0)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, peer_id: str, now: float) -> bool:
        """Return whether to serve the request, and count it if so."""
        if not self.has_room(peer_id, now):
            return False
        if self.limit is not None:
            self._buckets[peer_id].level -= 1.0
        return True

    def has_room(self, peer_id: str, now: float) -> bool:
        """Return what `allow` would, without counting."""
        limit = self.limit
        if limit is None:
            return True
        self._forget_idle(now)
        bucket = self._buckets.get(peer_id)
        if bucket is None:
            bucket = self._buckets[peer_id] = _Bucket(float(limit.volume), now)
        # A token bucket that refills continuously, as those of nwaku (chronos) do: no burst of two volumes
        # around the end of a period.
        passed = max(0.0, now - bucket.at)
        bucket.level = min(float(limit.volume), bucket.level + passed * limit.volume / limit.period)
        bucket.at = now
        self._buckets.move_to_end(peer_id)
        return bucket.level >= 1.0 - ROUNDING

    def _forget_idle(self, now: float) -> None:
        buckets = self._buckets
        while buckets:
            oldest = next(iter(buckets.values()))
            if len(buckets) <= MAX_PEERS and now - oldest.at <= self._forget:
                return
            buckets.popitem(last=False)


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


RateLimiter = PeerLimiter | ServiceLimiter

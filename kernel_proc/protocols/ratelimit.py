"""How many requests a service protocol serves: nwaku's buckets. Pure: time comes in as an argument, seconds.

Store, lightpush and peer exchange share a volume among all peers (`ServiceLimiter`): of `volume` a `period`,
r times as much may gather while it is quiet, and one peer gets at most three quarters of that. Filter has no
common bucket (`PeerLimiter`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from ipc_schema.config.ratelimits import RateLimit

__all__ = ["MAX_PEERS", "PeerLimiter", "ServiceLimiter", "ServiceRateLimiter"]

MAX_PEERS: Final = 4096
"""Peers that a limiter remembers; the one idle for longest is forgotten first."""
PEER_SHARE: Final = 0.75
HAIR: Final = 1e-9
"""A level this far below one is one, or the sum of small refills would come a request late."""


class ServiceRateLimiter(Protocol):
    """Whether one more request of a peer is served."""

    @property
    def limit(self) -> RateLimit | None:
        """What was configured; None: no limit."""
        ...

    def allow(self, peer_id: str, now: float) -> bool:
        """Count the request and say yes, or say no."""
        ...


def _ratio(period: float) -> int:
    """How many periods' volume may gather."""
    if period <= 1.0:
        return 10
    return 3 if period <= 60.0 else 2


class _Bucket:
    """What is left of a peer's volume; it refills steadily."""

    __slots__ = ("at", "level")

    def __init__(self, volume: float, now: float) -> None:
        self.level = volume
        self.at = now


class PeerLimiter:
    """Each peer has `limit.volume` requests a period of its own, in a bucket that refills steadily (as
    nwaku's); None: no limit."""

    def __init__(self, limit: RateLimit | None, *, forget_after: float | None = None) -> None:
        self.limit = limit
        self._forget = forget_after or (2 * limit.period if limit else 0.0)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, peer_id: str, now: float) -> bool:
        """Count the request and return True, or return False."""
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
        passed = max(0.0, now - bucket.at)
        bucket.level = min(float(limit.volume), bucket.level + passed * limit.volume / limit.period)
        bucket.at = now
        self._buckets.move_to_end(peer_id)
        return bucket.level >= 1.0 - HAIR

    def _forget_idle(self, now: float) -> None:
        buckets = self._buckets
        while buckets:
            oldest = next(iter(buckets.values()))
            if len(buckets) <= MAX_PEERS and now - oldest.at <= self._forget:
                return
            buckets.popitem(last=False)


class ServiceLimiter:
    """A volume for all peers together, with a share for each; None: no limit.

    The common bucket holds `volume` at first, refills steadily and holds r·volume at most (r = 10 for periods
    of up to a second, 3 up to a minute, else 2). The peer's own bucket is looked at first, so that what one
    is refused costs the others nothing.
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
        """Count the request and say yes, or say no."""
        if self.limit is None:
            return True
        if self._at is not None:
            self._level = min(self._capacity, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        if not self._peers.has_room(peer_id, now) or self._level < 1.0 - HAIR:
            return False
        self._level -= 1.0
        return self._peers.allow(peer_id, now)

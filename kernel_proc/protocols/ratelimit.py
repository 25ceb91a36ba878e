"""How many requests a service protocol serves: nwaku's buckets. Pure: time comes in as an argument, seconds.

Store, lightpush and peer exchange share a volume among all peers (`ServiceLimiter`): of `volume` a `period`,
r times as much may gather while it is quiet, and one peer gets at most three quarters of that. Filter has no
common bucket (`PeerLimiter`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from ipc_schema.config.ratelimits import RateLimit

__all__ = ["MAX_PEERS", "PeerLimiter", "RateLimiter", "ServiceLimiter"]

MAX_PEERS: Final = 4096
"""Peers that a limiter remembers; the one idle for longest is forgotten first."""
PEER_SHARE: Final = 0.75


class RateLimiter(Protocol):
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


class _Window:
    """A volume that is there again when its period is over."""

    __slots__ = ("left", "start", "used")

    def __init__(self, volume: int, now: float) -> None:
        self.left = volume
        self.start = now
        self.used = now


class PeerLimiter:
    """Each peer has `limit.volume` requests a period of its own; None: no limit."""

    def __init__(self, limit: RateLimit | None, *, forget_after: float | None = None) -> None:
        self.limit = limit
        self._forget = forget_after or (2 * limit.period if limit else 0.0)
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def allow(self, peer_id: str, now: float) -> bool:
        """Count the request and say yes, or say no."""
        if not self.has_room(peer_id, now):
            return False
        if self.limit is not None:
            self._windows[peer_id].left -= 1
        return True

    def has_room(self, peer_id: str, now: float) -> bool:
        """Whether `allow` would say yes; nothing is counted."""
        limit = self.limit
        if limit is None:
            return True
        self._forget_idle(now)
        window = self._windows.get(peer_id)
        if window is None:
            window = self._windows[peer_id] = _Window(limit.volume, now)
        elif now - window.start >= limit.period:
            window.left, window.start = limit.volume, now
        window.used = now
        self._windows.move_to_end(peer_id)
        return window.left > 0

    def _forget_idle(self, now: float) -> None:
        windows = self._windows
        while windows:
            oldest = next(iter(windows.values()))
            if len(windows) <= MAX_PEERS and now - oldest.used <= self._forget:
                return
            windows.popitem(last=False)


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
        # A hair below one, or the sum of small refills would come a request late.
        if not self._peers.has_room(peer_id, now) or self._level < 1.0 - 1e-9:
            return False
        self._level -= 1.0
        return self._peers.allow(peer_id, now)

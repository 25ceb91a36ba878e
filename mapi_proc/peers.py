"""Choose service peers by protocol and shard: those that answered recently first, the others in turn.

The kernel reports facts about its connected peers; choosing among them (redundancy, rotation, back-off) is
policy and belongs here. A failing peer backs off exponentially and is never given up; while the node itself
is offline, no peer is penalised. Pure but for the clock given in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from ipc_schema.backoff import retry_delay
from ipc_schema.kernel.records import PeerRecord

STORE: Final = ("/vac/waku/store-query/3.0.0",)
LIGHTPUSH: Final = ("/vac/waku/lightpush/3.0.0", "/vac/waku/lightpush/2.0.0-beta1")
FILTER: Final = ("/vac/waku/filter-subscribe/2.0.0-beta1",)

_BACKOFF_START: Final = 1.0
_BACKOFF_CAP: Final = 60.0


@dataclass(slots=True)
class _Standing:
    failures: int = 0
    until: float = 0.0
    last_success: float = float("-inf")
    last_asked: float = float("-inf")


class ServicePeers:
    """The connected peers and their standing per protocol."""

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._clock = clock
        self._jitter = jitter
        self._peers: dict[str, PeerRecord] = {}
        self._standing: dict[tuple[str, str], _Standing] = {}
        self._listed_at = clock()
        self.online = False

    def update(self, peers: Iterable[PeerRecord]) -> None:
        """Replace the list of connected peers by the kernel's."""
        self._peers = {peer.peer_id: peer for peer in peers}
        self._listed_at = self._clock()
        self._standing = {key: held for key, held in self._standing.items() if key[1] in self._peers}
        self.online = bool(self._peers)

    def count(self, protocols: tuple[str, ...], shard: int | None = None) -> int:
        """Count the connected peers that serve a protocol (and a shard)."""
        return sum(self._serves(peer, protocols, shard) for peer in self._peers.values())

    def serving(self, protocols: tuple[str, ...]) -> set[str]:
        return {peer_id for peer_id, peer in self._peers.items() if self._serves(peer, protocols, None)}

    def connected(self, peer_id: str) -> float:
        """Return for how many seconds the peer has been connected without a break; 0 if it is not."""
        peer = self._peers.get(peer_id)
        return 0.0 if peer is None else peer.connected_ms / 1000 + self._clock() - self._listed_at

    @staticmethod
    def _serves(peer: PeerRecord, protocols: tuple[str, ...], shard: int | None) -> bool:
        if not any(protocol in peer.protocols for protocol in protocols):
            return False
        # A peer that does not advertise its shards may serve any.
        return shard is None or not peer.shards or shard in peer.shards

    def choose(
        self,
        protocols: tuple[str, ...],
        shard: int | None,
        count: int,
        *,
        exclude: Iterable[str] = (),
        rotate: bool = False,
    ) -> list[str]:
        """Return up to `count` peers, best first: those not backing off, by latest success.

        With `rotate`, the one asked longest ago comes first. If all are backing off, return the one whose
        back-off ends first.
        """
        now = self._clock()
        able = self._able(protocols, shard, exclude)
        standing = {peer_id: self._standing.get((protocols[0], peer_id), _Standing()) for peer_id in able}
        if rotate:
            free = [peer_id for peer_id in able if standing[peer_id].until <= now]
            free.sort(key=lambda peer_id: standing[peer_id].last_asked)
        else:
            free = self.free(protocols, shard, exclude=exclude)
        if not free and able:
            free = [min(able, key=lambda peer_id: standing[peer_id].until)]
        chosen = free[:count]
        for peer_id in chosen:
            self._of(protocols, peer_id).last_asked = now
        return chosen

    def free(
        self, protocols: tuple[str, ...], shard: int | None, *, exclude: Iterable[str] = ()
    ) -> list[str]:
        """Return the peers that are not backing off, best first."""
        now = self._clock()
        standing = {
            peer_id: self._standing.get((protocols[0], peer_id), _Standing())
            for peer_id in self._able(protocols, shard, exclude)
        }
        found = [peer_id for peer_id in standing if standing[peer_id].until <= now]
        found.sort(key=lambda peer_id: (standing[peer_id].failures, -standing[peer_id].last_success))
        return found

    def next_free(self, protocols: tuple[str, ...], shard: int | None) -> float | None:
        """Return when the next back-off ends, on the clock given; None if no peer is backing off."""
        now = self._clock()
        ends = (
            self._standing[key].until
            for peer_id in self._able(protocols, shard, ())
            if (key := (protocols[0], peer_id)) in self._standing
        )
        return min((end for end in ends if end > now), default=None)

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._peers

    def _able(self, protocols: tuple[str, ...], shard: int | None, exclude: Iterable[str]) -> list[str]:
        left_out = set(exclude)
        return [
            peer_id
            for peer_id, peer in self._peers.items()
            if peer_id not in left_out and self._serves(peer, protocols, shard)
        ]

    def _of(self, protocols: tuple[str, ...], peer_id: str) -> _Standing:
        return self._standing.setdefault((protocols[0], peer_id), _Standing())

    def succeeded(self, protocols: tuple[str, ...], peer_id: str) -> None:
        """Record a success: the back-off is reset."""
        standing = self._of(protocols, peer_id)
        standing.failures, standing.until, standing.last_success = 0, 0.0, self._clock()

    def failed(self, protocols: tuple[str, ...], peer_id: str) -> None:
        """Record a failure: back off exponentially, with jitter. Ignored while we are offline ourselves."""
        if not self.online or peer_id not in self._peers:
            return
        standing = self._of(protocols, peer_id)
        standing.failures += 1
        wait = retry_delay(standing.failures, _BACKOFF_START, 2.0, _BACKOFF_CAP)
        standing.until = self._clock() + wait * (0.8 + 0.4 * self._jitter())

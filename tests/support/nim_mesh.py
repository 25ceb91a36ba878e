"""The mesh rules of nim-libp2p, as a model without I/O: what nwaku does when a link is lost.

Observed at a live nwaku. What matters here: a peer that disconnects, or one of whose relay streams ends,
enters a back-off of 60 s for every topic without a PRUNE being sent. A GRAFT inside it is answered by
PRUNE(60) and costs 0.1 of the behaviour counter; the next heartbeat prunes peers with a negative score.
"""

from __future__ import annotations

from collections.abc import Iterable

BACKOFF = 60.0
DECAY_INTERVAL = 12.0
DECAY = 0.986
DECAY_TO_ZERO = 0.01
D_LOW = 4


class NimMesh:
    """One nim-libp2p node's view of one other node on some topics. Times in seconds."""

    def __init__(self, topics: Iterable[str], now: float, *, grafts: bool = True) -> None:
        self.topics = tuple(topics)
        self.grafts = grafts
        """Its mesh is short of peers, so that it grafts us by itself."""
        self.mesh: set[str] = set()
        self.behaviour = 0.0
        self.pruned_for_score = 0
        self.grafts_in_backoff = 0
        self._until: dict[str, float] = {}
        self._next_decay = now + DECAY_INTERVAL

    @property
    def score(self) -> float:
        return -10 * self.behaviour**2

    def link_lost(self, now: float) -> None:
        """The connection or a relay stream ended."""
        self.mesh.clear()
        for topic in self.topics:
            self._until[topic] = max(self._until.get(topic, 0.0), now + BACKOFF)

    def on_graft(self, topic: str, now: float) -> float | None:
        """Return the back-off of the PRUNE it answers with, None if it accepts."""
        if topic in self.mesh:
            return None
        if now < self._until.get(topic, 0.0):
            self.grafts_in_backoff += 1
            self.behaviour += 0.1
            self._until[topic] = now + BACKOFF
            return BACKOFF
        self.mesh.add(topic)
        return None

    def on_prune(self, topic: str, backoff: float, now: float) -> None:
        self.mesh.discard(topic)
        self._until[topic] = max(self._until.get(topic, 0.0), now + backoff)

    def heartbeat(self, now: float) -> tuple[list[str], list[str]]:
        """Return the topics to GRAFT and those to PRUNE (with the usual back-off)."""
        if now >= self._next_decay:
            self._next_decay += DECAY_INTERVAL
            self.behaviour *= DECAY
            if self.behaviour < DECAY_TO_ZERO:
                self.behaviour = 0.0
        prune = sorted(self.mesh) if self.score < 0 else []
        for topic in prune:
            self.pruned_for_score += 1
            self.on_prune(topic, BACKOFF, now)
        graft = []
        if self.grafts and self.score >= 0:
            graft = [t for t in self.topics if t not in self.mesh and now >= self._until.get(t, 0.0)]
            self.mesh.update(graft)
        return graft, prune

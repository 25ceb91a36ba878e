"""Peer scores (GossipSub v1.1): P1 time in mesh, P2 first deliveries, P4 invalid messages, P6 IP
colocation, P7 behaviour. P3, P3b and P5 have weight 0 in Waku networks and are not implemented."""

from __future__ import annotations

from typing import NamedTuple

from kernel_proc.ip_group import ip_group
from kernel_proc.relay.params import ScoreParams


class _TopicScore:
    __slots__ = ("first_deliveries", "in_mesh_since", "invalid")

    def __init__(self) -> None:
        self.in_mesh_since: float | None = None
        self.first_deliveries = 0.0
        self.invalid = 0.0


class PeerScore:
    """The counters of one peer. The router keeps a reference, so that the hot path needs no lookup."""

    __slots__ = ("behaviour", "place", "retained_until", "topics")

    def __init__(self, place: str) -> None:
        self.place = place
        self.topics: dict[str, _TopicScore] = {}
        self.behaviour = 0.0
        self.retained_until: float | None = None


class ScoreParts(NamedTuple):
    """A score and its weighted components."""

    total: float
    time_in_mesh: float
    first_deliveries: float
    invalid: float
    colocation: float
    behaviour: float


class ScoreBook:
    """Scores of connected peers, and of disconnected ones with a negative score."""

    def __init__(self, params: ScoreParams) -> None:
        self._params = params
        self._connected: dict[str, PeerScore] = {}
        self._retained: dict[str, PeerScore] = {}
        self._by_place: dict[str, int] = {}
        self._exempt = frozenset(map(ip_group, params.colocation_exempt))
        self._next_decay: float | None = None

    def __len__(self) -> int:
        return len(self._connected) + len(self._retained)

    def connect(self, peer: str, ip: str) -> PeerScore:
        place = ip_group(ip)
        score = self._retained.pop(peer, None) or PeerScore(place)
        score.place = place
        score.retained_until = None
        self._connected[peer] = score
        self._by_place[place] = self._by_place.get(place, 0) + 1
        return score

    def disconnect(self, peer: str, now: float) -> None:
        """Remove a peer; keep a negative score for `retain` seconds, so that reconnecting does not reset
        it."""
        score = self._connected.pop(peer)
        negative = self.parts(score, now).total < 0
        count = self._by_place[score.place] - 1
        if count:
            self._by_place[score.place] = count
        else:
            del self._by_place[score.place]
        if not negative:
            return
        for topic in score.topics.values():
            topic.in_mesh_since = None
            topic.first_deliveries = 0.0
        score.retained_until = now + self._params.retain
        self._retained[peer] = score
        if len(self._retained) > self._params.max_retained:
            del self._retained[next(iter(self._retained))]

    # -- events ---------------------------------------------------------------------------------------

    def grafted(self, score: PeerScore, topic: str, now: float) -> None:
        self._topic(score, topic).in_mesh_since = now

    def pruned(self, score: PeerScore, topic: str) -> None:
        self._topic(score, topic).in_mesh_since = None

    def delivered_first(self, score: PeerScore, topic: str) -> None:
        entry = score.topics.get(topic)
        if entry is None:
            entry = self._topic(score, topic)
        if entry.first_deliveries < self._params.first_deliveries_cap:
            entry.first_deliveries = min(self._params.first_deliveries_cap, entry.first_deliveries + 1.0)

    def delivered_invalid(self, score: PeerScore, topic: str) -> None:
        self._topic(score, topic).invalid += 1.0

    def misbehaved(self, score: PeerScore, amount: float) -> None:
        score.behaviour += amount

    # -- reading --------------------------------------------------------------------------------------

    def score(self, score: PeerScore, now: float) -> float:
        return self.parts(score, now).total

    def at_least(self, score: PeerScore, threshold: float, now: float) -> bool:
        """Return whether the score reaches `threshold`.

        Has a fast path for peers without penalties, because it runs once per message and peer.
        """
        if (
            threshold <= 0.0
            and score.behaviour == 0.0
            and self._surplus(score) <= 0
            and not any(topic.invalid for topic in score.topics.values())
        ):
            return True  # all other components are positive
        return self.parts(score, now).total >= threshold

    def parts(self, score: PeerScore, now: float) -> ScoreParts:
        p = self._params
        p1 = p2 = p4 = 0.0
        for topic in score.topics.values():
            if topic.in_mesh_since is not None:
                p1 += min(p.time_in_mesh_cap, (now - topic.in_mesh_since) / p.time_in_mesh_quantum)
            # P4 and P7 are squared, so that repeated offences weigh disproportionately (gossipsub-v1.1, Peer
            # Scoring).
            p2 += topic.first_deliveries
            p4 += topic.invalid * topic.invalid
        p1 *= p.topic_weight * p.time_in_mesh_weight
        p2 *= p.topic_weight * p.first_deliveries_weight
        p4 *= p.topic_weight * p.invalid_weight
        p6 = 0.0
        surplus = self._surplus(score)
        if surplus > 0:
            p6 = p.colocation_weight * surplus * surplus
        p7 = p.behaviour_weight * score.behaviour * score.behaviour
        return ScoreParts(p1 + p2 + p4 + p6 + p7, p1, p2, p4, p6, p7)

    def _surplus(self, score: PeerScore) -> int:
        """Return the number of peers at this peer's address above the colocation threshold (P6)."""
        threshold = self._params.colocation_threshold
        if not threshold or score.place in self._exempt:
            return 0
        return self._by_place.get(score.place, 0) - threshold

    # -- time -----------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Decay scores every `decay_interval` and expire retained ones. Call once per heartbeat."""
        for peer in [
            peer
            for peer, score in self._retained.items()
            if score.retained_until is not None and score.retained_until <= now
        ]:
            del self._retained[peer]
        if self._next_decay is None:
            self._next_decay = now + self._params.decay_interval
        while self._next_decay <= now:
            self._decay()
            self._next_decay += self._params.decay_interval

    def _decay(self) -> None:
        p = self._params
        for score in self._connected.values():  # scores of disconnected peers do not recover over time
            for topic in score.topics.values():
                topic.first_deliveries = self._decayed(topic.first_deliveries, p.first_deliveries_decay)
                topic.invalid = self._decayed(topic.invalid, p.invalid_decay)
            score.behaviour = self._decayed(score.behaviour, p.behaviour_decay)

    def _decayed(self, value: float, factor: float) -> float:
        value *= factor
        return value if value >= self._params.decay_to_zero else 0.0

    @staticmethod
    def _topic(score: PeerScore, topic: str) -> _TopicScore:
        entry = score.topics.get(topic)
        if entry is None:
            entry = score.topics[topic] = _TopicScore()
        return entry

"""Our own endpoint as other nodes see it, by majority vote."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint, group_of, is_loopback
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.token_buckets import LruDict


class _Vote(NamedTuple):
    seen: UdpEndpoint
    at: float


class Votes:
    """Recent observations of our endpoint, with one vote per address group, so that an owner of many nodes
    in one network has one vote."""

    def __init__(self, params: Params) -> None:
        self._params = params
        self._votes: LruDict[tuple[int, object], _Vote] = LruDict(params.votes)

    def add(self, voter: NodeContact, seen: UdpEndpoint, now: float) -> None:
        """Record at which endpoint a node sees us."""
        host = voter.endpoint.host
        exempt = self._params.exempt_loopback and is_loopback(host)
        # discv5-wire, PONG: a node reports the endpoint at which it sees us. Any single one may lie.
        self._votes.put((seen.version, voter.node_id if exempt else group_of(host)), _Vote(seen, now))

    def winner(self, version: int, now: float) -> UdpEndpoint | None:
        """Return the endpoint of this IP version with more than half of the votes, if there are enough
        votes."""
        since = now - self._params.vote_window
        seen = [
            vote.seen for vote in self._votes.values() if vote.at >= since and vote.seen.version == version
        ]
        if not seen:
            return None
        endpoint, count = Counter(seen).most_common(1)[0]
        return endpoint if count >= self._params.vote_minimum and 2 * count > len(seen) else None

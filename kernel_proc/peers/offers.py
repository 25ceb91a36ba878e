"""What becomes of the peers that a relay peer names when it has no place for us in its mesh (GossipSub v1.1
peer exchange). Pure: the time comes in.

A peer that prunes us may name any peers, at any rate. So only what each named peer has itself signed is
believed, signatures are verified within an allowance, and a good record goes to the peer manager, which
decides whether and when to dial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from kernel_proc.p2p import peer_ids
from kernel_proc.p2p.api import HostPeer, PeerIdText
from kernel_proc.p2p.peer_record import PeerRecordError, open_envelope
from kernel_proc.relay.rpc import PeerInfo

__all__ = ["Allowance", "Offers", "Outcome", "judge"]

PERIOD: Final = 60.0
"""Seconds of an allowance: the back-off of a PRUNE, after which the same peer may prune us again."""
PER_PEER: Final = 32
"""Records of one offering peer looked at in a period: two full PRUNEs."""
IN_ALL: Final = 256
"""Records looked at in a period: some 30 ms of work, and more than a node can use."""


class Outcome(StrEnum):
    """What became of one named peer; the label of a counter."""

    TAKEN = "taken"
    KNOWN = "known"
    """It is connected already, or is this node."""
    UNSIGNED = "unsigned"
    """Named without a record, so without an address."""
    TOO_MANY = "too_many"
    """Beyond the allowance; not looked at."""
    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    FORGED = "forged"
    OTHER_PEER = "other_peer"
    """The record is good, but of another peer than the one named."""
    USELESS = "useless"
    """No address that we may dial, or no room for it."""


class Allowance:
    """How many records are looked at in a period: `per_peer` of one offering peer, `in_all` of all."""

    def __init__(self, per_peer: int = PER_PEER, in_all: int = IN_ALL, period: float = PERIOD) -> None:
        self._per_peer = per_peer
        self._in_all = in_all
        self._period = period
        self._ends = float("-inf")
        self._used: Counter[PeerIdText] = Counter()  # at most `in_all` entries: each stands for a record

    def take(self, peer_id: PeerIdText, now: float) -> bool:
        """Use up one, if there is one left. `now` in seconds of one monotonic clock."""
        if now >= self._ends:
            self._used.clear()
            self._ends = now + self._period
        if self._used[peer_id] >= self._per_peer or self._used.total() >= self._in_all:
            return False
        self._used[peer_id] += 1
        return True


class Judgement(NamedTuple):
    """One named peer: its record if that is good, and if not, why."""

    record: HostPeer | None
    outcome: Outcome


def judge(info: PeerInfo, is_known: Callable[[PeerIdText], bool], may_look: Callable[[], bool]) -> Judgement:
    """What to think of a named peer. The cheap questions come first; `may_look` is asked before the record is
    opened."""
    peer_id = peer_ids.from_bytes(info.peer_id)
    if peer_id is None:
        return Judgement(None, Outcome.MALFORMED)
    if is_known(peer_id):
        return Judgement(None, Outcome.KNOWN)
    if not info.signed_record:
        return Judgement(None, Outcome.UNSIGNED)
    if not may_look():
        return Judgement(None, Outcome.TOO_MANY)
    try:
        record = open_envelope(info.signed_record)
    except PeerRecordError as error:
        return Judgement(None, Outcome(error.reason))
    if record.peer_id != peer_id:
        return Judgement(None, Outcome.OTHER_PEER)
    return Judgement(record, Outcome.TAKEN)


class Offers:
    """Takes offers within the allowance. `learn` gets the peer id, its addresses and who offered it, and
    says whether that is of any use."""

    def __init__(
        self,
        *,
        is_known: Callable[[PeerIdText], bool],
        learn: Callable[[PeerIdText, Sequence[str], PeerIdText], bool],
        count: Callable[[Outcome], None],
        allowance: Allowance | None = None,
    ) -> None:
        self._is_known = is_known
        self._learn = learn
        self._count = count
        self._allowance = allowance or Allowance()

    def take(self, offering: PeerIdText, peers: Iterable[PeerInfo], now: float) -> int:
        """Take up the peers that `offering` named; how many were of use."""
        used = 0
        for info in peers:
            record, outcome = judge(info, self._is_known, lambda: self._allowance.take(offering, now))
            if record is not None:
                if self._learn(record.peer_id, record.addresses, offering):
                    used += 1
                else:
                    outcome = Outcome.USELESS
            self._count(outcome)
        return used

"""Process the peers suggested in a PRUNE (GossipSub v1.1 peer exchange). Pure: time is passed in.

A peer that prunes us may suggest any peers at any rate. Hence only what a suggested peer has itself signed is
believed, signature checks are rate-limited, and a good record only goes to the peer manager, which decides
whether and when to dial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from kernel_proc.p2p import peer_ids
from kernel_proc.p2p.api import HostPeer, PeerIdText
from kernel_proc.p2p.peer_record import PeerRecordError, open_envelope
from kernel_proc.protocols.ratelimit import Allowance
from kernel_proc.relay.rpc import PeerInfo

PERIOD: Final = 60.0
"""Period of the allowance in seconds: the PRUNE back-off, after which the same peer may prune us again."""
PER_PEER: Final = 32
"""Records checked per period and suggesting peer: two full PRUNEs."""
IN_ALL: Final = 256
"""Records checked per period in total: about 30 ms of work, and more than a node can use."""


class OfferOutcome(StrEnum):
    """The outcome for one suggested peer; a counter label."""

    TAKEN = "taken"
    KNOWN = "known"
    """Already connected, or this node itself."""
    UNSIGNED = "unsigned"
    """Suggested without a signed record, hence without an address."""
    TOO_MANY = "too_many"
    """Over the allowance; not checked."""
    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    FORGED = "forged"
    OTHER_PEER = "other_peer"
    """The record is valid but belongs to another peer than suggested."""
    USELESS = "useless"
    """No dialable address, or no room for it."""


class Assessment(NamedTuple):
    """The verdict on a suggested peer: its record if it is good, otherwise the reason."""

    record: HostPeer | None
    outcome: OfferOutcome


def evaluate(
    info: PeerInfo, is_known: Callable[[PeerIdText], bool], may_look: Callable[[], bool]
) -> Assessment:
    """Evaluate a suggested peer. Cheap checks come first; `may_look` is called before the signature is
    verified."""
    # A record is a signed envelope (RFC 0002/0003); without one the suggestion has no trustworthy address.
    peer_id = peer_ids.from_bytes(info.peer_id)
    if peer_id is None:
        return Assessment(None, OfferOutcome.MALFORMED)
    if is_known(peer_id):
        return Assessment(None, OfferOutcome.KNOWN)
    if not info.signed_record:
        return Assessment(None, OfferOutcome.UNSIGNED)
    if not may_look():
        return Assessment(None, OfferOutcome.TOO_MANY)
    try:
        record = open_envelope(info.signed_record)
    except PeerRecordError as error:
        return Assessment(None, OfferOutcome(error.reason))
    if record.peer_id != peer_id:
        return Assessment(None, OfferOutcome.OTHER_PEER)
    return Assessment(record, OfferOutcome.TAKEN)


class Offers:
    """Process suggestions within the allowance.

    `learn` gets the peer id, its addresses and the suggesting peer, and returns whether the peer is useful.
    """

    def __init__(
        self,
        *,
        is_known: Callable[[PeerIdText], bool],
        learn: Callable[[PeerIdText, Sequence[str], PeerIdText], bool],
        count: Callable[[OfferOutcome], None],
        allowance: Allowance | None = None,
    ) -> None:
        self._is_known = is_known
        self._learn = learn
        self._count = count
        self._allowance = allowance or Allowance(PER_PEER, IN_ALL, PERIOD)

    def take(self, offering: PeerIdText, peers: Iterable[PeerInfo], now: float) -> int:
        """Process the peers that `offering` suggested. Return how many were useful."""
        used = 0
        for info in peers:
            record, outcome = evaluate(info, self._is_known, lambda: self._allowance.take(offering, now))
            if record is not None:
                if self._learn(record.peer_id, record.addresses, offering):
                    used += 1
                else:
                    outcome = OfferOutcome.USELESS
            self._count(outcome)
        return used

"""The options of the reference's node (nwaku, now logos-delivery), and what becomes of each here. Data.

An option that a process of ours has under the same name means the same and needs no entry. This table has the
others.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple


class Fate(StrEnum):
    """What becomes of an option."""

    MAPPED = "mapped"
    """`takeover` has a rule for it."""
    IGNORED = "ignored"
    """It does nothing here: one warning line."""
    REFUSED = "refused"
    """The node would do something else than asked for: an error."""


class ReferenceOption(NamedTuple):
    """An option of the reference that no process of ours has under that name."""

    fate: Fate
    why: str
    """The reason, for the operator; of a mapped option: what it is here."""
    asks: bool = False
    """It is a switch, and only `true` asks for something: `false` is what this node does."""


_ignored: Final = partial(ReferenceOption, Fate.IGNORED)
_refused: Final = partial(ReferenceOption, Fate.REFUSED)
_mapped: Final = partial(ReferenceOption, Fate.MAPPED)

_NO_RLN: Final = _ignored("it belongs to RLN, which is off")
_NO_KADEMLIA: Final = _ignored("this node finds its peers by discv5, signed lists and peer exchange")
_NO_MIX: Final = _ignored("it belongs to mix, which is off")
_NO_EFFECT: Final = _ignored("it has no effect in the reference either")
_NO_DISCV5_LIMIT: Final = _ignored("discv5's own limits are built in")

REFERENCE_OPTIONS: Final[Mapping[str, ReferenceOption]] = {
    "config-file": _mapped("the file is read: the reference's or ours"),
    "entry-layer": _mapped("kernel is --kernel-only; messaging and channels are a whole node"),
    "content-topic": _mapped("its shard joins those of shard; apps subscribe to content topics"),
    "keep-alive": _NO_EFFECT,
    "dns-discovery": _ignored("dns-discovery-url alone turns it on"),
    "metrics-logging": _ignored("metrics are served, not logged: metrics-server"),
    "relay-shard-manager": _NO_EFFECT,
    "execute": _NO_EFFECT,
    "rendezvous": _ignored("rendezvous is not spoken", asks=True),
    "quic-support": _ignored("QUIC is not spoken: peers are reached over TCP and WebSocket", asks=True),
    "quic-port": _ignored("QUIC is not spoken"),
    "discv5-enr-auto-update": _ignored("the node record always follows the observed address"),
    "discv5-table-ip-limit": _NO_DISCV5_LIMIT,
    "discv5-bucket-ip-limit": _NO_DISCV5_LIMIT,
    "discv5-bits-per-hop": _NO_DISCV5_LIMIT,
    "enable-kad-discovery": ReferenceOption(Fate.IGNORED, _NO_KADEMLIA.why, asks=True),
    "kad-bootstrap-node": _NO_KADEMLIA,
    "kad-random-lookup-interval": _NO_KADEMLIA,
    "kad-service-lookup-interval": _NO_KADEMLIA,
    "mix": _refused(
        "messages would travel without the anonymity asked for: mix is not implemented", asks=True
    ),
    "mixkey": _NO_MIX,
    "mixnode": _NO_MIX,
    "rln-relay": _refused(
        "proofs can be neither made nor verified here: without it the node relays and receives, "
        "but does not send on a network that wants them",
        asks=True,
    ),
    "rln-relay-dynamic": _NO_RLN,
    "rln-relay-membership-index": _NO_RLN,
    "rln-relay-cred-path": _NO_RLN,
    "rln-relay-cred-password": _NO_RLN,
    "rln-relay-eth-client-address": _NO_RLN,
    "rln-relay-eth-contract-address": _NO_RLN,
    "rln-relay-chain-id": _NO_RLN,
    "rln-relay-epoch-sec": _NO_RLN,
    "rln-relay-user-message-limit": _NO_RLN,
    "rln-relay-eth-private-key": _NO_RLN,
}

REFERENCE_LISTS: Final = frozenset(
    {"content-topic", "kad-bootstrap-node", "mixnode", "rln-relay-eth-client-address"}
)
"""Those of the table that may be given several times."""

"""The contents of a pubsub RPC (libp2p pubsub, GossipSub v1.1, and IDONTWANT of v1.2).

`rpc_reader` decodes into these types, `rpc_writer` encodes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Subscription(NamedTuple):
    subscribe: bool
    topic: str


class RawMessage(NamedTuple):
    """A published message as it was on the wire."""

    topic: bytes
    data: bytes
    signed: bool
    """It carried `from`, `seqno`, `signature` or `key`, which StrictNoSign forbids."""


class PeerInfo(NamedTuple):
    """A peer suggested in a PRUNE: binary peer id and signed peer record (may be empty)."""

    peer_id: bytes
    signed_record: bytes


class IHave(NamedTuple):
    topic: str
    message_ids: Sequence[bytes]


class Prune(NamedTuple):
    topic: str
    backoff: int | None
    """Seconds; None if the field was absent."""
    peers: tuple[PeerInfo, ...] = ()


class Control:
    """The control part of one RPC, received or being assembled."""

    __slots__ = ("graft", "idontwant", "ihave", "iwant", "prune")

    def __init__(self) -> None:
        self.ihave: list[IHave] = []
        self.iwant: list[bytes] = []
        self.graft: list[str] = []
        self.prune: list[Prune] = []
        self.idontwant: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self.graft or self.prune or self.ihave or self.iwant or self.idontwant)


class Rpc(NamedTuple):
    subscriptions: Sequence[Subscription]
    messages: Sequence[RawMessage]
    control: Control | None

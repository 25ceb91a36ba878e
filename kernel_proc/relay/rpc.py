"""What a pubsub RPC holds (libp2p pubsub spec, GossipSub v1.1 and the IDONTWANT of v1.2).

Bytes are read into these by `rpc_reader` and written by `rpc_writer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Control", "IHave", "PeerInfo", "Prune", "RawMessage", "Rpc", "Subscription"]


class Subscription(NamedTuple):
    subscribe: bool
    topic: str


class RawMessage(NamedTuple):
    """One published message as it stood on the wire."""

    topic: bytes
    data: bytes
    signed: bool
    """It carried `from`, `seqno`, `signature` or `key`, which StrictNoSign forbids."""


class PeerInfo(NamedTuple):
    """A peer named by a PRUNE (peer exchange): binary peer id and, possibly empty, its signed record."""

    peer_id: bytes
    signed_record: bytes


class IHave(NamedTuple):
    topic: str
    message_ids: Sequence[bytes]


class Prune(NamedTuple):
    topic: str
    backoff: int | None
    """Seconds; None when the field was absent."""
    peers: tuple[PeerInfo, ...] = ()


class Control:
    """The control part of one RPC, to be read or to be filled and sent."""

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

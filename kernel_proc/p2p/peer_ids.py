"""Peer ids between their two forms: base58 text inside the kernel, bytes (a multihash) on the wire."""

from __future__ import annotations

from kernel_proc.p2p._libp2p import ID
from kernel_proc.p2p.api import PeerIdText

__all__ = ["MAX_PEER_ID", "from_bytes", "to_bytes"]

MAX_PEER_ID = 64
"""Bytes. An identity multihash of the longest key that is inlined takes 44."""


def to_bytes(peer_id: PeerIdText) -> bytes:
    """The wire form."""
    return bytes(ID.from_base58(peer_id).to_bytes())


def from_bytes(raw: bytes) -> PeerIdText | None:
    """The text of what a peer sent, None if that can be no peer id by its size. Nothing else is checked: it
    is a name to compare with, and proves nothing."""
    return ID(raw).to_base58() if 0 < len(raw) <= MAX_PEER_ID else None

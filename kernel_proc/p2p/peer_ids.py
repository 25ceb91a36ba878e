"""Convert peer ids between base58 text (inside the kernel) and bytes (a multihash, on the wire)."""

from __future__ import annotations

from kernel_proc.p2p._libp2p import ID
from kernel_proc.p2p.api import PeerIdText

MAX_PEER_ID = 64
"""Maximum bytes. The identity multihash of the largest inlined key has 44."""


def to_bytes(peer_id: PeerIdText) -> bytes:
    """Return the wire form."""
    return bytes(ID.from_base58(peer_id).to_bytes())


def from_bytes(raw: bytes) -> PeerIdText | None:
    """Return the text of a received peer id, None if its size is implausible.

    Nothing else is checked: it is a name for comparison, and proves nothing.
    """
    return ID(raw).to_base58() if 0 < len(raw) <= MAX_PEER_ID else None

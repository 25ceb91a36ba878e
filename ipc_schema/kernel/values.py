"""Value types used by several of the kernel's methods (SPEC.md §3.3)."""

from __future__ import annotations

from typing import Annotated, Final

from ipc_schema.body import Range, Size

__all__ = ["MAX_ADDRESS", "Address", "PeerId", "PeerName", "Shard"]

MAX_ADDRESS: Final = 1024
"""Longest multiaddr, or other name of a peer, in bytes."""

Shard = Annotated[int, Range(0, 0xFFFF)]
Address = Annotated[str, Size(MAX_ADDRESS, 1)]
PeerId = Annotated[str, Size(256, 1)]
PeerName = Annotated[str, Size(MAX_ADDRESS, 1)]
"""A peer id, or a multiaddr with one."""

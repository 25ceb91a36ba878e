"""What the peer manager is given: its settings, and its view of the rest of the node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kernel_proc.p2p.api import PeerIdText
from kernel_proc.peers.plan import PeerNeeds, Targets


class NodeView(Protocol):
    """What the manager queries from the rest of the node."""

    def wanted(self) -> PeerNeeds:
        """Return what the node needs now."""

    def shards_of(self, peer_id: PeerIdText) -> Collection[int]:
        """Return the shards that a connected peer reported in its metadata."""

    def mesh(self) -> Set[PeerIdText]:
        """Return the peers in any of our meshes."""

    def score_of(self, peer_id: PeerIdText) -> float:
        """Return a peer's relay score, 0 if it has none."""

    def at_work(self) -> Set[PeerIdText]:
        """Return the peers with a request in progress, in either direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerSettings:
    """Settings of the manager. `per_group` limits the connections per address group, 0: no limit."""

    targets: Targets
    per_group: int
    loopback: bool
    """We listen on loopback only, so loopback addresses are meaningful to us."""
    usable: Callable[[str], bool]
    """Return whether the host can dial a multiaddr."""
    protected: frozenset[PeerIdText] = frozenset()
    """The peers configured by the operator, as far as their addresses contain peer ids."""
    path: Path | None = None
    """The file of the store; None: not persisted."""

"""The settings of the peer manager."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kernel_proc.p2p.api import PeerIdText
from kernel_proc.peers.plan import Targets


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

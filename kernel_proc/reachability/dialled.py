"""Connections to a peer itself, and the peers whose address is known to work, because we dialled it."""

from __future__ import annotations

from kernel_proc.p2p.api import Direction, Host, PeerConnection, PeerIdText


def direct_connection(host: Host, peer_id: PeerIdText) -> PeerConnection | None:
    """Return a connection to the peer itself: through a relay, its address is the relay's."""
    found = (one for one in host.connections() if one.peer_id == peer_id and not one.is_relayed)
    return next(found, None)


def dialled_peers(host: Host, protocol: str) -> list[PeerIdText]:
    """Return the peers that we dialled at an address of their own and that speak the protocol, each once."""
    found = (
        one.peer_id
        for one in host.connections()
        if one.direction is Direction.OUTBOUND
        and not one.is_relayed
        and (identity := host.identity(one.peer_id)) is not None
        and protocol in identity.protocols
    )
    return list(dict.fromkeys(found))

"""Our own record, as peers tell us where they see us."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from ipc_schema.config.kernel import load_kernel_config
from kernel_proc.p2p.api import Direction, PeerConnection, PeerIdentity
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.peering.own_record import OwnRecord


class SeenHost:
    """A host with connections from the places that a test gives."""

    def __init__(self, *places: str) -> None:
        self._places = places
        self.announced: tuple[str, ...] = ()

    def connections(self) -> list[PeerConnection]:
        return [
            PeerConnection(f"p{number}", place, place.split("/")[2], Direction.INBOUND, 0.0)
            for number, place in enumerate(self._places)
        ]

    def reachable_addresses(self) -> list[str]:
        return ["/ip4/192.168.1.5/tcp/60000"]

    def set_announced(self, announced: tuple[str, ...]) -> None:
        self.announced = announced


@pytest.mark.parametrize(("through", "believed"), [("", True), ("/p2p/relay/p2p-circuit", False)])
def test_peers_behind_relays_do_not_say_where_we_are(tmp_path: Path, through: str, believed: bool) -> None:
    host = SeenHost(*(f"/ip4/20.{number}.0.1/tcp/4001{through}" for number in range(3)))
    key = NodeKey.generate()
    config = load_kernel_config(flags={"data-dir": str(tmp_path)})
    own = OwnRecord(config, key, cast("Libp2pHost", host), lambda: ())
    own.bound()
    for connection in host.connections():
        own.peer_identified(PeerIdentity(connection.peer_id, "", (), (), "/ip4/8.8.8.8/tcp/1"))
    assert ("/ip4/8.8.8.8/tcp/60000" in host.announced) is believed

"""Why a node finds no peers: what is said of which state, and of which configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ipc_schema.config.kernel import load_kernel_config
from ipc_schema.kernel.discovery import (
    DiscoveryStatus,
    Discv5Record,
    KnownPeersReply,
    KnownRecord,
    ListRecord,
)
from ipc_schema.kernel.records import PeerRecord, ShardHealth
from logos_deploy.commands import discovery, peers
from logos_deploy.node.checkup import Level
from logos_deploy.node.network_view import (
    ConfiguredPeer,
    NetworkView,
    check_sources,
    diagnose,
    reachable_text,
    reason,
    wanted_peers,
)

ADDRESS = "/ip4/192.0.2.1/tcp/1/p2p/16Uiu2HAmA"
ENR = "enr:-me"
CONNECTED = PeerRecord(
    peer_id="16Uiu2HAmCCCCCCCC",
    address="/ip4/192.0.2.7/tcp/5",
    direction="outbound",
    connected_ms=61_000,
    agent="nwaku\x1b[2J",
    protocols=("/vac/waku/relay/2.0.0", "/vac/waku/store-query/3.0.0"),
    shards=(3, 1),
    origin="discv5",
    score=1.26,
    mesh=("/waku/2/rs/2/1",),
)
SHARDS = (ShardHealth(shard=1, pubsub_topic="/waku/2/rs/2/1", health="UNHEALTHY"),)


def known(number: int, **more: Any) -> KnownRecord:
    return KnownRecord(peer_id=f"16Uiu2HAm{number:08}", addresses=(ADDRESS,), **more)


def view(
    *rows: KnownRecord,
    connected: tuple[PeerRecord, ...] = (),
    configured: tuple[ConfiguredPeer, ...] = (),
    strangers: int = 0,
    reachability: object = None,
    **status: Any,
) -> NetworkView:
    facts: dict[str, Any] = {
        "online": bool(connected),
        "short": True,
        "known": len(rows),
        "due": sum(not row.retry_ms for row in rows),
        "enr": ENR,
        "addresses": ("/ip4/192.0.2.9/tcp/60000",),
        "short_shards": (1,),
    }
    return NetworkView(
        cluster=2,
        status=DiscoveryStatus(**(facts | status)),
        connected=connected,
        known=KnownPeersReply(total=len(rows), peers=rows),
        shards=SHARDS,
        configured=configured,
        strangers=strangers,
        reachability=reachability,
    )


def troubles(of: NetworkView) -> list[str]:
    found = list(diagnose(of))
    assert not [one for one in found if one.level is Level.FAIL], "the node runs"
    return [one.text for one in found if one.level is Level.WARN and one.subject != "peers"]


def test_a_node_that_has_its_peers_has_no_trouble() -> None:
    good = view(connected=(CONNECTED,), short=False, short_shards=())
    (finding,) = diagnose(good)
    assert (finding.level, finding.text) == (Level.OK, "1 peer connected, 0 known")
    assert wanted_peers(good.status) == ""


def test_without_a_first_peer() -> None:
    alone = list(diagnose(view()))
    assert {one.level for one in alone} == {Level.OK}, "a network of its own"
    assert "no source of peers" in alone[1].text
    (text,) = troubles(view(discv5=Discv5Record(running=True, port=9000)))
    assert text == "discv5 is running but has no bootstrap node"


def test_no_record_is_verified() -> None:
    (text,) = troubles(view(discv5=Discv5Record(running=True, port=9000, nodes=2, boot_nodes=3)))
    assert text == "discv5: none of 3 nodes has answered"


def test_another_cluster() -> None:
    of_ours = Discv5Record(running=True, port=9000, nodes=5, verified=4, boot_nodes=1)
    (text,) = troubles(view(discv5=of_ours))
    assert text == "discv5: 4 nodes answered, none of this node's network (cluster 2, shard 1)"
    assert troubles(view(known(1, origin="discv5"), discv5=of_ours)) == []
    cut_off = known(1, retry_ms=3_000_000, why="metadata: peer is in cluster 9, ours is 2")
    (text,) = troubles(view(cut_off, strangers=3))
    assert (
        text == "peers of another network were found, 3 times; one of them: peer is in cluster 9, ours is 2"
    )
    assert troubles(view(strangers=1, known=1, due=1)) == [
        "peers of another network were found, 1 time (this one is of cluster 2, shard 1)"
    ]
    assert troubles(view(cut_off, connected=(CONNECTED,), strangers=3)) == [], "one peer is enough"


def test_everybody_known_waits() -> None:
    rows = [
        known(number, retry_ms=9000 + number, failures=2, why="connection refused") for number in range(3)
    ]
    (text,) = troubles(view(*rows))
    assert text == "all 3 known peers failed, the first is dialled again in 9.0 s; mostly: connection refused"
    (text,) = troubles(view(rows[0]))
    assert text == "the only known peer is dialled again in 9.0 s; mostly: connection refused"
    assert troubles(view(*rows, known(9))) == [], "one may be dialled now"


def test_configured_peers_that_are_not_there_are_named() -> None:
    absent = ConfiguredPeer("staticnode", "/ip4/192.0.2.1/tcp/1/p2p/16Uiu2HAmK", False)
    assert troubles(view(configured=(absent,))) == [f"staticnode {absent.address} is not connected"]
    row = KnownRecord(peer_id="16Uiu2HAmK", why="connection\nrefused")
    assert troubles(view(row, configured=(absent,), connected=(CONNECTED,))) == [
        f"staticnode {absent.address} is not connected: connection\\nrefused"
    ]
    there = ConfiguredPeer("storenode", absent.address, True)
    assert troubles(view(configured=(there,), connected=(CONNECTED,))) == []
    many = troubles(view(configured=(absent,) * 7))
    assert len(many) == 6
    assert many[-1] == "and 2 more configured peers are not connected"


def test_lists_that_cannot_be_read_and_unknown_addresses() -> None:
    one = ListRecord(url="enrtree://KEY@nodes.example.org", error="no answer")
    with_list = view(connected=(CONNECTED,), lists=(one,))
    assert troubles(with_list) == ["the list nodes.example.org cannot be read: no answer"]
    assert troubles(view(connected=(CONNECTED,), addresses=())) == [
        "no address is announced: no other node can dial this one"
    ]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"short_shards": (0, 3)}, "relay peers on shards 0, 3"),
        ({"short_shards": (), "short_services": ("store", "filter")}, "peers that serve store, filter"),
        ({"short_shards": ()}, "relay peers"),
        ({"short_shards": tuple(range(40))}, "relay peers on shards 0, 1, 2, 3, 4, 5, 6, 7, …"),
        ({"short": False}, ""),
    ],
)
def test_what_is_wanted_is_named(status: Mapping[str, Any], said: str) -> None:
    assert wanted_peers(view(**status).status) == said


def test_the_reason_is_without_what_the_kernel_puts_before_it() -> None:
    assert reason(known(1, why="metadata: peer reports no cluster")) == "peer reports no cluster"
    assert reason(known(1)) == ""


@pytest.mark.parametrize(
    ("options", "level", "said"),
    [
        ({}, Level.OK, "no source of peers"),
        ({"discv5-discovery": "true"}, Level.WARN, "discv5 is on but has no bootstrap node"),
        (
            {
                "staticnode": [
                    "/ip4/127.0.0.1/tcp/5/p2p/16Uiu2HAm9p9kdzmw2D5BDPSn8YfghzD3xm4iN4DYYJzZ7iTGNvcE"
                ]
            },
            Level.OK,
            "begins with 1 configured peer",
        ),
        ({"preset": "logos.test"}, Level.OK, "begins with "),
    ],
)
def test_a_configuration_must_have_a_first_peer(options: Mapping[str, Any], level: Level, said: str) -> None:
    finding = check_sources(load_kernel_config(flags=options))
    assert finding.level is level
    assert said in finding.text


def test_peers_as_a_person_reads_them() -> None:
    rows = (
        known(1, failures=3, retry_ms=4000, why="connection refused", last_success_ms=940_000, shards=(1,)),
        known(2),
        KnownRecord(peer_id=CONNECTED.peer_id, connected=True),
    )
    text = "\n".join(peers.as_text(view(*rows, connected=(CONNECTED,)), 1000.0))
    assert "1 peer connected (0 in, 1 out), 3 known" in text
    assert "looking for more relay peers on shard 1" in text
    line = next(line for line in text.splitlines() if "CCCCCCCC" in line)
    assert line.split() == [
        "…2HAmCCCCCCCC", "out", "1", "min", "1", "s", "discv5", "relay", "store", "1,3", "1", "1.3",
        "/ip4/192.0.2.7/tcp/5",
    ]  # fmt: skip
    assert text.endswith("2 more peers could be dialled, 1 of them only after a while (--all shows them)")

    text = "\n".join(peers.as_text(view(*rows, connected=(CONNECTED,)), 1000.0, known=True, long=True))
    assert "\x1b" not in text
    assert "16Uiu2HAmCCCCCCCC" in text
    assert "nwaku\\x1b[2J" in text
    failed = next(line for line in text.splitlines() if "16Uiu2HAm00000001" in line)
    assert "1 min 0 s ago" in failed
    assert failed.split()[-6:] == ["in", "4.0", "s", "/ip4/192.0.2.1/tcp/1", "connection", "refused"]
    assert "if wanted" in next(line for line in text.splitlines() if "16Uiu2HAm00000002" in line)
    assert "never" in text
    alone = "\n".join(peers.as_text(view(), 1000.0, known=True))
    assert "offline" in alone
    assert "no other peers are known" in alone


def test_discovery_as_a_person_reads_it() -> None:
    state = view(
        known(1, retry_ms=5),
        discv5=Discv5Record(running=True, port=9, nodes=2, verified=0, boot_nodes=1, observed="192.0.2.1:9"),
        lists=(ListRecord(url="enrtree://K@nodes.example.org", records=1, read_ms=990_000),),
        configured=(ConfiguredPeer("storenode", ADDRESS, True),),
        peer_exchange=True,
    )
    rows = dict(
        line.split("  ", 1) for line in discovery.as_text(state, 1000.0) for line in line.splitlines() if line
    )
    rows = {key: text.strip() for key, text in rows.items()}
    assert rows["own record"] == ENR
    assert rows["shard 1"] == "UNHEALTHY, 0 in the mesh of 0 peers"
    assert rows["peers"] == (
        "0 connected, 1 known, 1 to be dialled only after a while; the network was not heard from lately"
    )
    assert rows["discv5"] == (
        "UDP port 9; 2 nodes in its table, 0 of them have answered; 1 boot node; others see us at 192.0.2.1:9"
    )
    assert rows["list"] == "nodes.example.org: 1 node, read 10 s ago"
    assert rows["storenode"] == f"{ADDRESS} is connected"
    assert "warn" in rows
    assert discovery.as_json(state)["findings"]


def test_a_node_that_others_cannot_dial_is_warned() -> None:
    mapping = {"by": "upnp", "ip": "8.8.4.4", "ports": [["tcp", 60000, 61000]], "error": None}
    public = {"autonat": "public", "mapping": mapping}
    mapped = "ports mapped by upnp on 8.8.4.4: tcp 60000 at 61000"
    assert reachable_text(public) == f"yes, say peers that dialled it; {mapped}"
    assert reachable_text({"autonat": "unknown"}) == "not known yet"
    assert reachable_text(None) == ""
    assert troubles(view(connected=(CONNECTED,), reachability=public)) == []
    private = {"autonat": "private", "mapping": {"ip": None, "error": "NAT-PMP: no reply"}}
    (text,) = troubles(view(connected=(CONNECTED,), reachability=private))
    assert "could not" in text
    assert "NAT-PMP: no reply" in text

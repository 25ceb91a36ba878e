"""What a crawl found, counted."""

from __future__ import annotations

from dataclasses import replace

from ipc_schema.kernel.discovery import EnrRecord
from logos_deploy.node.crawl_census import MAX_VALUES, CrawledNode, Reach, take_census

RECORD = EnrRecord(
    enr="enr:-1", seq=5, peer_id="a", addresses=("/ip4/192.0.2.1/tcp/1",), capabilities=("relay", "store")
)


def test_a_newer_record_replaces_an_older_one_and_metadata_outlives_both() -> None:
    node = CrawledNode("a", addresses=("/ip4/192.0.2.9/tcp/9",))
    assert node.learn(replace(RECORD, cluster=1, shards=(0, 1)))
    assert not node.learn(replace(RECORD, cluster=7)), "as old"
    assert (node.cluster, node.shards, node.addresses) == (1, (0, 1), RECORD.addresses)
    node.dialled, node.shards = True, (2,)
    assert node.learn(replace(RECORD, seq=6, addresses=(), cluster=1, shards=(0,)))
    assert (node.shards, node.addresses) == ((2,), RECORD.addresses)


def test_reach_is_the_best_that_was_had() -> None:
    reach = {
        (None, None): Reach.NOT_ASKED,
        (False, None): Reach.NONE,
        (None, False): Reach.NONE,
        (False, False): Reach.NONE,
        (True, None): Reach.DISCV5_ONLY,
        (True, False): Reach.DISCV5_ONLY,
        (None, True): Reach.LIBP2P,
        (False, True): Reach.LIBP2P,
    }
    for (discv5, dialled), expected in reach.items():
        assert CrawledNode("a", discv5=discv5, dialled=dialled).reach is expected


def test_nodes_are_counted_under_each_of_their_values() -> None:
    known = CrawledNode(
        "a", dialled=True, agent="nwaku", protocols=("/x/1", "/x/1"), cluster=1, shards=(0, 2)
    )
    known.record = RECORD
    census = take_census([known, CrawledNode("b", agent="never said")])
    assert census.nodes == 2
    assert census.counts == {
        "reachability": {"libp2p": 1, "not asked": 1},
        "capability": {"not reported": 1, "relay": 1, "store": 1},
        "cluster": {"1": 1, "not reported": 1},
        "shard": {"1/0": 1, "1/2": 1},
        "agent": {"nwaku": 1},
        "protocol": {"/x/1": 1},
    }


def test_what_nodes_say_of_themselves_is_bounded_and_fit_to_print() -> None:
    nodes = [CrawledNode(str(n), dialled=True, agent=f"agent {n}\n" + 200 * "x") for n in range(150)]
    agents = take_census(nodes).counts["agent"]
    assert agents["other"] == 150 - MAX_VALUES
    assert all(len(agent) <= 80 and "\n" not in agent for agent in agents)

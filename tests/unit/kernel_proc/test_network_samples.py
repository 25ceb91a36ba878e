"""Bytes, streams and peers as the metrics of nwaku and nim-libp2p name them."""

from __future__ import annotations

from kernel_proc.metrics import Sample
from kernel_proc.network_samples import error_samples, traffic_samples, transport_samples
from kernel_proc.relay.params import RELAY_PROTOCOL
from kernel_proc.relay.traffic import MAX_TOPICS, TrafficBook
from tests.support.aio import trio_test
from tests.support.relay import TOPIC, RelayNode, connect, relay_node, waku


def traffic(node: RelayNode) -> dict[tuple[str, str], float]:
    found: list[Sample] = list(traffic_samples(node.relay))
    return {
        (labels["type"], labels["direction"]): value
        for name, labels, value in found
        if name == "relay_network_bytes" and labels["topic"] == TOPIC
    }


@trio_test()
async def test_bytes_of_messages_by_topic_and_of_connections() -> None:
    data = waku(b"x" * 5000)
    async with relay_node(TOPIC) as a, relay_node(TOPIC) as b:
        await connect(a, b)
        await a.relay.publish(TOPIC, data)
        await b.until_received(1)
        size = len(data)
        assert traffic(a) == {
            ("gross", "in"): 0,
            ("net", "in"): 0,
            ("gross", "out"): size,
            ("net", "out"): size,
        }
        assert traffic(b) == {
            ("gross", "in"): size,
            ("net", "in"): size,
            ("gross", "out"): 0,
            ("net", "out"): 0,
        }

        samples = {(name, *labels.values()): value for name, labels, value in transport_samples(b.host)}
        assert samples["libp2p_peers",] == 1
        assert samples["libp2p_network_bytes", "in"] > size
        assert 0 < samples["libp2p_network_bytes", "out"] < size
        assert samples["streams_peers", "inbound", RELAY_PROTOCOL] == 1
        assert samples["streams_peers", "outbound", RELAY_PROTOCOL] == 1

        before = b.host.traffic
        await b.host.disconnect(a.peer_id, "test")
        after = b.host.traffic
        assert after[0] >= before[0] > size
        assert after[1] >= before[1]
        assert {name for name, _, value in transport_samples(b.host) if value} == {"libp2p_network_bytes"}


def test_topics_beyond_the_bound_share_their_counters() -> None:
    book = TrafficBook()
    for number in range(MAX_TOPICS + 10):
        book.of(f"/waku/2/rs/1/{number}").gross_in += 1
    sizes = {topic: size for topic, kind, direction, size in book if (kind, direction) == ("gross", "in")}
    assert len(sizes) == MAX_TOPICS + 1
    assert sizes["other"] == 10


def test_errors_are_those_of_the_node_itself() -> None:
    found = list(error_samples({"handler_errors": 2, "handshake_failed": 9}, {"validator_errors": 1}))
    assert found == [
        ("node_errors", {"type": "stream_handler"}, 2),
        ("node_errors", {"type": "relay_validator"}, 1),
    ]

"""The page that Prometheus reads, on a node that does a little of everything; dashboards and alerts on it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.grafana import (
    BRIDGE,
    GRAFANA,
    alert_queries,
    dashboard_queries,
    names_in,
    served_names,
)
from tests.integration.logos_node import LogosUp, short_directory
from tests.support.gateway_process import Answer, GatewayProcess

pytestmark = pytest.mark.integration

NETWORK = ("cluster-id=7", "num-shards-in-network=1", "discv5-discovery=true", "discv5-udp-port=0")
CONTENT = "/gateway-metrics/1/test/proto"
CHANNEL = "/gateway-metrics/1/channel/proto"


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """The page of a node with an archive, after a message from its peer went to an app."""
    with short_directory() as path:
        nodes = [LogosUp(path / "a", *NETWORK, "store=true"), LogosUp(path / "b", *NETWORK)]
        gateways: list[GatewayProcess] = []
        try:
            for node in nodes:
                node.wait_said("the node is ready: apps connect to")
                gateways.append(GatewayProcess(node.data_dir, "--rest-admin"))
            a, b = gateways
            for gateway in gateways:
                gateway.wait_for("/health", lambda answer: answer.json["nodeHealth"] == "READY")
            (address,) = b.request("GET", "/info").json["listenAddresses"]
            assert a.request("POST", "/admin/v1/peers", [address]).status == 200
            assert a.request("POST", "/apps/v1/me/subscriptions", {"topics": [CONTENT]}).status == 200
            channel = {"channelId": "room", "contentTopic": CHANNEL}
            assert a.request("POST", "/apps/v1/me/channels", channel).status == 200
            for gateway in gateways:
                gateway.wait_for("/admin/v1/peers/mesh/on/0", lambda answer: len(answer.json["peers"]) == 1)
            body = {"contentTopic": CONTENT, "payload": base64.b64encode(b"metrics").decode()}
            assert b.request("POST", "/apps/v1/me/sends", body).status == 202
            # Ephemeral: the archive is to hold the message above alone.
            brief = {"payload": "aGk=", "ephemeral": True}
            assert a.request("POST", "/apps/v1/me/channels/room/sends", brief).status == 202
            with a.events("/apps/v1/me/events?ack=auto") as reader:
                reader.take("message_received", 1)

            def complete(answer: Answer) -> bool:
                # The archive writes in batches; what metadata and discv5 find of the peer comes later.
                wanted = (
                    'archive_messages{type="stored"} 1.0',
                    "connected_peers_per_shard{",
                    "discovered_per_shard",
                    'channel_sends_total{state="sent"} 1.0',
                    "channel_refused_total{",  # its own message, as it comes back
                )
                return all(part in answer.text for part in wanted)

            yield a.wait_for("/metrics", complete, server="metrics").text
        finally:
            for gateway in gateways:
                gateway.close()
            for node in nodes:
                node.close()


# --- our dashboard and alerts ------------------------------------------------------------------------------


def test_every_query_of_dashboard_and_alerts_finds_its_series(page: str) -> None:
    served = served_names(page)
    queries = [query for query in (*dashboard_queries(), *alert_queries()) if BRIDGE not in query]
    assert len(queries) > 70
    assert all(names_in(query) for query in queries)
    missing = {query: sorted(names_in(query) - served) for query in queries if names_in(query) - served}
    assert missing == {}


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([program, *arguments], cwd=GRAFANA, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alert_rules_fire_when_they_should() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts-test.yml")


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(dashboard_queries())]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # YAML reads JSON
    promtool("check", "rules", str(file))


def test_panels_do_not_overlap() -> None:
    dashboard: dict[str, Any] = json.loads((GRAFANA / "logos-node.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


# --- the reference's dashboard -----------------------------------------------------------------------------

REFERENCE_SERIES = """
    libp2p_autonat_reachability_confidence libp2p_network_bytes_total libp2p_peers libp2p_pubsub_topics
    process_start_time_seconds routing_table_nodes
    waku_archive_messages_per_shard waku_connected_peers waku_connected_peers_per_agent
    waku_connected_peers_per_shard waku_discv5_discovered_per_shard waku_histogram_message_size_bucket
    waku_histogram_message_size_count waku_histogram_message_size_sum waku_node_messages_total
    waku_peer_store_size waku_relay_avg_msg_bytes_per_shard waku_relay_max_msg_bytes_per_shard
    waku_relay_network_bytes_total waku_relay_total_msg_bytes_per_shard waku_service_network_bytes_total
    waku_service_requests_total waku_version
"""
"""What the dashboard of the reference's Docker stack asks a node for: names only."""

NOT_OURS = {
    "nim_gc_heap_instance_occupied_bytes": "the runtime of the reference",
    "nim_gc_mem_bytes": "the runtime of the reference",
    "waku_relay_fleet_store_msg_count": "no longer exposed by the reference",
    "waku_relay_fleet_store_msg_size_bytes": "no longer exposed by the reference",
    "waku_rln_*": "RLN",
    "pg_*": "the exporter of PostgreSQL",
}
"""What else it asks for, and why a node of this implementation has none of it."""


def test_the_dashboard_of_the_reference_finds_its_series(page: str) -> None:
    served = {name.replace("logos_delivery_", "waku_", 1) for name in served_names(page)}
    assert set(REFERENCE_SERIES.split()) - served == set()
    assert not set(NOT_OURS) & served


ADDED = {
    "relay_network_bytes_total": {"topic", "type", "direction"},
    "node_errors_total": {"type"},
    "peers_errors_total": {"type"},
    "node_conns_initiated_total": {"source"},
    "streams_peers": {"direction", "protocol"},
    "total_unique_peers": set(),
    "archive_messages_per_shard": {"shard"},
    "discv5_discovered_per_shard": {"shard"},
    "discv5_errors_total": {"type"},
    "dnsdisc_discovered": set(),
    "dnsdisc_errors_total": {"type"},
    "px_peers_received_unknown": set(),
    "query_count_total": {"query"},
    "query_time_secs": {"query", "phase"},
    "send_store_validation_timeout_total": set(),
    "recv_messages_total": {"source"},
    "recv_message_bytes_total": {"source"},
    "messaging_channels": {"state"},
    "messaging_channel_sends_total": {"state"},
    "messaging_channel_received_total": set(),
    "messaging_channel_received_bytes_total": set(),
    "messaging_channel_transmissions_total": {"type"},
    "messaging_channel_attempts_total": {"type"},
    "messaging_channel_refused_total": {"reason"},
    "messaging_channel_lost_total": set(),
    "messaging_channel_retrievals_total": {"type"},
    "messaging_channel_buffered": {"buffer"},
    "messaging_channel_buffered_bytes": {"buffer"},
    "gateway_requests_total": {"group", "status"},
}


def test_families_and_their_labels(page: str) -> None:
    found: dict[str, set[str]] = {}
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            name = one.name.removeprefix("logos_delivery_")
            found[name] = set(one.labels)
            values[name] = max(one.value, values.get(name, 0.0))
            assert len(one.labels) <= 3
    assert {name: found.get(name) for name in ADDED} == ADDED
    for name in (
        "relay_network_bytes_total",
        "streams_peers",
        "archive_messages_per_shard",
        "query_count_total",
    ):
        assert values[name] > 0, name
    # And what the channel hears of itself.
    assert values["recv_messages_total"] >= 2
    assert values["recv_message_bytes_total"] > len(b"metrics")


def test_every_family_is_described(page: str) -> None:
    for family in text_string_to_metric_families(page):
        assert family.type != "unknown", family.name
        assert family.documentation, family.name

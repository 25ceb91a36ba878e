"""The page of a real node: every metric is described, and is what it is said to be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ipc_schema.config.kernel import load_kernel_config
from ipc_schema.control import MetricsReply
from ipc_schema.metric_samples import histogram_of
from kernel_proc.metric_families import FAMILIES, family_of
from kernel_proc.node import Node
from tests.support.aio import trio_test
from tests.support.kernel_process import short_directory

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]

REFERENCE = {
    "version": "gauge",
    "node_messages": "counter",
    "histogram_message_size": "histogram",
    "event_loop_load": "gauge",
    "event_loop_accumulated_lag_secs": "counter",
    "peer_store_size": "gauge",
    "peers_dials": "counter",
    "lightpush_peers": "gauge",
    "filter_peers": "gauge",
    "store_peers": "gauge",
    "px_peers": "gauge",
    "px_peers_sent": "counter",
    "px_peers_received_total": "counter",
    "relay_avg_msg_bytes_per_shard": "gauge",
    "relay_max_msg_bytes_per_shard": "gauge",
    "relay_total_msg_bytes_per_shard": "gauge",
    "msg_validator_signed_outcome": "counter",
    "total_messages_cached": "gauge",
    "filter_requests": "counter",
    "filter_errors": "counter",
    "filter_subscriptions": "gauge",
    "filter_request_duration_seconds": "histogram",
    "filter_handle_message_duration_seconds": "histogram",
    "store_queries": "counter",
    "store_time_seconds": "gauge",
    "archive_messages": "gauge",
    "archive_errors": "counter",
    "archive_insert_duration_seconds": "histogram",
    "archive_query_duration_seconds": "histogram",
    "service_requests": "counter",
    "service_requests_limit": "gauge",
    "service_network_bytes": "counter",
    "service_request_handling_duration_seconds": "histogram",
}
"""Names and kinds that dashboards made for nwaku ask for, of the parts that this node has."""


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


async def reports(directory: Path) -> tuple[list[MetricsReply], set[str]]:
    """Two reports of a node, with something that happened between them, and the present sizes of discv5."""
    flags = {"store": True, "shard": [0], "discv5-discovery": True}
    ports = {"tcp-port": 0, "discv5-udp-port": 0}
    node = Node(load_kernel_config(flags={"data-dir": str(directory / "k"), **flags, **ports}))
    found: list[MetricsReply] = []
    sizes: set[str] = set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        # The archive counts what it has once its database is open.
        while not node.health.ready or "archive_messages" not in node.registry.report().families:
            await trio.sleep(0.01)
        found.append(node.registry.report())
        assert node._network is not None
        sizes |= set(node._network.peering.discv5.gauges())
        node.shards.acquire("x", [0])
        node.shards.release("x", [0])
        found.append(node.registry.report())
        node.stop("test")
    return found, sizes


def figures(report: MetricsReply) -> Figures:
    return {(name, tuple(sorted(labels.items()))): value for name, labels, value in report.samples}


def check_histograms(report: MetricsReply) -> None:
    """Buckets rise, and the last one is the count."""
    buckets: Figures = {}
    for name, labels, value in report.samples:
        if name.endswith("_bucket") and histogram_of(name) in report.families:
            series = tuple(sorted((key, text) for key, text in labels.items() if key != "le"))
            key = (histogram_of(name), series)
            assert value >= buckets.get(key, 0), key
            buckets[key] = value
    counts = figures(report)
    assert buckets
    for (name, series), last in buckets.items():
        assert counts[f"{name}_count", series] == last


@trio_test()
async def test_the_report_of_a_node(directory: Path) -> None:
    (first, second), sizes = await reports(directory)
    # A metric without a description: it belongs into kernel_proc.metric_families.
    for name, _, _ in first.samples:
        assert name in first.families or histogram_of(name) in first.families, name
    check_histograms(second)
    kinds = {name: kind for name, (kind, _) in first.families.items()}
    assert {name: kinds.get(name) for name in REFERENCE} == REFERENCE
    assert {f"discv5_{name}" for name in sizes} == {
        name for name, kind in kinds.items() if name.startswith("discv5_") and kind == "gauge"
    }
    later = figures(second)
    for (name, labels), value in figures(first).items():
        if kinds.get(name) == "counter":
            assert 0 <= value <= later[name, labels], name


@trio_test()
async def test_what_a_registry_counts_is_called_a_counter(directory: Path) -> None:
    node = Node(load_kernel_config(flags={"data-dir": str(directory / "k")}))
    families = node.registry.report().families
    assert {families[name][0] for name in node.registry._counters} == {"counter"}


def test_descriptions() -> None:
    for name, family in FAMILIES.items():
        assert family.kind in ("counter", "gauge", "histogram"), name
        assert family.help.endswith("."), name
        assert family.kind == "counter" or not name.endswith("_total"), name
    assert family_of("relay_something_new") is not None
    assert family_of("something_new") is None

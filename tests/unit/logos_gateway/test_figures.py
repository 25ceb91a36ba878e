"""What a person sees of a node's counters."""

from __future__ import annotations

import json

from logos_gateway.operator.exposition import ProcessSamples
from logos_gateway.operator.figures import node_figures

KERNEL = ProcessSamples(
    "kernel",
    [
        ("version", {"version": "0.2.0"}, 1),
        ("node_messages", {"type": "relay"}, 7),
        ("node_messages", {"type": "self"}, 2),
        ("relay_total_msg_bytes_per_shard", {"shard": "3"}, 500),
        ("relay_avg_msg_bytes_per_shard", {"shard": "3"}, 100),
        ("relay_total_msg_bytes_per_shard", {"shard": "4"}, 0),
        ("relay_avg_msg_bytes_per_shard", {"shard": "4"}, 0),
        ("process_resident_memory_bytes", {}, 1024),
        ("archive_ready", {}, 1),
        ("archive_messages", {"type": "stored"}, 12),
        ("archive_query_duration_seconds_bucket", {"le": "+Inf"}, 3),
        ("archive_query_duration_seconds_bucket", {"le": "0.01"}, 2),
        ("archive_query_duration_seconds_sum", {}, 0.5),
        ("archive_query_duration_seconds_count", {}, 3),
    ],
    {},
)


def test_figures_of_a_kernel() -> None:
    figures = node_figures([KERNEL, ProcessSamples("gateway", [("up", {"process": "kernel"}, 1.0)], {})])
    assert figures["messages"] == {"relay": 7, "self": 2}
    assert figures["shards"] == [
        {"shard": 3, "bytes": 500, "messages": 5},
        {"shard": 4, "bytes": 0, "messages": 0},
    ]
    assert figures["processes"]["kernel"] == {"memoryBytes": 1024, "version": "0.2.0"}
    assert figures["archive"]["messages"] == 12
    assert figures["archive"]["queries"] == {"count": 3, "seconds": 0.5, "buckets": [[0.01, 2], [None, 3]]}
    json.dumps(figures, allow_nan=False)


def test_what_does_not_answer_is_left_out() -> None:
    figures = node_figures([ProcessSamples("gateway", [], {})])
    assert figures == {"processes": {"gateway": {}}}


def test_a_kernel_without_an_archive_has_none() -> None:
    bare = [sample for sample in KERNEL.samples if not sample[0].startswith("archive_")]
    assert "archive" not in node_figures([ProcessSamples("kernel", bare, {})])

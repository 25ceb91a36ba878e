"""The registry of counters."""

from __future__ import annotations

import time

from kernel_proc import metrics
from kernel_proc.metrics import Registry


def test_counters_are_shared_by_name_and_labels() -> None:
    registry = Registry("p_")
    registry.counter("hits", kind="a", place="x").add()
    registry.counter("hits", place="x", kind="a").add(2)
    registry.counter("hits", kind="b", place="x").add()
    registry.add_source(lambda: [("gauge", {}, 1.5)])
    assert registry.collect() == [
        ("p_hits", {"kind": "a", "place": "x"}, 3),
        ("p_hits", {"kind": "b", "place": "x"}, 1),
        ("p_gauge", {}, 1.5),
    ]


def test_series_are_bounded() -> None:
    registry = Registry("")
    for number in range(metrics.MAX_SERIES + 50):
        registry.counter("agents", agent=str(number)).add()
    collected = {labels["agent"]: value for _, labels, value in registry.collect()}
    assert len(collected) == metrics.MAX_SERIES + 1
    assert collected["other"] == 50


def test_a_label_of_any_length_leaves_room_for_the_others() -> None:
    """A store chose the pubsub topic of what it returned, and no metrics fitted into a reply any more."""
    registry = Registry()
    for shard in ("0", "1" * 900_000, "2" * 900_000):
        registry.counter("store_fleet_msg_count", shard=shard).add()
    assert {labels["shard"]: value for _, labels, value in registry.collect()} == {"0": 1, "other": 2}


def test_histograms_are_cumulative() -> None:
    registry = Registry("")
    histogram = registry.histogram("size", (1, 5))
    for value in (0.5, 1, 3, 100):
        histogram.observe(value)
    assert registry.collect() == [
        ("size_bucket", {"le": "1"}, 2),
        ("size_bucket", {"le": "5"}, 3),
        ("size_bucket", {"le": "+Inf"}, 4),
        ("size_sum", {}, 104.5),
        ("size_count", {}, 4),
    ]


def test_a_histogram_may_have_labels() -> None:
    registry = Registry("")
    registry.histogram("took", (1,), kind="a").observe(2)
    registry.histogram("took", (1,), kind="b").observe(0.5)
    registry.histogram("took", (1,), kind="b").observe(0.5)
    counts = {labels["kind"]: value for name, labels, value in registry.collect() if name == "took_count"}
    assert counts == {"a": 1, "b": 2}


def test_a_report_says_what_each_value_is() -> None:
    registry = Registry("x_")
    registry.counter("ipc_errors", code="busy").add()
    registry.counter("unheard_of").add(2)
    registry.histogram("histogram_message_size", [1.0]).observe(0.5)
    registry.add_source(lambda: [("relay_px_given", {}, 3), ("relay_backoffs", {}, 1)])
    report = registry.report()
    values = {name: value for name, labels, value in report.samples}
    assert (values["ipc_errors"], values["unheard_of"], values["relay_px_given"]) == (1, 2, 3)
    assert report.families["ipc_errors"][0] == "counter"
    assert "unheard_of" not in report.families
    assert report.families["histogram_message_size"][0] == "histogram"
    assert report.families["relay_px_given"] == ("counter", "Relay: px given, counted since the start.")
    assert report.families["relay_backoffs"][0] == "gauge"
    assert values["process_resident_memory_bytes"] > 10e6
    assert 0 <= time.time() - values["process_start_time_seconds"] < 36_000
    assert values["process_open_fds"] >= 3
    assert report.families["process_cpu_seconds_total"][0] == "counter"

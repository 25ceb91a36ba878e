"""The registry of counters."""

from __future__ import annotations

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


def test_exposition() -> None:
    registry = Registry("x_")
    registry.counter("a", text='quote " slash \\ line\n').add()
    registry.counter("b").add(2)
    assert registry.exposition() == 'x_a{text="quote \\" slash \\\\ line\\n"} 1\nx_b 2\n'

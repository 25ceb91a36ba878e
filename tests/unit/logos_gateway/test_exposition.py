"""The page that Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from logos_gateway.operator.exposition import ProcessSamples, expose

FAMILIES = {
    "node_messages": ("counter", "New messages."),
    "archive_stored_total": ("counter", "Stored."),
    "peers": ("gauge", "Peers."),
    "size": ("histogram", "Sizes."),
    "process_open_fds": ("gauge", "Descriptors."),
}


def page(*samples: tuple[str, dict[str, str], float], prefix: str = "logos_delivery_") -> str:
    return expose([ProcessSamples("kernel", samples, FAMILIES)], prefix).decode()


def test_counters_end_in_total_once() -> None:
    text = page(("node_messages", {"type": "relay"}, 3), ("archive_stored_total", {}, 4), ("peers", {}, 5))
    lines = text.splitlines()
    assert 'logos_delivery_node_messages_total{type="relay"} 3.0' in lines
    assert "logos_delivery_archive_stored_total 4.0" in lines
    assert "logos_delivery_peers 5.0" in lines
    assert "# TYPE logos_delivery_peers gauge" in lines
    assert "# HELP logos_delivery_node_messages_total New messages." in lines
    assert not any(line.startswith("logos_delivery_node_messages{") for line in lines)


def test_what_others_read_is_what_was_said() -> None:
    text = page(
        ("size_bucket", {"le": "1"}, 2),
        ("size_bucket", {"le": "+Inf"}, 3),
        ("size_sum", {}, 7.5),
        ("size_count", {}, 3),
        ("unheard_of", {"a b": 'quote " and\nline'}, 1),
        prefix="waku_",
    )
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["waku_size"].type == "histogram"
    assert {(one.name, one.value) for one in families["waku_size"].samples} == {
        ("waku_size_bucket", 2),
        ("waku_size_bucket", 3),
        ("waku_size_sum", 7.5),
        ("waku_size_count", 3),
    }
    (sample,) = families["waku_unheard_of"].samples
    assert sample.labels == {"a_b": 'quote " and\nline'}


def test_processes_keep_their_own_figures_apart_and_nothing_comes_twice() -> None:
    one = ProcessSamples(
        "kernel", [("process_open_fds", {}, 5), ("peers", {}, 1), ("peers", {}, 2)], FAMILIES
    )
    two = ProcessSamples("mapi", [("process_open_fds", {}, 7), ("peers", {}, 3)], FAMILIES)
    lines = expose([one, two], "p_").decode().splitlines()
    assert 'process_open_fds{process="kernel"} 5.0' in lines
    assert 'process_open_fds{process="mapi"} 7.0' in lines
    assert [line for line in lines if line.startswith("p_peers")] == ["p_peers 1.0"]

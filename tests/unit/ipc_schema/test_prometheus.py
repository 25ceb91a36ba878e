from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ipc_schema.prometheus import PROCESS, Family, Sample, exposition, process_samples
from tests.support.exposition import parse


def test_series_of_a_name_stand_together_and_none_comes_twice() -> None:
    page = exposition(
        [("a", {"x": "1"}, 1), ("b", {}, 2.5), ("a", {"x": "2"}, 3), ("a", {"x": "1"}, 9)],
        {"a": Family("counter", "of\nthe \\ test")},
    )
    assert page == ('# HELP a of\\nthe \\\\ test\n# TYPE a counter\na{x="1"} 1\na{x="2"} 3\nb 2.5\n')


def test_a_histogram_has_one_head() -> None:
    samples = [("h_bucket", {"le": "+Inf"}, 1), ("h_sum", {}, 0.5), ("h_count", {}, 1), ("x_count", {}, 4)]
    page = exposition(samples, {"h": Family("histogram", "H.")})
    assert page == (
        '# HELP h H.\n# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_sum 0.5\nh_count 1\nx_count 4\n'
    )


LABELS = st.dictionaries(st.text(max_size=5), st.text(st.characters(codec=None), max_size=8), max_size=2)
NAMES = st.text(max_size=8) | st.sampled_from(["h_bucket", "h_sum", "h_count", "c", "g"])
FAMILIES = {"h": Family("histogram", "h"), "c": Family("counter", "c\\\n"), "g": Family("gauge", "")}


@given(st.lists(st.tuples(NAMES, LABELS, st.floats() | st.integers() | st.booleans()), max_size=12))
def test_any_samples_make_a_page_that_can_be_read(samples: list[Sample]) -> None:
    page = exposition(samples, FAMILIES)
    page.encode()
    families = parse(page)
    assert sum(len(family.samples) for family in families.values()) <= len(samples)


def test_whatever_stands_in_names_and_labels_the_page_can_be_read() -> None:
    page = exposition([("a-b", {"p q": 'say "x"\\\n'}, math.inf), ("1", {}, math.nan), ("t", {}, True)])
    assert page == 'a_b{p_q="say \\"x\\"\\\\\\n"} +Inf\n_1 NaN\nt 1\n'


def test_the_process_from_what_the_system_tells() -> None:
    # proc(5): fields 14 and 15 are CPU, 20 threads, 22 the start in ticks, 23 and 24 memory
    stat = "7 (odd) name) S " + " ".join(str(number) for number in range(4, 53))
    values = {name: value for name, _, value in process_samples(stat, 100, 4096, 12, 1000.0)}
    assert values == {
        "process_cpu_seconds_total": 0.29,
        "process_start_time_seconds": 1000.22,
        "process_virtual_memory_bytes": 23,
        "process_resident_memory_bytes": 24 * 4096,
        "process_open_fds": 12,
        "process_threads": 20,
    }
    assert set(values) == set(PROCESS)


OFFICIAL = st.tuples(
    st.sampled_from(["c", "g", "other"]),
    st.dictionaries(st.sampled_from(["x", "y"]), st.text(min_size=1, max_size=8)),
    st.integers(0, 2**40),
)


@given(st.lists(OFFICIAL, max_size=8, unique_by=lambda one: (one[0], tuple(sorted(one[1].items())))))
def test_the_official_reader_understands_a_page(samples: list[Sample]) -> None:
    kinds = {"c": "counter", "g": "gauge", "other": "unknown"}
    read: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(exposition(samples, FAMILIES)):
        assert family.type == kinds[family.name]
        read.setdefault(family.name, []).extend((one.labels, one.value) for one in family.samples)
    written: dict[str, list[tuple[dict[str, str], float]]] = {}
    for name, labels, value in samples:
        written.setdefault(name, []).append((dict(labels), float(value)))
    assert read == written

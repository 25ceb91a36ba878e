from __future__ import annotations

import math

from ipc_schema.prometheus import exposition, process_samples


def test_series_of_a_name_stand_together_and_none_comes_twice() -> None:
    page = exposition(
        [("a", {"x": "1"}, 1), ("b", {}, 2.5), ("a", {"x": "2"}, 3), ("a", {"x": "1"}, 9)], {"a": "counter"}
    )
    assert page == '# TYPE a counter\na{x="1"} 1\na{x="2"} 3\nb 2.5\n'


def test_a_histogram_has_one_type_line() -> None:
    samples = [("h_bucket", {"le": "+Inf"}, 1), ("h_sum", {}, 0.5), ("h_count", {}, 1), ("x_count", {}, 4)]
    page = exposition(samples, {"h": "histogram"})
    assert page == '# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_sum 0.5\nh_count 1\nx_count 4\n'


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

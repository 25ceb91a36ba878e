from __future__ import annotations

from ipc_schema.metric_samples import PROCESS, Family, families_of, histogram_of, process_samples


def test_families_of_what_there_is() -> None:
    known = {"h": Family("histogram", "H."), "c": Family("counter", "C."), "x": Family("gauge", "X.")}
    samples = [("h_bucket", {"le": "1"}, 1), ("h_sum", {}, 2.0), ("c", {"a": "b"}, 3), ("unknown", {}, 4)]
    assert families_of(samples, known) == {"h": ("histogram", "H."), "c": ("counter", "C.")}
    assert histogram_of("a_bucket") == "a"
    assert histogram_of("a_buckets") == "a_buckets"


def test_the_process_from_what_the_system_tells() -> None:
    # proc(5): fields 14 and 15 are CPU, 20 threads, 22 the start in ticks, 23 and 24 memory
    stat = "7 (odd) name) S " + " ".join(str(number) for number in range(4, 53))
    values = {
        name: value for name, _, value in process_samples(stat, 100, 4096, 1000.0, files=12, max_files=1024)
    }
    assert values == {
        "process_cpu_seconds_total": 0.29,
        "process_start_time_seconds": 1000.22,
        "process_virtual_memory_bytes": 23,
        "process_resident_memory_bytes": 24 * 4096,
        "process_open_fds": 12,
        "process_max_fds": 1024,
        "process_threads": 20,
    }
    assert set(values) == set(PROCESS)

"""Counters and gauges as the processes report them: names without prefix, labels, values. Pure.

The gateway renders them for Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

__all__ = ["PROCESS", "Family", "Sample", "families_of", "histogram_of", "process_samples"]

Sample = tuple[str, Mapping[str, str], float]
"""One sample: name, labels, value."""

_OF_HISTOGRAM: Final = ("_bucket", "_sum", "_count")


class Family(NamedTuple):
    """Type and help text of all samples of one name: `kind` is counter, gauge or histogram."""

    kind: str
    help: str


PROCESS: Final[Mapping[str, Family]] = {
    "process_cpu_seconds_total": Family("counter", "User and system CPU time of the process."),
    "process_start_time_seconds": Family("gauge", "Start of the process, in seconds since 1970."),
    "process_virtual_memory_bytes": Family("gauge", "Virtual memory of the process."),
    "process_resident_memory_bytes": Family("gauge", "Resident memory of the process."),
    "process_open_fds": Family("gauge", "Open file descriptors of the process."),
    "process_max_fds": Family("gauge", "File descriptors that the process may have open."),
    "process_threads": Family("gauge", "Threads of the process."),
}
"""Families of `process_samples`."""


def histogram_of(name: str) -> str:
    """Return the histogram that a sample of this name would belong to; the name itself if it cannot be
    one."""
    for ending in _OF_HISTOGRAM:
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name


def families_of(samples: Iterable[Sample], known: Mapping[str, Family]) -> dict[str, tuple[str, str]]:
    """Return (kind, help) of every known family among the samples."""
    names = {name: None for sample, _, _ in samples for name in (sample, histogram_of(sample))}
    return {name: (known[name].kind, known[name].help) for name in names if name in known}


def process_samples(
    stat: str, ticks: int, page: int, boot: float, *, files: int, max_files: int
) -> list[Sample]:
    """Return the standard process metrics, named like those of the Prometheus client libraries, without
    prefix.

    `stat` is the text of /proc/self/stat, `ticks` and `page` are sysconf's clock ticks per second and page
    size, `boot` is the host's boot time in Unix seconds, `files` the number of open descriptors and
    `max_files` their soft limit.
    """
    # The second field is the program's name in parentheses, which may itself contain ")" and spaces.
    values = stat.rpartition(")")[2].split()
    return [
        ("process_cpu_seconds_total", {}, (int(values[11]) + int(values[12])) / ticks),
        ("process_start_time_seconds", {}, boot + int(values[19]) / ticks),
        ("process_virtual_memory_bytes", {}, int(values[20])),
        ("process_resident_memory_bytes", {}, int(values[21]) * page),
        ("process_open_fds", {}, files),
        ("process_max_fds", {}, max_files),
        ("process_threads", {}, int(values[17])),
    ]

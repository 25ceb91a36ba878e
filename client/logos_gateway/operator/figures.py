"""A node's most important figures, picked from the samples of its processes. Pure.

Totals, not rates: a reader can compute rates from any two, whatever it missed in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from logos_gateway.operator.exposition import ProcessSamples

_PROCESS: Final = {
    "process_cpu_seconds_total": "cpuSeconds",
    "process_resident_memory_bytes": "memoryBytes",
    "process_open_fds": "openFiles",
    "process_threads": "threads",
    "tasks": "tasks",
}
_ARCHIVE: Final = {
    "archive_queue_messages": "waiting",
    "archive_stored_total": "stored",
    "archive_removed_total": "removed",
    "archive_size_bytes": "bytes",
}


class _Samples:
    """The samples of one process by name."""

    def __init__(self, samples: Iterable[tuple[str, Mapping[str, str], float]]) -> None:
        self._by_name: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for name, labels, value in samples:
            self._by_name.setdefault(name, []).append((labels, value))

    def of(self, name: str) -> list[tuple[Mapping[str, str], float]]:
        return self._by_name.get(name, [])

    def one(self, name: str) -> float | None:
        found = self.of(name)
        return found[0][1] if found else None

    def by(self, name: str, label: str) -> dict[str, float]:
        return {labels[label]: value for labels, value in self.of(name) if label in labels}


def node_figures(processes: Iterable[ProcessSamples]) -> dict[str, Any]:
    """Return the figures of every process that has answered, without those that a process lacks."""
    by_process = {one.process: _Samples(one.samples) for one in reversed(list(processes))}
    kernel = by_process.get("kernel")
    figures: dict[str, Any] = {
        "processes": {name: _process(samples) for name, samples in sorted(by_process.items())},
    }
    if kernel is not None:
        figures["messages"] = kernel.by("node_messages", "type")
        figures["shards"] = list(_shards(kernel))
        figures["knownPeers"] = kernel.one("peer_store_size")
        figures["eventLoopLoad"] = kernel.by("event_loop_load", "window")
        if kernel.of("archive_ready"):
            figures["archive"] = _archive(kernel)
    return figures


def _process(samples: _Samples) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, key in _PROCESS.items():
        value = samples.one(name)
        if value is not None:
            shown[key] = value
    versions = samples.of("version")
    if versions:
        shown["version"] = versions[0][0].get("version", "")
    return shown


def _shards(kernel: _Samples) -> Iterator[dict[str, Any]]:
    """Return bytes and messages since the node joined the shard."""
    means = kernel.by("relay_avg_msg_bytes_per_shard", "shard")
    for shard, total in kernel.by("relay_total_msg_bytes_per_shard", "shard").items():
        if shard.isdigit():
            mean = means.get(shard, 0.0)
            yield {"shard": int(shard), "bytes": total, "messages": round(total / mean) if mean else 0}


def _archive(kernel: _Samples) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "ready": kernel.one("archive_ready") == 1,
        "messages": kernel.by("archive_messages", "type").get("stored", 0),
        "errors": kernel.by("archive_errors", "type"),
    }
    for name, key in _ARCHIVE.items():
        value = kernel.one(name)
        if value is not None:
            shown[key] = value
    shown["queries"] = _histogram(kernel, "archive_query_duration_seconds")
    shown["inserts"] = _histogram(kernel, "archive_insert_duration_seconds")
    return shown


def _histogram(samples: _Samples, name: str) -> dict[str, Any]:
    """Return `buckets`: [upper bound in seconds, cumulative count], the last bound null."""
    buckets = sorted((float(edge), count) for edge, count in samples.by(f"{name}_bucket", "le").items())
    return {
        "count": samples.one(f"{name}_count") or 0,
        "seconds": samples.one(f"{name}_sum") or 0,
        "buckets": [[None if edge == float("inf") else edge, count] for edge, count in buckets],
    }

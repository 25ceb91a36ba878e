"""Samples of the node's processes in the formats that Prometheus reads, by `prometheus_client`. Pure.

Processes report samples without prefix, and counters under the name in nwaku's source. Counters are exposed
with `_total` appended, as nim-metrics does. `process_*` has no prefix; a label says which process it is
about."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

Sample = tuple[str, Mapping[str, str], float]
_OF_PROCESS: Final = ("process_", "python_")
"""Prefixes of names that every process has, distinguished by a label."""
_PLAIN: Final = (*_OF_PROCESS, "libp2p_", "routing_table_nodes")
"""Prefixes of names that get no prefix of ours: those of libraries, as nwaku exposes them."""
_BAD: Final = re.compile(r"[^a-zA-Z0-9_:]")
_BAD_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]")
_PARTS_OF_HISTOGRAM: Final = ("_bucket", "_sum", "_count")


class ProcessSamples(NamedTuple):
    """The samples of one process. `families` maps a name to its kind (counter, gauge, histogram) and help."""

    process: str
    samples: Sequence[Sample]
    families: Mapping[str, tuple[str, str]]


def expose(processes: Iterable[ProcessSamples], prefix: str) -> bytes:
    """Return the page for a scrape, in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Samples(list(processes), prefix))
    page: bytes = generate_latest(registry)
    return page


class _Samples(Collector):
    """Yield the samples as metric families; a duplicate series is dropped."""

    def __init__(self, processes: Sequence[ProcessSamples], prefix: str) -> None:
        self._processes = processes
        self._prefix = prefix

    def collect(self) -> Iterator[Metric]:
        """Yield the families in the order of their first samples."""
        found: dict[str, Metric] = {}
        seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
        for process, samples, families in self._processes:
            for name, labels, value in samples:
                family, sample_name, kind, text = _place(name, families)
                shown = {_BAD_LABEL.sub("_", key): str(one) for key, one in labels.items()}
                if name.startswith(_OF_PROCESS):
                    shown["process"] = process
                if not name.startswith(_PLAIN):
                    family, sample_name = self._prefix + family, self._prefix + sample_name
                series = (sample_name, tuple(sorted(shown.items())))
                if series not in seen:
                    seen.add(series)
                    metric = found.setdefault(family, Metric(family, text, kind))
                    metric.add_sample(sample_name, shown, float(value))
        yield from found.values()


def _place(name: str, families: Mapping[str, tuple[str, str]]) -> tuple[str, str, str, str]:
    """Return (family, sample's name, kind, help): counters are named `…_total`."""
    clean = _BAD.sub("_", name)
    for part in _PARTS_OF_HISTOGRAM:
        base = name.removesuffix(part)
        if base != name and families.get(base, ("", ""))[0] == "histogram":
            return _BAD.sub("_", base), clean, "histogram", families[base][1]
    kind, text = families.get(name, ("unknown", ""))
    if kind == "counter":
        family = clean.removesuffix("_total")
        return family, family + "_total", kind, text
    return clean, clean, kind if kind in ("gauge", "histogram") else "unknown", text

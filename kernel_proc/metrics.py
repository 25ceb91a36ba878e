"""The kernel's counters and gauges, under the names that operators know from nwaku.

Hot paths keep a `Counter` and add to it; everything that can be computed on demand (peers, queue lengths,
counters of other parts) is a source, called by `collect`. Names are given without the prefix.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from ipc_schema.control import MetricsReply
from ipc_schema.metric_samples import PROCESS, Family, families_of, histogram_of
from kernel_proc.metric_families import family_of
from logos_process.figures import own_figures

Sample = tuple[str, dict[str, str], float]
"""One value: name, labels, value."""

Source = Callable[[], Iterable[Sample]]

MAX_SERIES: Final = 256
"""Label sets per counter name; further ones are counted under `other`, because labels may come from peers."""

MAX_LABEL: Final = 128
"""Characters of a label's value; longer ones count under `other`, too: all values must fit in a reply."""


class Counter:
    """A monotonic counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Add `amount`."""
        self.value += amount


class Histogram:
    """A Prometheus histogram: counts per upper bound, sum and count."""

    __slots__ = ("_bounds", "_counts", "_labels", "_sum")

    def __init__(self, bounds: Sequence[float], labels: Mapping[str, str] | None = None) -> None:
        self._labels = dict(labels or {})
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Add one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self, name: str) -> Iterable[Sample]:
        """Yield cumulative `name_bucket{le}`, `name_sum` and `name_count`."""
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            edge = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield f"{name}_bucket", {**self._labels, "le": edge}, total
        yield f"{name}_sum", self._labels, self._sum
        yield f"{name}_count", self._labels, total


class Registry:
    """All metrics of one process."""

    def __init__(self, prefix: str = "logos_delivery_") -> None:
        self.prefix = prefix
        self._counters: dict[str, dict[tuple[tuple[str, str], ...], Counter]] = {}
        self._histograms: dict[str, dict[tuple[tuple[str, str], ...], Histogram]] = {}
        self._sources: list[Source] = []

    def counter(self, name: str, **labels: str) -> Counter:
        """Return the counter with this name and labels, the same object each time."""
        series = self._counters.setdefault(name, {})
        key = tuple(sorted(labels.items()))
        found = series.get(key)
        if found is None:
            if len(series) >= MAX_SERIES or any(len(value) > MAX_LABEL for _, value in key):
                key = tuple((label, "other") for label, _ in key)
            found = series.setdefault(key, Counter())
        return found

    def histogram(self, name: str, bounds: Sequence[float], **labels: str) -> Histogram:
        """Return the histogram with this name and labels (only our own, few ones). `bounds` are ascending
        upper bounds, used the first time."""
        key = tuple(sorted(labels.items()))
        return self._histograms.setdefault(name, {}).setdefault(key, Histogram(bounds, labels))

    def add_source(self, source: Source) -> None:
        """Call `source` for its samples on every collection."""
        self._sources.append(source)

    def collect(self) -> list[Sample]:
        """Return all current values, with prefixed names."""
        samples: list[Sample] = []
        for name, series in self._counters.items():
            samples.extend((self.prefix + name, dict(key), counter.value) for key, counter in series.items())
        for name, histograms in self._histograms.items():
            for one in histograms.values():
                samples.extend((self.prefix + n, labels, value) for n, labels, value in one.samples(name))
        for source in self._sources:
            samples.extend((self.prefix + name, labels, value) for name, labels, value in source())
        return samples

    def report(self) -> MetricsReply:
        """Return all values without prefix, including those of the process, and their descriptions."""
        bare = [(name.removeprefix(self.prefix), labels, value) for name, labels, value in self.collect()]
        samples = [*bare, *((name, dict(labels), value) for name, labels, value in own_figures())]
        known: dict[str, Family] = dict(PROCESS)
        for name, _, _ in bare:
            for one in (name, histogram_of(name)):
                family = family_of(one)
                if family is not None:
                    known[one] = family
        return MetricsReply(samples=tuple(samples), families=families_of(samples, known))

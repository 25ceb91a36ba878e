"""A reader of Prometheus' text format (exposition format 0.0.4), as strict as Prometheus itself.

Written from the format's description and not from the code that writes it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

__all__ = ["Series", "TextFamily", "check_histogram", "parse"]

_HELP = re.compile(r"# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)")
_TYPE = re.compile(r"# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram|summary|untyped)")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
_ENDINGS = ("_bucket", "_sum", "_count")

Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name and sorted labels."""


@dataclass
class TextFamily:
    """All samples of one name; of a histogram those of its three names."""

    name: str
    kind: str = "untyped"
    help: str | None = None
    samples: dict[Series, float] = field(default_factory=dict)


def parse(page: str) -> dict[str, TextFamily]:
    """The families of a page by name. AssertionError for anything that Prometheus would not take."""
    assert page == "" or page.endswith("\n")
    families: dict[str, TextFamily] = {}
    current: TextFamily | None = None

    def enter(name: str) -> TextFamily:
        nonlocal current
        if current is None or current.name != name:
            assert name not in families, f"the lines of {name} do not stand together"
            current = families[name] = TextFamily(name)
        return current

    for line in page.split("\n")[:-1]:
        if line.startswith("#"):
            if told := _HELP.fullmatch(line):
                family = enter(told[1])
                assert family.help is None, line
                assert not family.samples, line
                family.help = told[2]
            else:
                typed = _TYPE.fullmatch(line)
                assert typed is not None, line
                family = enter(typed[1])
                assert family.kind == "untyped", line
                assert not family.samples, line
                family.kind = typed[2]
            continue
        found = _SAMPLE.fullmatch(line)
        assert found is not None, repr(line)
        name, labels, value = found.groups()
        whole = name
        if current is not None and current.kind == "histogram" and name.startswith(current.name):
            whole = current.name if name.removeprefix(current.name) in _ENDINGS else name
        family = enter(whole)
        series = (name, _labels(labels or "", line))
        assert series not in family.samples, f"twice: {line}"
        family.samples[series] = float(value)
    return families


def _labels(text: str, line: str) -> tuple[tuple[str, str], ...]:
    labels: dict[str, str] = {}
    at = 0
    while at < len(text):
        label = _LABEL.match(text, at)
        assert label is not None, repr(line)
        assert label[1] not in labels, f"a label twice: {line!r}"
        labels[label[1]] = label[2]
        at = label.end()
    return tuple(sorted(labels.items()))


def check_histogram(family: TextFamily) -> None:
    """Buckets are cumulative, the last one is +Inf and counts as much as `_count`."""
    groups: dict[tuple[tuple[str, str], ...], dict[str, object]] = {}
    for (name, labels), value in family.samples.items():
        ending = name.removeprefix(family.name)
        key = tuple(label for label in labels if label[0] != "le")
        group = groups.setdefault(key, {"buckets": []})
        if ending == "_bucket":
            bounds = group["buckets"]
            assert isinstance(bounds, list)
            bounds.append((float(dict(labels)["le"]), value))
        else:
            group[ending] = value
    for group in groups.values():
        buckets = group["buckets"]
        assert isinstance(buckets, list)
        assert buckets == sorted(buckets), family.name
        assert [count for _, count in buckets] == sorted(count for _, count in buckets), family.name
        assert math.isinf(buckets[-1][0])
        assert buckets[-1][1] == group["_count"]
        assert "_sum" in group

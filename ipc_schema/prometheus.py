"""The text format in which Prometheus reads metrics (exposition format 0.0.4). Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["CONTENT_TYPE", "Sample", "exposition", "process_samples"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[str, Mapping[str, str], float]
"""One value: name, labels, value."""

_BAD_IN_NAME: Final = re.compile(r"[^a-zA-Z0-9_:]")
_BAD_IN_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]")
_OF_HISTOGRAM: Final = ("_bucket", "_sum", "_count")


def exposition(samples: Iterable[Sample], kinds: Mapping[str, str] | None = None) -> str:
    """The samples as lines, those of one name together and in the order of their first.

    `kinds` says by name what is a `counter`, `gauge` or `histogram`; what is not in it is left untyped. A
    series that comes twice is told once, with its first value: a reader would refuse the whole page.
    """
    kinds = kinds or {}
    families: dict[str, dict[str, None]] = {}
    seen: set[str] = set()
    for name, labels, value in samples:
        series = _name(name) + _labels(labels)
        if series not in seen:
            seen.add(series)
            families.setdefault(_family(name, kinds), {})[f"{series} {_number(value)}\n"] = None
    parts: list[str] = []
    for family, lines in families.items():
        if family in kinds:
            parts.append(f"# TYPE {_name(family)} {kinds[family]}\n")
        parts.extend(lines)
    return "".join(parts)


def process_samples(stat: str, ticks: int, page: int, files: int, boot: float) -> list[Sample]:
    """The metrics that every process of a host has, by the names Prometheus gives them, without any prefix.

    `stat` is the text of /proc/self/stat, `ticks` and `page` what sysconf says of clock ticks in a second and
    bytes in a page, `files` the number of open descriptors, `boot` the host's start in Unix seconds.
    """
    # The second field is the program's name in parentheses, and may itself hold anything.
    values = stat.rpartition(")")[2].split()
    return [
        ("process_cpu_seconds_total", {}, (int(values[11]) + int(values[12])) / ticks),
        ("process_start_time_seconds", {}, boot + int(values[19]) / ticks),
        ("process_virtual_memory_bytes", {}, int(values[20])),
        ("process_resident_memory_bytes", {}, int(values[21]) * page),
        ("process_open_fds", {}, files),
        ("process_threads", {}, int(values[17])),
    ]


def _family(name: str, kinds: Mapping[str, str]) -> str:
    for ending in _OF_HISTOGRAM:
        if name.endswith(ending) and kinds.get(name.removesuffix(ending)) == "histogram":
            return name.removesuffix(ending)
    return name


def _name(name: str) -> str:
    clean = _BAD_IN_NAME.sub("_", name)
    return f"_{clean}" if not clean or clean[0].isdigit() else clean


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{_label(key)}="{_escape(value)}"' for key, value in labels.items()) + "}"


def _label(key: str) -> str:
    clean = _BAD_IN_LABEL.sub("_", key)
    return f"_{clean}" if not clean or clean[0].isdigit() else clean


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    return str(int(value)) if number.is_integer() else repr(number)

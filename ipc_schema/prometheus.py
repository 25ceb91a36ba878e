"""The text format in which Prometheus reads metrics (exposition format 0.0.4). Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

__all__ = ["CONTENT_TYPE", "PROCESS", "Family", "Sample", "exposition", "histogram_of", "process_samples"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[str, Mapping[str, str], float]
"""One value: name, labels, value."""

_BAD_IN_NAME: Final = re.compile(r"[^a-zA-Z0-9_:]")
_BAD_IN_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]")
_OF_HISTOGRAM: Final = ("_bucket", "_sum", "_count")


class Family(NamedTuple):
    """What a page says of all samples of one name: `kind` is counter, gauge or histogram."""

    kind: str
    help: str


PROCESS: Final[Mapping[str, Family]] = {
    "process_cpu_seconds_total": Family("counter", "User and system CPU time of the process."),
    "process_start_time_seconds": Family("gauge", "Start of the process, in seconds since 1970."),
    "process_virtual_memory_bytes": Family("gauge", "Virtual memory of the process."),
    "process_resident_memory_bytes": Family("gauge", "Resident memory of the process."),
    "process_open_fds": Family("gauge", "Open file descriptors of the process."),
    "process_threads": Family("gauge", "Threads of the process."),
}
"""What `process_samples` gives."""


def exposition(samples: Iterable[Sample], families: Mapping[str, Family] | None = None) -> str:
    """The samples as lines, those of one family together and in the order of their first, below its HELP and
    TYPE.

    What is not in `families` is left untyped. A series that comes twice is told once, with its first value: a
    reader would refuse the whole page.
    """
    families = families or {}
    by_family: dict[str, dict[str, None]] = {}
    seen: set[str] = set()
    for given, labels, value in samples:
        name = _name(given)
        series = name + _labels(labels)
        if series not in seen:
            seen.add(series)
            by_family.setdefault(_family(name, families), {})[f"{series} {_number(value)}\n"] = None
    parts: list[str] = []
    for name, lines in by_family.items():
        family = families.get(name)
        if family is not None:
            parts.append(f"# HELP {name} {_escape_help(family.help)}\n")
            parts.append(f"# TYPE {name} {family.kind}\n")
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


def histogram_of(name: str) -> str:
    """The histogram that a sample of this name would belong to; the name itself where it cannot be one."""
    for ending in _OF_HISTOGRAM:
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name


def _family(name: str, families: Mapping[str, Family]) -> str:
    whole = histogram_of(name)
    return whole if whole in families and families[whole].kind == "histogram" else name


def _name(name: str) -> str:
    clean = _BAD_IN_NAME.sub("_", name)
    return f"_{clean}" if not clean or clean[0].isdigit() else clean


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    clean: dict[str, str] = {}
    for key, value in labels.items():
        clean.setdefault(_label(key), value)
    return "{" + ",".join(f'{key}="{_escape(value)}"' for key, value in clean.items()) + "}"


def _label(key: str) -> str:
    clean = _BAD_IN_LABEL.sub("_", key)
    return f"_{clean}" if not clean or clean[0].isdigit() else clean


def _escape(value: str) -> str:
    if not value.isascii():
        value = value.encode("utf-8", "replace").decode()
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    return str(int(value)) if number.is_integer() else repr(number)

"""How far a node's stream of one shard has been published, as kept in JetStream. Pure.

A position belongs to one kernel (its peer id), since each numbers its streams by itself. It also holds the
time spans that the kernel could not deliver and no store has filled yet, so that they survive the bridge.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ipc_schema.steady import Stamp

Span = tuple[int, int]
"""From and to, wall-clock ns, both inclusive."""

MAX_SPANS: Final = 256
"""Beyond it the nearest spans are joined: more is asked for than was missed."""


class PositionError(ValueError):
    """A stored position cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutPosition:
    """Everything up to (`epoch`, `seq`) is stored, but for `spans`. `time_ns`: up to when."""

    epoch: bytes
    seq: int
    time_ns: int
    spans: tuple[Span, ...] = ()
    owner: str = ""
    """The run that wrote it: an update that lost its answer is distinguished from a rival's by this."""
    stamp: Stamp | None = field(default=None, compare=False)
    """When it was written, by clocks that show how the wall clock has been set since."""

    def encode(self) -> bytes:
        """Return the value of the key: JSON."""
        return json.dumps(
            {
                "epoch": self.epoch.hex(),
                "seq": self.seq,
                "timeNs": self.time_ns,
                "missing": [list(span) for span in self.spans],
                "owner": self.owner,
                "stamp": self.stamp and self.stamp.to_dict(),
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> OutPosition:
        """Read a key's value. Raises `PositionError`."""
        try:
            value: Mapping[str, Any] = json.loads(data)
            return cls(
                epoch=bytes.fromhex(value["epoch"]),
                seq=_number(value["seq"]),
                time_ns=_number(value["timeNs"]),
                spans=tuple((_number(low), _number(high)) for low, high in value["missing"]),
                owner=str(value["owner"]),
                stamp=Stamp.from_dict(value["stamp"]) if value.get("stamp") else None,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PositionError(f"not a position: {error!r}") from None

    def moved(self, by: int) -> OutPosition:
        """Return it with all times labelled by a clock that is so many ns ahead."""
        spans = tuple((max(0, low + by), max(0, high + by)) for low, high in self.spans)
        return replace(self, time_ns=max(0, self.time_ns + by), spans=merge_spans(spans))

    def missing(self, *spans: Span) -> OutPosition:
        """Return it with further spans."""
        return replace(self, spans=merge_spans((*self.spans, *spans)))

    def filled(self, span: Span) -> OutPosition:
        """Return it without a span that was filled, whatever has been joined to it since."""
        left: list[Span] = []
        for low, high in self.spans:
            if high < span[0] or low > span[1]:
                left.append((low, high))
                continue
            if low < span[0]:
                left.append((low, span[0] - 1))
            if high > span[1]:
                left.append((span[1] + 1, high))
        return replace(self, spans=tuple(left))


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a number")
    return value


def merge_spans(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Return disjoint spans in order that cover the same, and no more than `MAX_SPANS`."""
    merged: list[Span] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    while len(merged) > MAX_SPANS:
        gaps = [merged[index + 1][0] - merged[index][1] for index in range(len(merged) - 1)]
        nearest = gaps.index(min(gaps))
        merged[nearest : nearest + 2] = [(merged[nearest][0], merged[nearest + 1][1])]
    return tuple(merged)


def first_span(others: Iterable[OutPosition], now_ns: int) -> Span | None:
    """Return what a node without a position has to fetch from stores: the time since any bridge published.

    None: no bridge ever did.
    """
    newest = max((position.time_ns for position in others), default=None)
    return None if newest is None or newest >= now_ns else (newest, now_ns)

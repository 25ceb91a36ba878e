"""Query planning, pure: the span of keys that a query covers, the index ranges to merge, and the resulting
page.

A *key* is (timestamp, hash), the order of all pages. A *range* is part of an index: all messages of a pubsub
topic, or of a pair of topics, in key order. Every query without hashes is a merge of ranges, each read from
its start for at most one page: the work is bounded by ranges × page size, regardless of the number of
messages and of how rare the matches are.

A partitioned table is read in *windows*, a few partitions at a time: a statement costs planning and locks for
each partition that it may touch, which is more than reading a page takes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from kernel_proc.archive.api import ArchivedMessage, HistoryPage, HistoryQuery

T = TypeVar("T")

Key = tuple[int, bytes]

_HASH_SIZE: Final = 32
_FIRST: Final[bytes] = b""
_LAST: Final = b"\xff" * (_HASH_SIZE + 1)

_FIRST_WINDOW: Final = 2
"""Partitions: mostly enough for a page."""
_AHEAD: Final = 6
"""As many more without an upper bound: those that are created ahead have nothing yet."""
_GROWTH: Final = 4
"""How many times more partitions each further window has: a rare match in many takes few statements."""


class Span(NamedTuple):
    """The keys strictly between `low` and `high`."""

    low: Key
    high: Key

    @property
    def empty(self) -> bool:
        """Whether it cannot contain any key."""
        return self.low >= self.high

    def holds(self, key: Key) -> bool:
        return self.low < key < self.high


EVERYTHING: Final = Span((-(1 << 63), _FIRST), ((1 << 63) - 1, _LAST))


class RowRange(NamedTuple):
    """Part of an index. `content_topic` None: the whole pubsub topic."""

    pubsub_topic: str
    content_topic: str | None


class FoundRows(NamedTuple):
    """A row as read; topic and data only if the query includes data."""

    key: Key
    pubsub_topic: str | None = None
    data: bytes | None = None


def span(query: HistoryQuery, cursor: Key | None) -> Span:
    """Return the keys that a query covers: its inclusive time window, starting from its cursor."""
    # Hashes sort after b"" and before 33 × 0xff, so these bounds include whole nanoseconds.
    low, high = EVERYTHING
    if query.start is not None:
        low = (query.start, _FIRST)
    if query.end is not None:
        high = (query.end, _LAST)
    if cursor is not None:
        if query.forward:
            low = max(low, cursor)
        else:
            high = min(high, cursor)
    return Span(low, high)


def windows(covered: Span, cuts: Sequence[int], *, forward: bool) -> Iterator[Span]:
    """Yield the parts of a span in paging direction, each of some partitions.

    `cuts` are the timestamps at which partitions begin, ascending. They need not be up to date: whatever they
    are, the windows make up the span.
    """
    inside = cuts[bisect_right(cuts, covered.low[0]) : bisect_right(cuts, covered.high[0])]
    partitions = len(inside) + 1
    begin, size = 0, _FIRST_WINDOW
    if not forward and covered.high == EVERYTHING.high:
        size += _AHEAD
    while begin < partitions:
        end = min(begin + size, partitions)
        first, last = (begin, end) if forward else (partitions - end, partitions - begin)
        yield Span(
            (inside[first - 1], _FIRST) if first else covered.low,
            (inside[last - 1] - 1, _LAST) if last < partitions else covered.high,
        )
        begin, size = end, size * _GROWTH


def whole_partitions(covered: Span, cuts: Sequence[int]) -> tuple[int, int]:
    """Return the first and the last timestamp of the partitions that a span touches."""
    first = bisect_right(cuts, covered.low[0])
    last = bisect_right(cuts, covered.high[0])
    return (
        cuts[first - 1] if first else EVERYTHING.low[0],
        cuts[last] - 1 if last < len(cuts) else EVERYTHING.high[0],
    )


def ranges(query: HistoryQuery, known: Sequence[str]) -> list[RowRange]:
    """Return the ranges whose merge answers a query without hashes.

    `known` are the pubsub topics in the database; only used if the query names none.
    """
    pubsub_topics = known if query.pubsub_topic is None else (query.pubsub_topic,)
    content_topics: Iterable[str | None] = dict.fromkeys(query.content_topics) or (None,)
    return [RowRange(pubsub, content) for content in content_topics for pubsub in pubsub_topics]


def in_order(found: list[tuple[Key, T]], *, forward: bool, limit: int) -> list[tuple[Key, T]]:
    """Return the first `limit` entries in paging direction."""
    found.sort(key=lambda item: item[0], reverse=not forward)
    return found[:limit]


def make_page(query: HistoryQuery, found: Sequence[FoundRows]) -> HistoryPage:
    """Build the page from rows in paging direction. An extra row beyond the page size indicates that there
    are more."""
    rows = found[: query.limit]
    cursor = rows[-1].key[1] if len(found) > query.limit else None
    if not query.forward:
        rows = rows[::-1]
    return HistoryPage(tuple(ArchivedMessage(key[1], topic, data) for key, topic, data in rows), cursor)

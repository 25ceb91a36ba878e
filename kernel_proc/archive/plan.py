"""How a query is answered, pure: the span of keys it covers, the index ranges to merge, the page it makes.

A *key* is (timestamp, hash), the order of all pages. A *range* is a stretch of one index: all messages of a
pubsub topic, or of a pair of topics, in the order of keys. Every query without hashes is a merge of ranges,
each read from its start to at most one page: the work is bounded by ranges times page size, however many
messages there are and however rare those that match.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

from kernel_proc.archive.api import ArchivedMessage, HistoryPage, HistoryQuery

__all__ = ["EVERYTHING", "FoundRows", "Key", "RowRange", "Span", "in_order", "make_page", "ranges", "span"]

T = TypeVar("T")

Key = tuple[int, bytes]

_HASH_SIZE: Final = 32
_FIRST: Final[bytes] = b""
_LAST: Final = b"\xff" * (_HASH_SIZE + 1)


class Span(NamedTuple):
    """Keys strictly between `low` and `high`."""

    low: Key
    high: Key

    @property
    def empty(self) -> bool:
        """No key can lie in it."""
        return self.low >= self.high

    def holds(self, key: Key) -> bool:
        """Whether the key lies in it."""
        return self.low < key < self.high


EVERYTHING: Final = Span((-(1 << 63), _FIRST), ((1 << 63) - 1, _LAST))


class RowRange(NamedTuple):
    """A stretch of an index; `content_topic` None: the whole pubsub topic."""

    pubsub_topic: str
    content_topic: str | None


class FoundRows(NamedTuple):
    """A row as it was read; topic and data only where the query asks for data."""

    key: Key
    pubsub_topic: str | None = None
    data: bytes | None = None


def span(query: HistoryQuery, cursor: Key | None) -> Span:
    """The keys a query covers: its time window, both ends included, from its cursor on."""
    # No hash sorts before the empty one or behind 33 times 0xff, so these bounds take whole nanoseconds in.
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


def ranges(query: HistoryQuery, known: Sequence[str]) -> list[RowRange]:
    """The ranges whose merge answers a query without hashes.

    `known` are the pubsub topics that the database holds; only looked at when the query names none.
    """
    pubsub_topics = known if query.pubsub_topic is None else (query.pubsub_topic,)
    content_topics: Iterable[str | None] = dict.fromkeys(query.content_topics) or (None,)
    return [RowRange(pubsub, content) for content in content_topics for pubsub in pubsub_topics]


def in_order(found: list[tuple[Key, T]], *, forward: bool, limit: int) -> list[tuple[Key, T]]:
    """The first `limit` in the direction of paging."""
    found.sort(key=lambda item: item[0], reverse=not forward)
    return found[:limit]


def make_page(query: HistoryQuery, found: Sequence[FoundRows]) -> HistoryPage:
    """The page, from rows in the direction of paging: one more than the page holds, if there is one more."""
    rows = found[: query.limit]
    cursor = rows[-1].key[1] if len(found) > query.limit else None
    if not query.forward:
        rows = rows[::-1]
    return HistoryPage(tuple(ArchivedMessage(key[1], topic, data) for key, topic, data in rows), cursor)

"""The read statements for SQLite: pages, lookups, the oldest rows. Each runs on a given connection, inside
a transaction of the caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from kernel_proc.archive.api import CursorNotFound, HistoryPage, HistoryQuery, KeyQuery, TopicSpan
from kernel_proc.archive.plan import FoundRows, Key, RowRange, Span, in_order, make_page, ranges, span
from kernel_proc.archive.rows import topic_key

LIST_SIZES: Final = (1, 20, 100, 1000)
"""Lengths of the lists in statements, to limit the number of prepared statements."""

_PUBSUB_TOPICS: Final = """
WITH RECURSIVE topic(name) AS (
    SELECT min(pubsub_topic) FROM message
    UNION ALL
    SELECT (SELECT min(pubsub_topic) FROM message WHERE pubsub_topic > name) FROM topic WHERE name IS NOT NULL
)
SELECT name FROM topic WHERE name IS NOT NULL
"""
"""All pubsub topics, with one index probe each."""

_SPAN: Final = (
    "SELECT count(*), min(timestamp), max(timestamp) FROM message INDEXED BY message_by_pubsub_topic"
    " WHERE pubsub_topic = ?"
)


def _range_query(*, data: bool, by_topics: bool, forward: bool) -> str:
    columns = "timestamp, hash, pubsub_topic, data" if data else "timestamp, hash, id"
    # Name the index: without statistics, the planner might filter a scan instead.
    where = (
        "INDEXED BY message_by_topics WHERE topic_key = ? AND content_topic = ? AND pubsub_topic = ?"
        if by_topics
        else "INDEXED BY message_by_pubsub_topic WHERE pubsub_topic = ?"
    )
    order = "ASC" if forward else "DESC"
    return (
        f"SELECT {columns} FROM message {where}"  # noqa: S608 (our own texts)
        " AND (timestamp, hash) > (?, ?) AND (timestamp, hash) < (?, ?)"
        f" ORDER BY timestamp {order}, hash {order} LIMIT ?"
    )


_BOTH: Final = (False, True)
_RANGE: Final = {
    (data, by_topics, forward): _range_query(data=data, by_topics=by_topics, forward=forward)
    for data in _BOTH
    for by_topics in _BOTH
    for forward in _BOTH
}


def marks(count: int) -> str:
    """Return the placeholders of a list."""
    return ", ".join("?" * count)


# Without a topic filter, the index contains everything needed.
_BY_HASH: Final = {
    (size, topics): f"SELECT timestamp, hash, id, {columns} FROM message WHERE hash IN ({marks(size)})"  # noqa: S608
    for size in LIST_SIZES
    for topics, columns in ((True, "pubsub_topic, content_topic"), (False, "NULL, NULL"))
}
_BY_ID: Final = {
    size: f"SELECT id, pubsub_topic, data FROM message WHERE id IN ({marks(size)})"  # noqa: S608
    for size in LIST_SIZES
}


def padded(values: list[Any]) -> Iterator[list[Any]]:
    """Split values into lists of the supported lengths, padded with the last value."""
    largest = LIST_SIZES[-1]
    for at in range(0, len(values), largest):
        part = values[at : at + largest]
        size = next(size for size in LIST_SIZES if size >= len(part))
        yield part + part[-1:] * (size - len(part))


def read_page(connection: sqlite3.Connection, query: HistoryQuery) -> HistoryPage:
    """Return one page. Raise `CursorNotFound` or `sqlite3.Error`."""
    cursor: Key | None = None
    if query.cursor is not None:
        row = connection.execute("SELECT timestamp FROM message WHERE hash = ?", (query.cursor,)).fetchone()
        if row is None:
            raise CursorNotFound("cursor not found")
        cursor = (row[0], query.cursor)
    covered = span(query, cursor)
    if covered.empty:
        return HistoryPage((), None)
    found = _look_up(connection, query, covered) if query.hashes else _merge(connection, query, covered)
    return make_page(query, found)


def read_keys(connection: sqlite3.Connection, query: KeyQuery) -> list[Key]:
    """Return keys from the index alone."""
    found: list[Key] = []
    statement = _RANGE[False, bool(query.content_topics), query.forward]
    for content in query.content_topics or (None,):
        parameters = (*_where(query.pubsub_topic, content), *query.low, *query.high, query.limit)
        rows = connection.execute(statement, parameters)
        found += [(timestamp, digest) for timestamp, digest, _ in rows]
    return sorted(found, reverse=not query.forward)[: query.limit]


def topic_spans(connection: sqlite3.Connection) -> list[TopicSpan]:
    """Count the messages of each pubsub topic."""
    return [
        TopicSpan(topic, *connection.execute(_SPAN, (topic,)).fetchone())
        for (topic,) in connection.execute(_PUBSUB_TOPICS).fetchall()
    ]


def oldest_rows(connection: sqlite3.Connection, limit: int, covered: Span) -> list[int]:
    """Return the ids of the oldest rows of a span."""
    found: list[tuple[Key, int]] = []
    for (topic,) in connection.execute(_PUBSUB_TOPICS).fetchall():
        parameters = (topic, *covered.low, *covered.high, limit)
        rows = connection.execute(_RANGE[False, False, True], parameters).fetchall()
        found += [((timestamp, digest), number) for timestamp, digest, number in rows]
    return [number for _, number in in_order(found, forward=True, limit=limit)]


def _merge(connection: sqlite3.Connection, query: HistoryQuery, covered: Span) -> list[FoundRows]:
    """Return the first rows of the merged ranges, one more than a page."""
    known: list[str] = []
    if query.pubsub_topic is None:
        known = [name for (name,) in connection.execute(_PUBSUB_TOPICS).fetchall()]
    parts = ranges(query, known)
    if len(parts) == 1:
        rows = _range_rows(connection, query, parts[0], covered, data=query.include_data)
        if query.include_data:
            return [FoundRows((row[0], row[1]), row[2], row[3]) for row in rows]
        return [FoundRows((row[0], row[1])) for row in rows]
    wanted = query.limit + 1
    best: list[tuple[Key, int]] = []
    for part in parts:
        rows = _range_rows(connection, query, part, covered, data=False)
        best += [((timestamp, digest), number) for timestamp, digest, number in rows]
        best = in_order(best, forward=query.forward, limit=wanted)
        if len(best) == wanted:
            # Rows beyond the worst of these cannot be on the page.
            worst = best[-1][0]
            covered = covered._replace(high=worst) if query.forward else covered._replace(low=worst)
    return _with_data(connection, query, best)


def _range_rows(
    connection: sqlite3.Connection, query: HistoryQuery, part: RowRange, covered: Span, *, data: bool
) -> list[Any]:
    statement = _RANGE[data, part.content_topic is not None, query.forward]
    return connection.execute(
        statement, (*_where(*part), *covered.low, *covered.high, query.limit + 1)
    ).fetchall()


def _where(pubsub: str, content: str | None) -> tuple[Any, ...]:
    return (pubsub,) if content is None else (topic_key(pubsub, content), content, pubsub)


def _look_up(connection: sqlite3.Connection, query: HistoryQuery, covered: Span) -> list[FoundRows]:
    """Return the rows of the given hashes that pass all other filters, one more than a page."""
    by_topic = query.pubsub_topic is not None or bool(query.content_topics)
    contents = frozenset(query.content_topics)
    found: dict[Key, int] = {}  # a hash requested twice is one message
    for part in padded(list(query.hashes)):
        rows = connection.execute(_BY_HASH[len(part), by_topic], part).fetchall()
        for timestamp, digest, number, pubsub, content in rows:
            if query.pubsub_topic is not None and pubsub != query.pubsub_topic:
                continue
            if contents and content not in contents:
                continue
            if covered.holds((timestamp, digest)):
                found[timestamp, digest] = number
    best = in_order(list(found.items()), forward=query.forward, limit=query.limit + 1)
    return _with_data(connection, query, best)


def _with_data(
    connection: sqlite3.Connection, query: HistoryQuery, found: list[tuple[Key, int]]
) -> list[FoundRows]:
    """Return rows by id; the one beyond the page without data, because only its existence matters."""
    if not query.include_data:
        return [FoundRows(key) for key, _ in found]
    loaded: dict[int, tuple[str, bytes]] = {}
    for part in padded([number for _, number in found[: query.limit]]):
        rows = connection.execute(_BY_ID[len(part)], part).fetchall()
        loaded |= {number: (topic, data) for number, topic, data in rows}
    return [FoundRows(key, *loaded.get(number, (None, None))) for key, number in found]

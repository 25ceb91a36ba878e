"""The read statements for PostgreSQL. A page takes one statement for each window, which is one in most cases,
and one for its cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg

from kernel_proc.archive.api import CursorNotFound, HistoryPage, HistoryQuery, KeyQuery, TopicSpan
from kernel_proc.archive.partitions import TABLE
from kernel_proc.archive.plan import (
    FoundRows,
    Key,
    Span,
    make_page,
    ranges,
    span,
    whole_partitions,
    windows,
)
from kernel_proc.archive.rows import topic_key

Connection = psycopg.Connection[tuple[Any, ...]]

_WITHIN: Final = """
timestamp BETWEEN %b::bigint AND %b::bigint
AND (timestamp, hash) > (%b::bigint, %b::bytea) AND (timestamp, hash) < (%b::bigint, %b::bytea)
"""
"""The first line says nothing new, but the planner leaves partitions out by it, and not by a comparison of
rows."""

_SPAN: Final = "SELECT count(*), min(timestamp), max(timestamp) FROM logos_message WHERE pubsub_topic = %b"


_DURING: Final = "timestamp BETWEEN %b::bigint AND %b::bigint"


def pubsub_topics(table: str = TABLE, during: str = "true") -> str:
    """Return a query for all pubsub topics, with one index probe each (in each partition).

    `during` chooses partitions, and occurs twice; a part of a partition would be searched row by row.
    """
    return f"""
        WITH RECURSIVE topic (name) AS (
            (SELECT pubsub_topic FROM {table} WHERE {during} ORDER BY pubsub_topic LIMIT 1)
            UNION ALL
            SELECT (
                SELECT pubsub_topic FROM {table} WHERE pubsub_topic > name AND {during}
                ORDER BY pubsub_topic LIMIT 1
            )
            FROM topic WHERE name IS NOT NULL
        )
        SELECT name FROM topic WHERE name IS NOT NULL
    """  # noqa: S608 (our own text)


def _merge_query(*, data: bool, by_topics: bool, forward: bool, every_topic: bool = False) -> str:
    columns = "timestamp, hash, pubsub_topic, data" if data else "timestamp, hash"
    order = "ASC" if forward else "DESC"
    if by_topics:
        # Concatenating nothing prevents the planner from using another index with a filter, which would be a
        # long scan for a rare pair of topics.
        source = "unnest(%b::bytea[], %b::bytea[], %b::bigint[]) AS part (pubsub, content, topic_key)"
        where = (
            "logos_message.topic_key = part.topic_key AND content_topic = part.content"
            " AND pubsub_topic || ''::bytea = part.pubsub"
        )
    else:
        found = f"({pubsub_topics(during=_DURING)})" if every_topic else "unnest(%b::bytea[])"
        source = f"{found} AS part (pubsub)"
        where = "pubsub_topic = part.pubsub"
    return (
        f"SELECT {columns} FROM {source} CROSS JOIN LATERAL ("  # noqa: S608 (our own texts)
        f"SELECT {columns} FROM logos_message WHERE {where} AND {_WITHIN}"
        f" ORDER BY timestamp {order}, hash {order} LIMIT %b"
        f") AS found ORDER BY timestamp {order}, hash {order} LIMIT %b"
    )


def _look_up_query(*, data: bool, pubsub: bool, contents: bool, forward: bool) -> str:
    columns = "timestamp, hash, pubsub_topic, data" if data else "timestamp, hash"
    order = "ASC" if forward else "DESC"
    # MATERIALIZED: look up by hash first, whatever the planner expects of the other filters.
    filters = (" AND pubsub_topic = %b" if pubsub else "") + (
        " AND content_topic = ANY (%b::bytea[])" if contents else ""
    )
    topics = ", pubsub_topic, content_topic" if pubsub or contents else ""
    inner = f"timestamp, hash{topics}"
    if data:
        inner = "timestamp, hash, pubsub_topic, content_topic, data"
    return (
        f"WITH found AS MATERIALIZED (SELECT {inner} FROM logos_message WHERE hash = ANY (%b::bytea[]))"  # noqa: S608
        f" SELECT {columns} FROM found WHERE {_WITHIN}{filters}"
        f" ORDER BY timestamp {order}, hash {order} LIMIT %b"
    )


def read_page(connection: Connection, query: HistoryQuery, cuts: Sequence[int]) -> HistoryPage:
    """Return one page. `cuts`: see `windows`. Raise `CursorNotFound` or `psycopg.Error`."""
    cursor: Key | None = None
    if query.cursor is not None:
        rows = _rows(connection, "SELECT timestamp FROM logos_message WHERE hash = %b", (query.cursor,))
        if not rows:
            raise CursorNotFound("cursor not found")
        cursor = (rows[0][0], query.cursor)
    covered = span(query, cursor)
    if covered.empty:
        return HistoryPage((), None)
    if query.hashes:
        rows = _look_up(connection, query, covered)
    else:
        rows = []
        for window in windows(covered, cuts, forward=query.forward):
            rows += _merge(connection, query, window, cuts, query.limit + 1 - len(rows))
            if len(rows) > query.limit:
                break
    if query.include_data:
        found = [FoundRows((row[0], row[1]), row[2].decode(), row[3]) for row in rows]
    else:
        found = [FoundRows((row[0], row[1])) for row in rows]
    return make_page(query, found)


def read_keys(connection: Connection, query: KeyQuery) -> list[Key]:
    """Return keys from an index alone."""
    topics = query.content_topics
    sources: list[list[Any]] = [[query.pubsub_topic.encode()] * max(1, len(topics))]
    if topics:
        sources.append([content.encode() for content in topics])
        sources.append([topic_key(query.pubsub_topic, content) for content in topics])
    statement = _merge_query(data=False, by_topics=bool(topics), forward=query.forward)
    parameters = (*sources, *_within(Span(query.low, query.high)), query.limit, query.limit)
    return [(timestamp, digest) for timestamp, digest in _rows(connection, statement, parameters)]


def topic_spans(connection: Connection) -> list[TopicSpan]:
    """Count the messages of each pubsub topic."""
    return [
        TopicSpan(name.decode(), *counts)
        for (name,) in _rows(connection, pubsub_topics(), ())
        for counts in _rows(connection, _SPAN, (name,))
    ]


def _rows(connection: Connection, statement: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(statement.encode(), parameters).fetchall()


def _within(covered: Span) -> tuple[Any, ...]:
    return covered.low[0], covered.high[0], *covered.low, *covered.high


def _merge(
    connection: Connection, query: HistoryQuery, window: Span, cuts: Sequence[int], wanted: int
) -> list[tuple[Any, ...]]:
    sources: list[Any] = [*whole_partitions(window, cuts) * 2]
    every_topic = query.pubsub_topic is None and not query.content_topics
    if not every_topic:
        known: list[str] = []
        if query.pubsub_topic is None:
            found = _rows(connection, pubsub_topics(during=_DURING), tuple(sources))
            known = [name.decode() for (name,) in found]
        parts = ranges(query, known)
        if not parts:
            return []
        sources = [[pubsub.encode() for pubsub, _ in parts]]
        if query.content_topics:
            sources.append([(content or "").encode() for _, content in parts])
            sources.append([topic_key(pubsub, content or "") for pubsub, content in parts])
    statement = _merge_query(
        data=query.include_data,
        by_topics=bool(query.content_topics),
        forward=query.forward,
        every_topic=every_topic,
    )
    return _rows(connection, statement, (*sources, *_within(window), wanted, wanted))


def _look_up(connection: Connection, query: HistoryQuery, covered: Span) -> list[tuple[Any, ...]]:
    parameters: list[Any] = [list(query.hashes), *_within(covered)]
    if query.pubsub_topic is not None:
        parameters.append(query.pubsub_topic.encode())
    if query.content_topics:
        parameters.append([topic.encode() for topic in query.content_topics])
    statement = _look_up_query(
        data=query.include_data,
        pubsub=query.pubsub_topic is not None,
        contents=bool(query.content_topics),
        forward=query.forward,
    )
    return _rows(connection, statement, (*parameters, query.limit + 1))

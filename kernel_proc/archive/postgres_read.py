"""The read statements for PostgreSQL: pages and lookups, one statement each (two with a cursor)."""

from __future__ import annotations

from typing import Any, Final

import psycopg

from kernel_proc.archive.api import CursorNotFound, HistoryPage, HistoryQuery, KeyQuery, TopicSpan
from kernel_proc.archive.partitions import TABLE
from kernel_proc.archive.plan import FoundRows, Key, Span, make_page, ranges, span
from kernel_proc.archive.rows import topic_key

__all__ = ["pubsub_topics", "read_keys", "read_page", "topic_spans"]

Connection = psycopg.Connection[tuple[Any, ...]]

_WITHIN: Final = """
timestamp BETWEEN %b::bigint AND %b::bigint
AND (timestamp, hash) > (%b::bigint, %b::bytea) AND (timestamp, hash) < (%b::bigint, %b::bytea)
"""
"""The first line says nothing new, but the planner leaves partitions out by it, and not by a comparison of
rows."""

_SPAN: Final = "SELECT count(*), min(timestamp), max(timestamp) FROM logos_message WHERE pubsub_topic = %b"


def pubsub_topics(table: str = TABLE) -> str:
    """Return a query for all pubsub topics, with one index probe each (in each partition)."""
    return f"""
        WITH RECURSIVE topic (name) AS (
            (SELECT pubsub_topic FROM {table} ORDER BY pubsub_topic LIMIT 1)
            UNION ALL
            SELECT (SELECT pubsub_topic FROM {table} WHERE pubsub_topic > name ORDER BY pubsub_topic LIMIT 1)
            FROM topic WHERE name IS NOT NULL
        )
        SELECT name FROM topic WHERE name IS NOT NULL
    """  # noqa: S608 (our own text)


def _merge_query(*, data: bool, by_topics: bool, forward: bool) -> str:
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
        source = "unnest(%b::bytea[]) AS part (pubsub)"
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


def read_page(connection: Connection, query: HistoryQuery) -> HistoryPage:
    """Return one page. Raise `CursorNotFound` or `psycopg.Error`."""
    cursor: Key | None = None
    if query.cursor is not None:
        rows = _rows(connection, "SELECT timestamp FROM logos_message WHERE hash = %b", (query.cursor,))
        if not rows:
            raise CursorNotFound("cursor not found")
        cursor = (rows[0][0], query.cursor)
    covered = span(query, cursor)
    if covered.empty:
        return HistoryPage((), None)
    rows = _look_up(connection, query, covered) if query.hashes else _merge(connection, query, covered)
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


def _merge(connection: Connection, query: HistoryQuery, covered: Span) -> list[tuple[Any, ...]]:
    known: list[str] = []
    if query.pubsub_topic is None:
        known = [name.decode() for (name,) in _rows(connection, pubsub_topics(), ())]
    parts = ranges(query, known)
    if not parts:
        return []
    sources: list[list[Any]] = [[pubsub.encode() for pubsub, _ in parts]]
    if query.content_topics:
        sources.append([(content or "").encode() for _, content in parts])
        sources.append([topic_key(pubsub, content or "") for pubsub, content in parts])
    wanted = query.limit + 1
    statement = _merge_query(
        data=query.include_data, by_topics=bool(query.content_topics), forward=query.forward
    )
    return _rows(connection, statement, (*sources, *_within(covered), wanted, wanted))


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

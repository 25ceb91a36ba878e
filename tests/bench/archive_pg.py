"""The bench `archive-pg`: an archive in PostgreSQL that several kernels share. Payloads of 1 KiB, 50 content
topics, 8 shards, partitions of two hours, fsync on, loopback.

- `inserts, n kernels`: n processes, each with the engine of a kernel, store other messages at once, in groups
  of 1,024; reference: as many processes with psycopg alone and the same statement, one transaction each.
- `page by …`: pages of 20 messages at 50 queries/s, from 100 k messages; `--case 1M` and `--case 10M` fill
  larger tables and show only them. Reference: the same statements by psycopg, on as many connections.
- `page by topic … while storing`: the same, while another kernel stores 1,000 messages a second.
- `retention drop`: the oldest of 24 partitions is removed; reference: the same number of rows by DELETE.

With `--keep DIR` the filled tables stay for further runs, such as `--case "page by cursor in 10M"`, until the
last case has removed messages.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import count as count_from
from multiprocessing.synchronize import Barrier, Event
from queue import SimpleQueue
from random import Random
from typing import Any, Final

import psycopg

from kernel_proc.archive.api import HistoryPage, HistoryQuery
from kernel_proc.archive.postgres import INSERT, PostgresEngine, insert_columns
from kernel_proc.archive.postgres_pool import SETTINGS
from kernel_proc.archive.postgres_read import read_page
from kernel_proc.archive.postgres_upkeep import partitions
from kernel_proc.archive.rows import ArchivedRow, topic_key
from tests.bench.archive_fill import CONTENTS, PAYLOAD, SHARDS, fill
from tests.bench.harness import BenchError, Case, Options, Round, alternate, percentile, result
from tests.support.postgres import PostgresServer, require_postgres

BENCH: Final = "archive-pg"
DATABASE: Final = "unfilled"
SIZES: Final = {"100k": 100_000}
LARGE: Final = {"1M": 1_000_000, "10M": 10_000_000}
KERNELS: Final = (1, 2, 4)
INSERTS: Final = 20_480
GROUP: Final = 1024
SECOND: Final = 1_000_000_000
KEEPS: Final = 172_800
START: Final = 1_764_460_800 * SECOND
"""A multiple of a partition's width: 2025-11-30 00:00 UTC."""
RATE: Final = 50
SECONDS: Final = 10.0
THREADS: Final = 7
STORE_RATE: Final = 1000
STORE_GROUP: Final = 20
QUERY_TIMEOUT: Final = 10.0


def archive_pg(options: Options) -> Iterator[dict[str, Any]]:
    """The lines of all cases."""
    with PostgresServer(
        require_postgres(), keep=options.keep, fsync="on", shared_buffers="1GB", max_wal_size="8GB"
    ) as server:
        for kernels in KERNELS:
            if options.wants(f"inserts, {kernels} kernels"):
                yield _inserts(server, kernels, options)
        chosen = {name: size for name, size in LARGE.items() if name in options.only} or SIZES
        for name, size in chosen.items():
            if "inserts" not in options.only:
                count = options.count(size)
                database = _filled(server, count)
                yield from measure(server.url(database), name, count, options)
                if options.wants(f"retention drop in {name}"):
                    server.execute(f"DROP DATABASE {database}")


def _filled(server: PostgresServer, count: int) -> str:
    """A database with so many messages, of an earlier run if there is one."""
    name = f"filled_{count}"
    if not server.execute(f"SELECT FROM pg_database WHERE datname = '{name}'"):
        url = server.url(_database(server))
        fill(url, count, START, KEEPS * SECOND // count)
        server.execute("CHECKPOINT")  # none during the measurement, nor at the end
        server.execute(f"ALTER DATABASE {DATABASE} RENAME TO {name}")
    return name


# --- inserts ----------------------------------------------------------------------------------------------


def _inserts(server: PostgresServer, kernels: int, options: Options) -> dict[str, Any]:
    count = max(GROUP, options.count(INSERTS) // kernels)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(kernels)
    with ProcessPoolExecutor(kernels, context, initializer=_set_barrier, initargs=(barrier,)) as pool:

        def side(work: Callable[[str, int, int], tuple[float, float]]) -> Round:
            url = server.url(_database(server))
            asked = [pool.submit(work, url, number * count, count) for number in range(kernels)]
            begins, ends = zip(*(one.result() for one in asked), strict=True)
            return Round(kernels * count / (max(ends) - min(begins)), {})

        ours, reference = alternate(options.runs, lambda: side(_kernel), lambda: side(_bare))
    name = f"inserts, {kernels} kernels"
    return result(Case(BENCH, name, "msg/s", "psycopg alone, the same statement"), ours, reference)


def _database(server: PostgresServer) -> str:
    """An empty database with partitions for two days from START."""
    server.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
    server.execute(f"CREATE DATABASE {DATABASE}")
    engine = PostgresEngine(server.url(DATABASE), shown=DATABASE)
    engine.open()
    for hours in range(0, 48, 4):
        if not engine.claim():
            raise BenchError("another one looks after the tables")
        engine.prepare(START + hours * 3600 * SECOND, KEEPS)
        engine.release()
    engine.close()
    return DATABASE


def _groups(first: int, count: int) -> list[list[ArchivedRow]]:
    random = Random(first)
    return [_rows(random, at, min(GROUP, first + count - at)) for at in range(first, first + count, GROUP)]


def _rows(random: Random, first: int, count: int) -> list[ArchivedRow]:
    """Messages 0.1 ms apart, with hashes and payloads at random."""
    rows = []
    for number in range(first, first + count):
        pubsub, content = f"/waku/2/rs/1/{number % SHARDS}", f"/bench/1/{number % CONTENTS}/proto"
        key = topic_key(pubsub, content)
        digest = random.randbytes(32)
        rows.append(
            ArchivedRow(START + number * 100_000, digest, key, pubsub, content, random.randbytes(PAYLOAD))
        )
    return rows


_barriers: list[Barrier] = []


def _set_barrier(barrier: Barrier) -> None:
    _barriers.append(barrier)


def _kernel(url: str, first: int, count: int) -> tuple[float, float]:
    groups = _groups(first, count)
    engine = PostgresEngine(url, shown="the database")
    engine.open()
    _barriers[0].wait(60)
    begin = time.time()
    if sum(engine.insert(group) for group in groups) != count:
        raise BenchError("not all messages were new")
    end = time.time()
    engine.close()
    return begin, end


def _bare(url: str, first: int, count: int) -> tuple[float, float]:
    groups = _groups(first, count)
    with psycopg.connect(url, autocommit=True) as connection:
        _barriers[0].wait(60)
        begin = time.time()
        for group in groups:
            connection.execute(INSERT, insert_columns(sorted(group, key=lambda row: row.message_hash)))
        return begin, time.time()


# --- pages and retention ----------------------------------------------------------------------------------


def measure(url: str, name: str, count: int, options: Options) -> Iterator[dict[str, Any]]:
    """The lines of a filled archive; at the end its oldest messages are removed."""
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        engine = PostgresEngine(url, shown="the database")
        stack.callback(engine.close)
        engine.open()
        cuts = [one.low for one in partitions(connection) if one.low is not None]
        connections = SimpleQueue[psycopg.Connection[Any]]()

        def ours(query: HistoryQuery) -> HistoryPage:
            return engine.read(query, QUERY_TIMEOUT)

        def bare(query: HistoryQuery) -> HistoryPage:
            connection = connections.get()
            try:
                return read_page(connection, query, cuts)
            finally:
                connections.put(connection)

        for _ in range(THREADS):
            each = stack.enter_context(psycopg.connect(url, autocommit=True, prepare_threshold=None))
            each.execute(SETTINGS.replace("SET LOCAL", "SET").encode())
            connections.put(each)
        queries = _queries(connection, count)
        cases = {f"page by {kind} in {name}": partial(_ask, make) for kind, make in queries.items()}
        cases[f"page by topic in {name} while storing"] = partial(_ask_while_storing, url, queries["topic"])
        for case, ask in cases.items():
            if options.wants(case):
                sides = [partial(ask, read, options) for read in (ours, bare)]
                yield _page_line(case, *alternate(options.runs, *sides))
        if options.wants(f"retention drop in {name}"):
            yield _drop(engine, connection, name, count)


def _page_line(name: str, ours: list[Round], reference: list[Round]) -> dict[str, Any]:
    limit = 250 if "storing" in name else 11
    case = Case(
        BENCH,
        name,
        "ms, p50",
        "psycopg alone, the same statements",
        f"≤ {limit} ms, as nwaku",
        lambda line: bool(line["ours"] <= limit),
    )
    return result(case, ours, reference)


def _queries(connection: psycopg.Connection[Any], count: int) -> dict[str, Callable[[Random], HistoryQuery]]:
    step = KEEPS * SECOND // count
    hashes = [
        digest
        for at in range(count // 10, count - count // 10, max(1, count // 1000))
        for (digest,) in connection.execute(
            "SELECT hash FROM logos_message WHERE timestamp = %s", (START + at * step,)
        )
    ]

    def topic(random: Random) -> HistoryQuery:
        number = random.randrange(count // 2, count)
        return HistoryQuery(
            pubsub_topic=f"/waku/2/rs/1/{number % SHARDS}",
            content_topics=(f"/bench/1/{number % CONTENTS}/proto",),
            include_data=True,
        )

    def window(random: Random) -> HistoryQuery:
        at = START + random.randrange(count // 2) * step
        return HistoryQuery(start=at, end=at + 3600 * SECOND, forward=True, include_data=True)

    def cursor(random: Random) -> HistoryQuery:
        return HistoryQuery(cursor=random.choice(hashes), include_data=True)

    return {"topic": topic, "time": window, "cursor": cursor}


_seeds = count_from(1)


def _ask(
    make: Callable[[Random], HistoryQuery],
    read: Callable[[HistoryQuery], Any],
    options: Options,
) -> Round:
    """Ask at a fixed rate; a slow answer delays no question, as far as there are threads."""
    random = Random(next(_seeds))  # what one side has read is in memory for the other
    times: list[float] = []

    def one(query: HistoryQuery, due: float) -> None:
        if not read(query).messages:
            raise BenchError(f"an empty page for {query}")
        times.append((time.perf_counter() - due) * 1000)

    with ThreadPoolExecutor(THREADS) as pool:
        due = time.perf_counter()
        asked = []
        for _ in range(max(20, int(RATE * SECONDS * options.scale))):
            due += 1 / RATE
            time.sleep(max(0.0, due - time.perf_counter()))
            asked.append(pool.submit(one, make(random), due))
        for answer in asked:
            answer.result()
    return Round(percentile(times, 0.5), {}, {"p99": percentile(times, 0.99)})


def _ask_while_storing(
    url: str,
    make: Callable[[Random], HistoryQuery],
    read: Callable[[HistoryQuery], Any],
    options: Options,
) -> Round:
    context = multiprocessing.get_context("spawn")
    ends = context.Event()
    with ProcessPoolExecutor(1, context, initializer=_set_end, initargs=(ends,)) as pool:
        stored = pool.submit(_store, url)
        try:
            asked = _ask(make, read, options)
        finally:
            ends.set()
        return asked._replace(extra={**asked.extra, "stored_per_s": stored.result()})


_ends: list[Event] = []


def _set_end(ends: Event) -> None:
    _ends.append(ends)


def _store(url: str) -> float:
    """A kernel that stores messages of the last hour at a fixed rate, in groups of 20 ms."""
    engine = PostgresEngine(url, shown="the database")
    engine.open()
    random = Random()
    begin = due = time.perf_counter()
    stored = 0
    while not _ends[0].is_set():
        due += STORE_GROUP / STORE_RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        stored += engine.insert(_rows(random, (KEEPS - 3600) * 10_000 + stored, STORE_GROUP))
    engine.close()
    return round(stored / (time.perf_counter() - begin))


def _drop(
    engine: PostgresEngine, connection: psycopg.Connection[Any], name: str, count: int
) -> dict[str, Any]:
    """Remove two hours of messages by the engine, the next two by DELETE."""
    width = 7200 * SECOND
    if not engine.claim():
        raise BenchError("another one looks after the tables")
    started = time.perf_counter()
    gone = engine.remove(None, START + width)
    ours = time.perf_counter() - started
    engine.release()
    started = time.perf_counter()
    connection.execute("DELETE FROM logos_message WHERE timestamp < %s", (START + 2 * width,))
    reference = time.perf_counter() - started
    if abs(gone - count / 24) > 1:
        raise BenchError(f"{gone} of {count} messages were removed")
    case = Case(
        BENCH,
        f"retention drop in {name}",
        "ms",
        "DELETE of as many",
        "< 1 s",
        lambda line: line["ours"] < 1000,
    )
    case.more["messages"] = gone
    return result(case, [Round(ours * 1000, {})], [Round(reference * 1000, {})])

"""The bench `archive`: how fast messages are stored and found, on both engines, and what the node's own loop
feels of it. Messages have payloads of 1 KiB, 50 content topics, 8 shards.

10 k and 100 k messages; `--case 1M` adds the third size (two minutes more for each engine) and shows only it.
Without PostgreSQL's binaries only SQLite is measured.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import trio

from ipc_schema.config.archive import RetentionPolicy, parse_database_url
from ipc_schema.message import WakuMessage
from kernel_proc.archive import make_archive
from kernel_proc.archive.api import ArchiveState, HistoryQuery
from kernel_proc.archive.service import MessageArchive
from kernel_proc.archive.settings import ArchiveSettings
from tests.bench.harness import BenchError, Case, Options, Round, alternate, percentile, result
from tests.support.postgres import PostgresServer, postgres_binaries

BENCH: Final = "archive"
SIZES: Final = {"10k": 10_000, "100k": 100_000}
LARGE: Final = {"1M": 1_000_000}
PAYLOAD: Final = 1024
START: Final = 1_700_000_000_000_000_000
STEP: Final = 1_000_000
"""Nanoseconds between two messages: 1,000 a second."""
CONTENTS: Final = 50
SHARDS: Final = 8
QUERIES: Final = 500
LOOP_SECONDS: Final = 4.0
TICK: Final = 0.002
INSERT_REFERENCE: Final = (445.0, "nwaku, messages relayed a second with its SQLite store on (measured)")
QUERY_REFERENCE: Final = (11.0, "nwaku, average query above 1 M rows (published)")


def archive(options: Options) -> Iterator[dict[str, Any]]:
    """The lines of all cases."""
    sizes = {**SIZES, **(LARGE if any(name in options.only for name in LARGE) else {})}
    for engine in ("sqlite", "postgres"):
        if engine == "postgres" and postgres_binaries() is None:
            continue
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-archive-")))
            url = "sqlite://store.sqlite3"
            if engine == "postgres":
                binaries = postgres_binaries()
                assert binaries is not None
                server = stack.enter_context(PostgresServer(binaries, fsync="on", shared_buffers="256MB"))
                url = server.url(server.new_database())
            settings = ArchiveSettings(
                database=parse_database_url(url, place), retention=RetentionPolicy(), queue_messages=20_000
            )
            bench = _Bench(engine, settings, options)
            for name, size in sizes.items():
                lines = trio.run(bench.measure, name, options.count(size))
                yield from (line for line in lines if options.wants(line["case"]))
            if options.wants(f"{engine} loop"):
                yield from bench.loop_cases()


class _Bench:
    """One database that grows from size to size."""

    def __init__(self, engine: str, settings: ArchiveSettings, options: Options) -> None:
        self._engine = engine
        self._settings = settings
        self._options = options
        self._random = Random(1)
        self._filler = self._random.randbytes(1 << 20)
        self._count = 0
        self._hashes: list[bytes] = []

    async def _running(self, work: Callable[[MessageArchive], Awaitable[None]]) -> None:
        ready = trio.Event()

        def changed() -> None:
            if made.state is ArchiveState.STALLED:
                raise BenchError(made.reason)
            ready.set()

        made = make_archive(self._settings, changed=changed)
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            await ready.wait()
            await work(made)
            nursery.cancel_scope.cancel()

    def _offer(self, made: MessageArchive) -> bool:
        """The next message. Its hash is made up: making the real one is the relay's work."""
        number = self._count
        at = number * 7919 % (len(self._filler) - PAYLOAD)
        message = WakuMessage(
            self._filler[at : at + PAYLOAD], f"/bench/1/{number % CONTENTS}/proto", 0, START + number * STEP
        )
        digest = self._random.randbytes(32)
        if not made.offer(f"/waku/2/rs/1/{number % SHARDS}", message, digest, message.timestamp):
            return False
        self._count += 1
        if number % 50 == 0:
            self._hashes.append(digest)
        return True

    # --- filling and asking ---

    async def measure(self, name: str, size: int) -> list[dict[str, Any]]:
        """Grow to `size` messages, then ask."""
        lines: list[dict[str, Any]] = []

        async def work(made: MessageArchive) -> None:
            first, started = self._count, time.perf_counter()
            while self._count < size:
                for _ in range(200):
                    if self._count == size or not self._offer(made):
                        break
                await trio.sleep(0.001)
            await made.flush()
            seconds = time.perf_counter() - started
            counters = made.counters
            if counters["stored"] != self._count - first:
                raise BenchError(f"{self._count - first} messages were offered, {counters}")
            lines.append(self._insert_line(name, (self._count - first) / seconds))
            for kind, make in self._queries().items():
                lines.append(self._query_line(name, kind, await self._ask(made, make)))

        await self._running(work)
        return lines

    async def _ask(self, made: MessageArchive, make: Callable[[], HistoryQuery]) -> list[float]:
        count = self._options.count(QUERIES)
        times: list[float] = []
        for number in range(-20, count):
            query = make()
            started = time.perf_counter()
            page = await made.query(query)
            if number >= 0:
                times.append((time.perf_counter() - started) * 1000)
            if not page.messages:
                raise BenchError(f"an empty page for {query}")
        return times

    def _queries(self) -> dict[str, Callable[[], HistoryQuery]]:
        random, span = self._random, self._count * STEP

        def page() -> HistoryQuery:
            number = random.randrange(self._count)
            return HistoryQuery(
                pubsub_topic=f"/waku/2/rs/1/{number % SHARDS}",
                content_topics=(f"/bench/1/{number % CONTENTS}/proto",),
                end=START + span // 2 + random.randrange(span // 2),
                include_data=True,
            )

        def window() -> HistoryQuery:
            at = START + random.randrange(span // 2)
            return HistoryQuery(
                start=at, end=at + 10 * STEP * 1000, forward=True, limit=20, include_data=True
            )

        def cursor() -> HistoryQuery:
            middle = self._hashes[len(self._hashes) // 2 : -1]
            return HistoryQuery(cursor=random.choice(middle), include_data=True)

        def hashes(*, include_data: bool) -> HistoryQuery:
            asked = tuple(random.choices(self._hashes, k=100))
            return HistoryQuery(hashes=asked, limit=100, include_data=include_data)

        return {
            "page of 20": page,
            "page of 20 after a cursor": cursor,
            "page of 20 in a window": window,
            "100 hashes": partial(hashes, include_data=True),
            "presence of 100": partial(hashes, include_data=False),
        }

    def _insert_line(self, size: str, rate: float) -> dict[str, Any]:
        reference, name = INSERT_REFERENCE
        line = {
            "bench": BENCH,
            "case": f"{self._engine} insert up to {size}",
            "unit": "msg/s",
            "ours": round(rate),
            "reference": reference,
            "reference_name": name,
            "ratio": round(rate / reference, 2),
        }
        return line | self._target("≥ 5,000 msg/s", reached=rate >= 5000)

    def _target(self, text: str, *, reached: bool) -> dict[str, Any]:
        """Targets are set for the embedded engine."""
        return {"target": text, "reached": reached} if self._engine == "sqlite" else {}

    def _query_line(self, size: str, kind: str, times: list[float]) -> dict[str, Any]:
        reference, name = QUERY_REFERENCE
        mean, last = statistics.fmean(times), percentile(times, 0.99)
        line = {
            "bench": BENCH,
            "case": f"{self._engine} {kind} in {size}",
            "unit": "ms, average",
            "ours": round(mean, 3),
            "reference": reference,
            "reference_name": name,
            "ratio": round(mean / reference, 3),
            "p50": round(percentile(times, 0.5), 3),
            "p99": round(last, 3),
            "samples": len(times),
        }
        return line | (self._target("p99 ≤ 10 ms", reached=last <= 10) if "page" in kind else {})

    # --- what the loop feels ---

    def loop_cases(self) -> Iterator[dict[str, Any]]:
        """Lateness of the trio loop that the relay shares, with and without work for the archive."""
        quiet = partial(trio.run, self._loop, None)
        for name, load in (("50 queries/s", self._asking), ("5,000 inserts/s", self._storing)):
            ours, reference = alternate(self._options.runs, partial(trio.run, self._loop, load), quiet)
            case = Case(BENCH, f"{self._engine} loop with {name}", "ms late, p99", "the same loop without")
            yield result(case, ours, reference)

    async def _loop(self, load: Callable[[MessageArchive], Awaitable[None]] | None) -> Round:
        late: list[float] = []

        async def work(made: MessageArchive) -> None:
            async with trio.open_nursery() as nursery:
                if load is not None:
                    nursery.start_soon(load, made)
                end = trio.current_time() + max(0.5, LOOP_SECONDS * self._options.scale)
                due = trio.current_time()
                while due < end:
                    due += TICK
                    await trio.sleep_until(due)
                    late.append((trio.current_time() - due) * 1000)
                nursery.cancel_scope.cancel()
            if made.counters["queue_full"]:
                raise BenchError("the archive could not keep up")

        await self._running(work)
        return Round(percentile(late, 0.99), {}, {"p50": percentile(late, 0.5), "ticks": len(late)})

    async def _asking(self, made: MessageArchive) -> None:
        makes = list(self._queries().values())
        due = trio.current_time()
        async with trio.open_nursery() as nursery:
            while True:  # open loop: a slow answer delays no question
                due += 0.02
                await trio.sleep_until(due)
                nursery.start_soon(made.query, self._random.choice(makes)())

    async def _storing(self, made: MessageArchive) -> None:
        due = trio.current_time()
        while True:
            due += 0.004
            await trio.sleep_until(due)
            for _ in range(20):
                self._offer(made)

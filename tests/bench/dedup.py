"""The bench `dedup`: what it costs to know a message again, beside so many hashes that are remembered.

`new` and `repeat`: a message's look-up in memory, the first time and later. `upkeep`: the call that forgets
what may be forgotten, when nothing may. `disk`: remembering what a turn brought (50 hashes) and forgetting
the oldest slice, through the database.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mapi_proc.database import Database
from mapi_proc.receive.dedup import HASH_SIZE, Dedup
from tests.bench.disk import DISK
from tests.bench.harness import Options
from tests.bench.sizes import flat_lines

BENCH: Final = "dedup"
MESSAGES: Final = 20_000
UPKEEPS: Final = 200
TURNS: Final = 500
A_TURN: Final = 50
SHARDS: Final = 8
SECOND: Final = 1_000_000_000
START: Final = 1_700_000_000 * SECOND
PER_SECOND: Final = 3000


def dedup(options: Options) -> Iterator[dict[str, Any]]:
    """The lines of all cases."""
    count = options.count(MESSAGES)
    yield from flat_lines(
        BENCH,
        {
            "new": ("µs per message", lambda size: _fresh(size, count)),
            "repeat": ("µs per message", lambda size: _memory(size, lambda held: held.repeat(count))),
            "upkeep": ("µs per call", lambda size: _memory(size, lambda held: held.upkeep(UPKEEPS))),
            "disk": ("µs per turn", lambda size: _file(size, options.count(TURNS))),
        },
        options,
    )


class _Held:
    """A memory with so many hashes, seen at a steady rate until now."""

    def __init__(self, size: int) -> None:
        self._dedup = Dedup(capacity=2 * size + 100_000_000)
        self._now = START
        self._size = size
        for number in range(size):
            self._dedup.add(os.urandom(HASH_SIZE), number % SHARDS, self._time(number))
        self._sample = list(self._dedup.known)[:: max(1, size // 5000)]
        self._added = size

    def _time(self, number: int) -> int:
        self._now = START + number * SECOND // PER_SECOND
        return self._now

    def new(self, count: int) -> float:
        """µs per new message. They stay: not many more than are held should be added."""
        fresh = [os.urandom(HASH_SIZE) for _ in range(count)]
        add, now = self._dedup.add, self._time(self._added)
        started = time.perf_counter()
        for number, digest in enumerate(fresh):
            add(digest, number % SHARDS, now)
        seconds = time.perf_counter() - started
        self._added += count
        return seconds / count * 1e6

    def repeat(self, count: int) -> float:
        """µs per message that is known."""
        sample = (self._sample * (count // len(self._sample) + 1))[:count]
        # As they come from the network: other objects than those held, with hashes not computed yet.
        sample = [bytes(bytearray(known)) for known in sample]
        add, now = self._dedup.add, self._now
        started = time.perf_counter()
        for digest in sample:
            add(digest, 0, now)
        return (time.perf_counter() - started) / count * 1e6

    def upkeep(self, count: int) -> float:
        """µs per call when all is held back by the shards' horizons."""
        horizons = dict.fromkeys(range(SHARDS), START)
        started = time.perf_counter()
        for _ in range(count):
            self._dedup.evict(self._now, horizons)
        return (time.perf_counter() - started) / count * 1e6


@contextmanager
def _fresh(size: int, count: int) -> Iterator[Callable[[], float]]:
    """Additions to memories that stay about as large as they are said to be."""
    each = min(size, count)
    kept = [_Held(size)] if size > count else []

    def work() -> float:
        memories = kept or [_Held(size) for _ in range(max(1, count // size))]
        return sum(held.new(each) for held in memories) / len(memories)

    yield work


@contextmanager
def _memory(size: int, work: Callable[[_Held], float]) -> Iterator[Callable[[], float]]:
    held = _Held(size)
    yield lambda: work(held)


@contextmanager
def _file(size: int, turns: int) -> Iterator[Callable[[], float]]:
    with (
        tempfile.TemporaryDirectory(prefix="bench-dedup-", dir=DISK) as place,
        asyncio.Runner() as runner,
    ):

        async def make() -> Database:
            database = await Database.open(Path(place) / "mapi.sqlite3")
            batch = database.batch()
            for turn in range(size // A_TURN):
                batch.remember(turn % SHARDS, START + turn, os.urandom(HASH_SIZE * A_TURN))
                if turn % 500 == 499:
                    await database.commit(batch)
                    batch = database.batch()
            if not batch.empty:
                await database.commit(batch)
            return database

        database = runner.run(make())
        done = size // A_TURN

        async def round_() -> float:
            nonlocal done
            started = time.perf_counter()
            for _ in range(turns):
                batch = database.batch()
                batch.remember(done % SHARDS, START + done, os.urandom(HASH_SIZE * A_TURN))
                # As many are held after it as before.
                batch.evict_hashes(done % SHARDS, START + done - size // A_TURN + 1)
                done += 1
                await database.commit(batch)
            return (time.perf_counter() - started) / turns * 1e6

        yield lambda: runner.run(round_())
        runner.run(database.close())

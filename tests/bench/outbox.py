"""The bench `outbox`: what a send costs beside those that wait, and beside those that are remembered.

`disk`: a send's way through the database (accepted, attempted, propagated, final), 64 at once, in a file that
remembers so many finished request ids (of 24 h). Without syncs: those are the bench `send`'s. `repeat`:
looking up an old request id in it. `memory`: a send's way through the loop beside so many that have
propagated and wait for a store's word.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mapi_proc.database import Database, OutboxEntry, OutboxState
from mapi_proc.send.confirm import NoStore
from mapi_proc.send.ledger import SendLedger
from mapi_proc.send.loop import SendLoop
from mapi_proc.send.rate import RateLimiter
from mapi_proc.send.settings import SendSettings, Timing
from mapi_proc.send.task import Attempt, Concluded, Published, SendState, SendTask
from tests.bench.disk import DISK
from tests.bench.harness import Options
from tests.bench.sizes import flat_lines

BENCH: Final = "outbox"
SENDS: Final = 2000
AT_ONCE: Final = 64
PAYLOAD: Final = b"." * 1024
SCOPE: Final = b"s" * 16
TOPIC: Final = "/bench/1/outbox/proto"


def outbox(options: Options) -> Iterator[dict[str, Any]]:
    """The lines of all cases."""
    sends = options.count(SENDS)
    yield from flat_lines(
        BENCH,
        {
            "disk": ("µs per send", lambda size: _file(size, lambda box: box.pass_through(sends))),
            "repeat": ("µs per look-up", lambda size: _file(size, lambda box: box.look_up(sends // 4))),
            "memory": ("µs per send", lambda size: _memory(size, sends)),
        },
        options,
    )


# -- on disk -------------------------------------------------------------------------------------------------


@contextmanager
def _file(size: int, work: Callable[[_Box], Coroutine[Any, Any, float]]) -> Iterator[Callable[[], float]]:
    with (
        tempfile.TemporaryDirectory(prefix="bench-outbox-", dir=DISK) as place,
        asyncio.Runner() as runner,
    ):
        box = runner.run(_Box.filled(Path(place) / "mapi.sqlite3", size))
        yield lambda: runner.run(work(box))
        runner.run(box.database.close())


class _Box:
    """A database with an outbox."""

    def __init__(self, database: Database, next_id: int) -> None:
        self.database = database
        self._next_id = next_id
        self._requests: list[bytes] = []

    @classmethod
    async def filled(cls, path: Path, size: int) -> _Box:
        """One that remembers `size` finished sends."""
        box = cls(await Database.open(path), 1)
        while box._next_id <= size:
            batch = box.database.batch()
            for _ in range(min(1000, size + 1 - box._next_id)):
                entry = box._entry(payload=b"", state=OutboxState.SENT)
                box._requests.append(entry.request_id)
                batch.put_send(entry)
            await box.database.commit(batch)
        return box

    def _entry(self, payload: bytes = PAYLOAD, state: OutboxState = OutboxState.PARKED) -> OutboxEntry:
        entry = OutboxEntry(
            self._next_id, SCOPE, os.urandom(16), b"f" * 32, TOPIC, payload, b"", False, time.time_ns(), state
        )
        self._next_id += 1
        return entry

    async def pass_through(self, count: int) -> float:
        """µs per send, of so many."""
        database, left = self.database, iter(range(count))

        async def one() -> None:
            entry = self._entry()
            batch = database.batch()
            batch.put_send(entry)
            await database.commit(batch)
            for state in (OutboxState.ATTEMPTED, OutboxState.PROPAGATED):
                batch = database.batch()
                batch.change_send(
                    entry.entry_id,
                    state,
                    attempts=1,
                    timestamp=1,
                    message_hash=b"h" * 32,
                    first_attempt=1,
                    propagated=0,
                )
                await database.commit(batch)
            batch = database.batch()
            batch.finish_send(entry.entry_id, OutboxState.SENT, 1)
            await database.commit(batch)

        async def worker() -> None:
            for _ in left:
                await one()

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
        return (time.perf_counter() - started) / count * 1e6

    async def look_up(self, count: int) -> float:
        """µs per look-up of a request id, evenly over all that are remembered."""
        step = max(1, len(self._requests) // count)
        asked = (self._requests[::step] * count)[:count]
        started = time.perf_counter()
        for request_id in asked:
            assert await self.database.find_request(SCOPE, request_id) is not None
        return (time.perf_counter() - started) / count * 1e6


# -- in memory -----------------------------------------------------------------------------------------------


class _Store:
    """Publishes at once and writes nothing."""

    def __init__(self) -> None:
        self.propagations = asyncio.Semaphore(0)

    async def attempting(self, tasks: Sequence[SendTask]) -> None:
        for task in tasks:
            task.timestamp = time.time_ns()

    async def publish(self, attempts: Sequence[Attempt], concluded: Concluded) -> None:
        for task, _ in attempts:
            concluded(task, Published(3))

    def changed(self, task: SendTask) -> None: ...

    def queued(self, task: SendTask) -> None: ...

    def propagated(self, task: SendTask) -> None:
        self.propagations.release()

    def finished(self, task: SendTask) -> None: ...


async def _no_store(shard: int, hashes: Sequence[bytes], /) -> set[bytes] | NoStore:
    return NoStore("no store")


@contextmanager
def _memory(size: int, sends: int) -> Iterator[Callable[[], float]]:
    with asyncio.Runner() as runner:

        async def make() -> tuple[SendLedger, SendLoop, _Store]:
            store, settings = _Store(), SendSettings(max_tasks=1 << 60, max_bytes=1 << 60)
            # Nothing becomes due: the rounds of confirmation are not measured here.
            timing = Timing(lambda: 1000.0, time.time_ns, time.time_ns, lambda: 0.5)
            ledger = SendLedger(store, settings, timing)
            loop = SendLoop(ledger, store.publish, _no_store, RateLimiter(None), settings, timing)
            for number in range(size):
                task = _task(number, SendState.PROPAGATED)
                task.attempts = 1
                ledger.resume(task, 0.0)
                loop.accepted(task)
            loop.set_online(True)
            return ledger, loop, store

        ledger, loop, store = runner.run(make())
        numbers = iter(range(size, 1 << 62))

        async def round_() -> float:
            running = asyncio.create_task(loop.run())
            started = time.perf_counter()
            for _ in range(sends):
                ledger.room.check(SCOPE, len(PAYLOAD))
                task = _task(next(numbers))
                ledger.accept(task)
                loop.accepted(task)
            for _ in range(sends):
                await store.propagations.acquire()
            seconds = time.perf_counter() - started
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            return seconds / sends * 1e6

        yield lambda: runner.run(round_())


def _task(number: int, state: SendState = SendState.PARKED) -> SendTask:
    return SendTask(
        number.to_bytes(16), SCOPE, TOPIC, 0, PAYLOAD, b"", False, entry_id=number + 1, state=state
    )

"""The send loop over a kernel that the test scripts, with real asyncio scheduling and a clock of the test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from ipc_schema.config.ratelimits import RateLimit
from ipc_schema.errors import ErrorCode, IpcError
from mapi_proc.send.confirm import BATCH, QUERIES_AT_ONCE, NoStore
from mapi_proc.send.ledger import SendLedger
from mapi_proc.send.loop import AT_ONCE, SendLoop
from mapi_proc.send.rate import RateLimiter
from mapi_proc.send.settings import SendSettings, Timing
from mapi_proc.send.task import (
    CROWDED_OUT,
    NOT_CONFIRMED,
    RATE_LIMITED,
    WINDOW_ERROR,
    Attempt,
    Concluded,
    NoPeers,
    Outcome,
    Published,
    SendState,
    SendTask,
    Unknown,
)
from tests.support.aio import asyncio_test


class Store:
    """Records what the loop asks for; outcomes come from `script` (the last one repeats)."""

    def __init__(self, *script: Outcome) -> None:
        self.script = list(script)
        self.log: list[str] = []
        self.queued_sends: list[bytes] = []
        self.forced: list[bool] = []
        self.together: list[int] = []
        self.done: asyncio.Queue[SendTask] = asyncio.Queue()
        self.retried = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.disk: asyncio.Event | None = None
        self.under_way = 0
        self.most = 0

    async def attempting(self, tasks: Sequence[SendTask]) -> None:
        if self.disk is not None:
            await self.disk.wait()
        for task in tasks:
            task.timestamp = int(100e9)
            task.message_hash = task.request_id * 2
            self.log.append("attempting")

    async def publish(self, attempts: Sequence[Attempt], concluded: Concluded) -> None:
        self.together.append(len(attempts))

        async def one(task: SendTask, force: bool) -> None:
            concluded(task, await self.publish_one(task, force))

        async with asyncio.TaskGroup() as group:
            for attempt in attempts:
                group.create_task(one(*attempt))

    async def publish_one(self, task: SendTask, force: bool) -> Outcome:
        assert task.timestamp
        self.log.append("publish")
        self.forced.append(force)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.gate is not None:
            await self.gate.wait()
        self.under_way -= 1
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    def queued(self, task: SendTask) -> None:
        self.queued_sends.append(task.request_id)

    def changed(self, task: SendTask) -> None:
        self.retried.set()

    def propagated(self, task: SendTask) -> None:
        self.log.append("propagated")

    def finished(self, task: SendTask) -> None:
        self.done.put_nowait(task)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


_ROWS = itertools.count(1)


def task(number: int = 0, scope: bytes = b"app") -> SendTask:
    return SendTask(
        number.to_bytes(16), scope, "/a/1/b/proto", 0, b"payload", b"", False, entry_id=next(_ROWS)
    )


@asynccontextmanager
async def running(loop: Sends) -> AsyncIterator[None]:
    runner = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        runner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await runner


class Archive:
    """A store: has what is in `held`; `asked` are the hashes of each query."""

    def __init__(self) -> None:
        self.held: set[bytes] = set()
        self.asked: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.there = True

    async def __call__(self, shard: int, hashes: Sequence[bytes], /) -> set[bytes] | NoStore:
        self.asked.put_nowait(list(hashes))
        return self.held & set(hashes) if self.there else NoStore("no store for shard 0 is connected")


class Sends:
    """A ledger and its loop."""

    def __init__(
        self, store: Store, archive: Archive, limit: RateLimit | None, settings: SendSettings, clock: Clock
    ) -> None:
        timing = Timing(clock, lambda: int(clock.now * 1e9), lambda: int(clock.now * 1e9), lambda: 0.5)
        self.ledger = SendLedger(store, settings, timing)
        limiter = RateLimiter(limit)
        self.loop = SendLoop(self.ledger, store.publish, archive, limiter, settings, timing)
        self.run = self.loop.run
        self.confirm = self.loop.confirm
        self.set_online, self.wake = self.loop.set_online, self.loop.wake
        self.cancel = self.ledger.cancel

    def __len__(self) -> int:
        return len(self.ledger)

    @property
    def pending_bytes(self) -> int:
        return self.ledger.pending_bytes

    def check_room(self, size: int, scope: bytes = b"app") -> None:
        self.ledger.room.check(scope, size)

    def accept(self, task: SendTask) -> None:
        self.ledger.room.take(task.scope, len(task.payload))
        self.ledger.accept(task)
        self.loop.accepted(task)

    def resume(self, task: SendTask, window_used: float) -> None:
        self.ledger.resume(task, window_used)
        self.loop.accepted(task, resumed=True)


def make(
    store: Store,
    clock: Clock,
    *,
    archive: Archive | None = None,
    limit: RateLimit | None = None,
    in_flight: int = 64,
    max_tasks: int = 10_000,
    max_bytes: int = 1 << 20,
) -> Sends:
    settings = SendSettings(
        reliability=archive is not None, in_flight=in_flight, max_tasks=max_tasks, max_bytes=max_bytes
    )
    return Sends(store, archive or Archive(), limit, settings, clock)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def round_of(loop: Sends, clock: Clock) -> None:
    """Let the next round of the confirmation pass."""
    clock.now += 3.1
    loop.confirm.set_online(True)
    for _ in range(200):
        await asyncio.sleep(0)


@asyncio_test()
async def test_what_waits_is_attempted_together_within_bounds() -> None:
    store, clock = Store(Published(1)), Clock()
    loop = make(store, clock, in_flight=200, max_bytes=1 << 24)
    for number in range(AT_ONCE + 10):
        loop.accept(task(number))
    for number in range(100, 103):
        large = task(number)
        large.payload = bytes(400 << 10)
        loop.accept(large)
    loop.set_online(True)
    async with running(loop):
        finished = [(await store.done.get()).request_id for _ in range(AT_ONCE + 13)]
    assert store.together == [AT_ONCE, 12, 1], "the last one's payload is too much for the second request"
    assert finished == [number.to_bytes(16) for number in (*range(AT_ONCE + 10), 100, 101, 102)]


@asyncio_test()
async def test_a_retry_does_not_wait_for_the_disk_of_first_attempts() -> None:
    store, clock = Store(NoPeers(), Published(1)), Clock()
    loop = make(store, clock)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task(1))
        await store.retried.wait()
        store.disk = asyncio.Event()
        loop.accept(task(2))
        loop.wake()
        assert (await store.done.get()).request_id == (1).to_bytes(16)
        store.disk.set()
        assert (await store.done.get()).request_id == (2).to_bytes(16)


@asyncio_test()
async def test_a_send_that_a_store_confirms_as_it_is_published_again_has_one_end() -> None:
    store, clock = Store(Published(1)), Clock()
    loop = make(store, clock, archive=Archive())
    loop.set_online(True)
    one = task()
    async with running(loop):
        loop.accept(one)
        while not loop.ledger.states["propagated"]:
            await asyncio.sleep(0)
        assert loop.loop.reserve()
        loop.loop.begin_reserved(one)
        loop.loop.launch()
        loop.ledger.judge(one, found=True)
        while len(store.forced) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert one.state is SendState.SENT
    assert store.log.count("propagated") == 1
    assert loop.ledger.states["propagated"] == 0


@asyncio_test()
async def test_the_attempt_is_written_before_it_is_published() -> None:
    store, clock = Store(Published(2, False)), Clock()
    loop = make(store, clock)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task())
        done = await store.done.get()
    assert done.state is SendState.UNCONFIRMED
    assert store.log == ["attempting", "publish", "propagated"]
    assert len(loop) == 0
    assert loop.pending_bytes == 0


@asyncio_test()
async def test_nothing_is_attempted_while_the_kernel_is_away() -> None:
    store, clock = Store(Published(1, False)), Clock()
    loop = make(store, clock)
    async with running(loop):
        loop.accept(task())
        clock.now += 1000
        await asyncio.sleep(0)
        assert store.log == []
        loop.set_online(True)
        assert (await store.done.get()).state is SendState.UNCONFIRMED


@asyncio_test()
async def test_no_peers_then_peers_appear() -> None:
    store, clock = Store(NoPeers(), Published(1, False)), Clock()
    loop = make(store, clock)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task())
        await store.retried.wait()
        assert store.done.empty()
        loop.wake()
        assert (await store.done.get()).state is SendState.UNCONFIRMED
    assert store.forced == [False, True]


@asyncio_test()
async def test_the_window_ends_a_send_that_never_propagates_even_without_a_kernel() -> None:
    store, clock = Store(Unknown("kernel restarted")), Clock()
    loop = make(store, clock)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task())
        await store.retried.wait()
        clock.now += 61
        loop.set_online(False)
        done = await store.done.get()
    assert (done.state, done.error) == (SendState.FAILED, f"{WINDOW_ERROR}; last: kernel restarted")


@asyncio_test()
async def test_attempts_at_once_are_bounded_and_in_order() -> None:
    store, clock = Store(Published(1, False)), Clock()
    store.gate = asyncio.Event()
    loop = make(store, clock, in_flight=3)
    loop.set_online(True)
    async with running(loop):
        for number in range(10):
            loop.accept(task(number))
        while store.under_way < 3:
            await asyncio.sleep(0)
        store.gate.set()
        finished = [(await store.done.get()).request_id for _ in range(10)]
    assert store.most == 3
    assert finished == [number.to_bytes(16) for number in range(10)]


@asyncio_test()
async def test_a_send_resumed_after_a_restart_is_forced_and_keeps_its_window() -> None:
    store, clock = Store(NoPeers()), Clock()
    loop = make(store, clock)
    loop.set_online(True)
    old = task()
    old.attempts, old.timestamp, old.message_hash = 1, 7, b"x" * 32
    async with running(loop):
        loop.resume(old, window_used=59.5)
        await store.retried.wait()
        assert store.forced == [True]
        clock.now += 1
        loop.wake()
        assert (await store.done.get()).error == f"{WINDOW_ERROR}; last: no peers"
    assert old.timestamp == 7


@asyncio_test()
async def test_room_is_bounded_in_count_and_bytes() -> None:
    loop = make(Store(NoPeers()), Clock(), max_tasks=2, max_bytes=20)
    loop.check_room(20)
    loop.accept(task(1))
    with pytest.raises(IpcError) as full:
        loop.check_room(14)
    assert full.value.code is ErrorCode.BUSY
    loop.accept(task(2))
    with pytest.raises(IpcError):
        loop.check_room(1)


@asyncio_test()
async def test_a_store_is_asked_after_three_seconds_and_its_word_is_the_end() -> None:
    store, clock, archive = Store(Published(2)), Clock(), Archive()
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task(7))
        while "propagated" not in store.log:
            await asyncio.sleep(0)
        clock.now += 2.9
        loop.confirm.set_online(True)
        await asyncio.sleep(0.01)
        assert archive.asked.empty()
        archive.held.add((7).to_bytes(16) * 2)
        clock.now += 0.2
        loop.confirm.set_online(True)
        assert await archive.asked.get() == [(7).to_bytes(16) * 2]
        assert (await store.done.get()).state is SendState.SENT
    assert store.log.count("publish") == 1


@asyncio_test()
async def test_a_missing_message_is_published_again_only_while_it_is_young() -> None:
    store, clock, archive = Store(Published(2)), Clock(), Archive()
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task())
        while "propagated" not in store.log:
            await asyncio.sleep(0)
        published = 1
        for _ in range(30):
            clock.now += 3.0
            loop.confirm.set_online(True)
            await asyncio.sleep(0.002)
            if store.log.count("publish") > published:
                assert clock.now < 100.0 + 15.0 + 0.1
                published = store.log.count("publish")
            if not store.done.empty():
                break
        assert (await store.done.get()).state is SendState.UNCONFIRMED
    assert published >= 3
    assert all(store.forced[1:])
    assert store.log.count("propagated") == 1
    assert loop.pending_bytes == 0


@pytest.mark.parametrize("answers", [True, False])
@asyncio_test()
async def test_a_store_that_joins_after_twelve_seconds_still_gets_the_message(answers: bool) -> None:
    store, clock, archive = Store(Published(2)), Clock(), Archive()
    archive.there = False
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task(7))
        while "propagated" not in store.log:
            await asyncio.sleep(0)
        for elapsed in (3.0, 6.0, 9.0, 12.0):
            clock.now = 100.0 + elapsed
            loop.confirm.set_online(True)
            await archive.asked.get()
        assert store.log.count("publish") == 1
        archive.there = answers  # a mere relay peer, or a store that cannot be asked yet, gets it too
        clock.now = 115.5
        loop.wake()
        async with asyncio.timeout(5):
            while store.log.count("publish") < 2:
                await asyncio.sleep(0)
        archive.there = True
        archive.held.add((7).to_bytes(16) * 2)
        clock.now = 120.0
        loop.confirm.set_online(True)
        assert (await store.done.get()).state is SendState.SENT
    assert store.log.count("publish") == 2


@asyncio_test()
async def test_without_a_store_the_window_ends_it_unconfirmed() -> None:
    store, clock, archive = Store(Published(2)), Clock(), Archive()
    archive.there = False
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task())
        while "propagated" not in store.log:
            await asyncio.sleep(0)
        clock.now += 61.0
        loop.confirm.set_online(True)
        assert (await store.done.get()).state is SendState.UNCONFIRMED
    assert store.log.count("publish") == 1, "a store that cannot be asked is not a reason to publish again"


@asyncio_test()
async def test_many_hashes_are_asked_for_in_batches_of_a_hundred() -> None:
    store, clock, archive = Store(Published(2)), Clock(), Archive()
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    async with running(loop):
        for number in range(250):
            archive.held.add(number.to_bytes(16) * 2)
            loop.accept(task(number))
        while store.log.count("propagated") < 250:
            await asyncio.sleep(0)
        clock.now += 3.1
        loop.confirm.set_online(True)
        sizes = [len(await archive.asked.get()) for _ in range(3)]
        assert sizes == [100, 100, 50]
        done = {(await store.done.get()).state for _ in range(250)}
    assert done == {SendState.SENT}


@asyncio_test()
async def test_one_round_asks_for_all_that_is_due() -> None:
    store, clock, archive = Store(Published(2)), Clock(), Archive()
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    async with running(loop):
        for number in range(5000):
            archive.held.add(number.to_bytes(16) * 2)
            loop.accept(task(number))
        while store.log.count("propagated") < 5000:
            await asyncio.sleep(0)
        clock.now += 3.1
        loop.confirm.set_online(True)
        for _ in range(5000):
            assert (await store.done.get()).state is SendState.SENT
    assert archive.asked.qsize() == 50


@asyncio_test()
async def test_a_round_ends_when_no_store_answers() -> None:
    store, clock, archive = Store(Published(2)), Clock(), Archive()
    archive.there = False
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    async with running(loop):
        for number in range(3000):
            loop.accept(task(number))
        while store.log.count("propagated") < 3000:
            await asyncio.sleep(0)
        clock.now += 3.1
        loop.confirm.set_online(True)
        while len(loop.confirm) < 3000 or archive.asked.empty():
            await asyncio.sleep(0)
        assert archive.asked.qsize() == QUERIES_AT_ONCE
        clock.now += 60
        loop.confirm.set_online(True)
        for _ in range(3000):
            assert (await store.done.get()).state is SendState.UNCONFIRMED


@pytest.mark.parametrize("comes", [True, False])
@asyncio_test()
async def test_while_no_store_answers_few_sends_are_taken_up_and_all_once_one_does(comes: bool) -> None:
    store, clock, archive = Store(Published(2)), Clock(), Archive()
    archive.there = False
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    count, rounds = 3000, 15
    async with running(loop):
        for number in range(count):
            loop.accept(task(number))
        while store.log.count("propagated") < count:
            await asyncio.sleep(0)
        for _ in range(rounds):
            asked = loop.confirm.unanswered
            clock.now += 3.1
            loop.confirm.set_online(True)
            while loop.confirm.unanswered == asked or len(loop.confirm) < count:
                await asyncio.sleep(0)
        assert loop.confirm.unanswered <= QUERIES_AT_ONCE + rounds
        # Each when it is due first and when its payload goes, besides those that are asked for.
        assert loop.confirm.handled <= 2 * count + (QUERIES_AT_ONCE + rounds) * BATCH
        assert loop.pending_bytes == 0, "too old to be published again"
        if comes:
            archive.there = True
            archive.held.update(number.to_bytes(16) * 2 for number in range(count))
        ends = SendState.SENT if comes else SendState.UNCONFIRMED
        while store.done.qsize() < count:
            clock.now += 3.1
            loop.confirm.set_online(True)
            for _ in range(200):
                await asyncio.sleep(0)
        assert {store.done.get_nowait().state for _ in range(count)} == {ends}
    assert clock.now <= 100 + 61 + 3.1


@asyncio_test()
async def test_a_store_that_refuses_one_query_of_several_is_asked_for_the_others() -> None:
    class Limited(Archive):
        async def __call__(self, shard: int, hashes: Sequence[bytes], /) -> set[bytes] | NoStore:
            answer = await super().__call__(shard, hashes)
            return NoStore("too many requests") if self.asked.qsize() % QUERIES_AT_ONCE == 0 else answer

    store, clock, archive = Store(Published(2)), Clock(), Limited()
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    async with running(loop):
        for number in range(3000):
            archive.held.add(number.to_bytes(16) * 2)
            loop.accept(task(number))
        while store.log.count("propagated") < 3000:
            await asyncio.sleep(0)
        clock.now += 3.1
        loop.confirm.set_online(True)
        while archive.asked.qsize() < 30 or len(loop.confirm) < 700:
            await asyncio.sleep(0)
        assert (archive.asked.qsize(), store.done.qsize()) == (30, 2300)


@asyncio_test()
async def test_a_store_that_appears_is_asked_for_all_that_was_left_alone() -> None:
    store, clock, archive = Store(Published(2)), Clock(), Archive()
    archive.there = False
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    count = 1000
    async with running(loop):
        for number in range(count):
            loop.accept(task(number))
        await until(lambda: store.log.count("propagated") == count)
        for _ in range(8):
            await round_of(loop, clock)
        assert loop.pending_bytes == 0, "too old to be published again"
        archive.there = True
        archive.held.update(number.to_bytes(16) * 2 for number in range(count))
        loop.wake()
        for _ in range(2):
            await round_of(loop, clock)
        assert store.done.qsize() == count
        assert {store.done.get_nowait().state for _ in range(count)} == {SendState.SENT}


@asyncio_test()
async def test_the_youngest_are_asked_for_although_older_ones_were_due_before_them() -> None:
    store, clock, archive = Store(Published(2)), Clock(), Archive()
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    count = QUERIES_AT_ONCE * BATCH
    async with running(loop):
        for first, rounds in ((0, 5), (count, 7)):
            for number in range(first, first + count):
                loop.accept(task(number))
            await until(lambda: store.log.count("propagated") == first + count)  # noqa: B023
            for _ in range(rounds):
                await round_of(loop, clock)
        archive.there = False
        clock.now += 9.0
        while not store.done.qsize():
            await round_of(loop, clock)
        for _ in range(2):
            await round_of(loop, clock)
        assert store.done.qsize() == count, "the window of the older ones is over"
        archive.there = True
        archive.held.update(number.to_bytes(16) * 2 for number in range(2 * count))
        for _ in range(2):
            await round_of(loop, clock)
        ends = [store.done.get_nowait().state for _ in range(2 * count)]
    assert ends == [SendState.UNCONFIRMED] * count + [SendState.SENT] * count


@asyncio_test()
async def test_the_rate_limit_parks_in_order_and_the_next_epoch_goes_on() -> None:
    store, clock = Store(Published(1)), Clock()
    loop = make(store, clock, limit=RateLimit(2, 50.0))
    loop.set_online(True)
    async with running(loop):
        for number in range(5):
            loop.accept(task(number))
        first = [(await store.done.get()).request_id for _ in range(2)]
        await asyncio.sleep(0.01)
        assert store.done.empty()
        assert store.queued_sends == [number.to_bytes(16) for number in (2, 3, 4)]
        assert {one.cause for one in loop.ledger if one.state is SendState.PARKED} == {RATE_LIMITED}
        assert loop.cancel(b"app", (3).to_bytes(16)), "what waits for its epoch can be cancelled"
        assert (await store.done.get()).state is SendState.CANCELLED
        clock.now += 50.0
        loop.set_online(True)
        second = [(await store.done.get()).request_id for _ in range(2)]
    assert len(store.queued_sends) == 3, "once per send"
    assert first + second == [number.to_bytes(16) for number in (0, 1, 2, 4)]


@asyncio_test()
async def test_what_the_rate_limit_holds_back_is_reported_once_also_over_a_restart() -> None:
    store, clock = Store(Published(1)), Clock()
    loop = make(store, clock, limit=RateLimit(1, 50.0))
    loop.set_online(True)
    async with running(loop):
        loop.resume(task(0), 0.0)
        loop.resume(task(1), 0.0)
        loop.accept(task(2))
        await store.done.get()
        while not store.queued_sends:
            await asyncio.sleep(0)
    assert store.queued_sends == [(2).to_bytes(16)]


@asyncio_test()
async def test_what_has_propagated_holds_no_place_of_what_waits() -> None:
    store, clock, archive = Store(Published(1)), Clock(), Archive()
    archive.there = False
    loop = make(store, clock, archive=archive, max_tasks=10)
    loop.set_online(True)
    async with running(loop):
        for number in range(100):
            loop.check_room(7)
            loop.accept(task(number))
            while store.log.count("propagated") <= number:
                await asyncio.sleep(0)
        assert loop.ledger.states["propagated"] == 10
        done = [await store.done.get() for _ in range(90)]
    assert {one.error for one in done} == {CROWDED_OUT}
    assert [one.request_id for one in done] == [number.to_bytes(16) for number in range(90)]


@asyncio_test()
async def test_beyond_its_bytes_the_oldest_propagated_payloads_go() -> None:
    store, clock = Store(Published(1)), Clock()
    loop = make(store, clock, archive=Archive(), max_bytes=70)
    loop.set_online(True)
    async with running(loop):
        for number in range(50):
            loop.check_room(7)
            loop.accept(task(number))
            while store.log.count("propagated") <= number:
                await asyncio.sleep(0)
        assert loop.pending_bytes == 70
        assert len(loop) == 50
        clock.now += 61
        loop.confirm.set_online(True)
        for _ in range(50):
            assert (await store.done.get()).state is SendState.UNCONFIRMED
    assert loop.pending_bytes == 0


@asyncio_test()
async def test_first_attempts_come_before_retries_which_keep_a_share() -> None:
    store, clock = Store(NoPeers()), Clock()
    loop = make(store, clock, in_flight=8)
    loop.set_online(True)
    async with running(loop):
        for number in range(40):
            loop.accept(task(number))
        while len(store.forced) < 40:
            await asyncio.sleep(0)
        store.gate = asyncio.Event()
        for number in range(40, 80):
            loop.accept(task(number))
        loop.wake()
        while store.under_way < 8:
            await asyncio.sleep(0)
        assert sum(store.forced[40:]) == 2
        store.gate.set()


@asyncio_test()
async def test_apps_take_turns() -> None:
    store, clock = Store(Published(1)), Clock()
    loop = make(store, clock, in_flight=1)
    for number in range(20):
        loop.accept(task(number, b"busy"))
    loop.accept(task(20, b"other"))
    loop.set_online(True)
    async with running(loop):
        done = [await store.done.get() for _ in range(21)]
    assert [one.scope for one in done].index(b"other") == 1


@asyncio_test()
async def test_the_last_cause_stands_in_the_log_and_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "mapi_proc.send")
    cause = "1 peer connected, none on shard 0"
    store, clock = Store(Unknown("kernel restarted"), NoPeers(cause)), Clock()
    loop = make(store, clock)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task(5))
        await store.retried.wait()
        store.retried.clear()
        loop.wake()
        await store.retried.wait()
        assert [one.cause for one in loop.ledger] == [cause]
        assert loop.ledger.last_cause == cause
        clock.now += 61
        loop.wake()
        done = await store.done.get()
    assert done.error == f"{WINDOW_ERROR}; last: {cause}"
    lines = [line for line in caplog.messages if "attempt" in line]
    assert lines == [
        f"send {(5).to_bytes(16).hex()}, attempt 1: kernel restarted",
        f"send {(5).to_bytes(16).hex()}, attempt 2: {cause}",
    ]


@asyncio_test()
async def test_unconfirmed_says_why() -> None:
    store, clock, archive = Store(Published(2)), Clock(), Archive()
    archive.there = False
    loop = make(store, clock, archive=archive)
    loop.set_online(True)
    async with running(loop):
        loop.accept(task())
        while "propagated" not in store.log:
            await asyncio.sleep(0)
        clock.now += 4.0
        loop.confirm.set_online(True)
        await archive.asked.get()
        clock.now += 61.0
        loop.confirm.set_online(True)
        done = await store.done.get()
    assert done.error == f"{NOT_CONFIRMED}; last: no store for shard 0 is connected"

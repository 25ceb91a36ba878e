"""The core on a real database: names, acknowledgements, absence, clocks that are set, floods."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.events import MessageEvent
from ipc_schema.mapi.events import ConnectionStatusChange, MessageCancelled, MessageError
from ipc_schema.mapi.methods import SendRequest
from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.topics import autoshard, shard_topic
from mapi_proc.apps import App
from mapi_proc.core import Core
from mapi_proc.database import Batch, Database, OutboxState
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.receive.history import MAX_JOBS
from mapi_proc.receive.history_ranges import HistoryRange
from mapi_proc.send.task import SendState, SendTask
from tests.support.aio import asyncio_test
from tests.unit.mapi_proc.core.world import (
    DAY,
    NETWORK,
    SECOND,
    START,
    Listening,
    TestClocks,
    connected,
    core_of,
)

TOPIC = "/app/1/chat/proto"


def topics(count: int) -> list[str]:
    return [f"/app/1/topic-{number}/proto" for number in range(count)]


def receive(core: Core, payload: bytes) -> None:
    """A message comes from the network."""
    shard = core.table.routes[TOPIC].shard
    header = (bytes(16), bytes(8), 1, 1, TOPIC, payload.ljust(32), 4, b"", False, 0, b"", 0)
    core.receiver.message(shard, MessageEvent(*header), payload)


async def start_sends(core: Core) -> asyncio.Task[None]:
    """Run the send loop, as with a kernel that can be asked."""
    running = asyncio.create_task(core.sends.loop.run())
    await asyncio.sleep(0)
    core.sends.loop.set_online(True)
    return running


def keep(core: Core) -> None:
    core._parts.upkeep.keep()


@asyncio_test()
async def test_subscriptions_and_sends_go_on_after_a_restart(tmp_path: Path) -> None:
    clocks = TestClocks()
    request = SendRequest(request_id=os.urandom(16), content_topic=TOPIC)
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        assert list(await core.subscribe(app, [*topics(3), "no topic"])) == ["no topic"]
        assert not await core.send(app, request, b"hello")
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        assert core.table.topics_of(app.stream) == sorted([TOPIC, *topics(3)])
        assert [task.request_id for task in core.pending(app)] == [request.request_id]
        assert await core.send(app, request, b"hello"), "a repeat"
        assert await core.cancel(app, request.request_id)


@asyncio_test()
async def test_a_cancelled_send_is_so_on_disk_when_it_is_answered(tmp_path: Path) -> None:
    """Otherwise a Messaging API that is killed then sends it after its restart."""
    async with core_of(tmp_path, TestClocks()) as core:
        app, _ = await connected(core, "alice")
        await core.send(app, SendRequest(request_id=bytes(16), content_topic=TOPIC), b"hello")
        stored = core.database.counters.batches
        assert await core.cancel(app, bytes(16))
        assert core.database.counters.batches > stored
        assert (await core.database.load()).outbox == []
        assert not await core.cancel(app, bytes(16))


@asyncio_test()
async def test_a_send_is_found_with_all_its_attempts_when_it_is_over(tmp_path: Path) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        app, _ = await connected(core, "alice")
        await core.send(app, SendRequest(request_id=bytes(16), content_topic=TOPIC), b"hello")
        (task,) = core.pending(app)
        task.attempts = 3
        core.sends.ledger.refuse(task, "too large")
        found = await core.find_send(app, bytes(16))
        assert found is not None
        assert (found.state, found.attempts, found.cause) == ("failed", 3, "too large")
        await core.close()
        with pytest.raises(IpcError) as refused:
            await core.find_send(app, bytes(16))
        assert refused.value.code is ErrorCode.NOT_READY


@asyncio_test()
async def test_a_repeated_ack_is_answered_when_it_is_on_disk(tmp_path: Path) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        app, listening = await connected(core, "alice")
        await core.subscribe(app, [TOPIC])
        request = SendRequest(request_id=os.urandom(16), content_topic=TOPIC)
        await core.send(app, request, b"hello")
        assert await core.cancel(app, request.request_id)
        async with asyncio.timeout(5):
            while not any(isinstance(event, MessageCancelled) for event in listening.events):
                await asyncio.sleep(0.001)
        seq = listening.events[-1].seq
        stream = app.stream.stream_id
        first = asyncio.create_task(core.ack(app, stream, seq))
        second = asyncio.create_task(core.ack(app, stream, seq))
        await asyncio.sleep(0)  # both have been taken, and the disk has not answered
        assert not first.done()
        assert not second.done()
        assert await first == await second == seq
        assert (await core.database.load()).apps[0].acked == seq
        with pytest.raises(IpcError):
            await core.ack(app, stream, seq + 1)


@asyncio_test()
async def test_what_many_apps_acknowledge_in_a_turn_is_one_transaction(tmp_path: Path) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        apps = [await connected(core, f"app-{number}") for number in range(20)]
        async with asyncio.timeout(5):
            while not all(listening.events for _, listening in apps):  # each gets the connection status
                await asyncio.sleep(0.001)
        before = core.database.counters.batches
        for app, _ in apps:
            assert core.note_ack(app, app.stream.stream_id, 1) == 1
        app, _ = apps[0]
        assert await core.ack(app, app.stream.stream_id, 1) == 1
        assert core.database.counters.batches == before + 1
        assert [app.acked for app in (await core.database.load()).apps] == [1] * 20


@asyncio_test()
async def test_an_app_forgotten_while_it_is_opened_is_made_again(tmp_path: Path) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        opening = asyncio.create_task(core.open_app("alice", 1000))
        while core.apps.named("alice") is None:
            await asyncio.sleep(0)
        forgetting = asyncio.create_task(core.forget("alice", 1000))
        app = await opening
        await forgetting
        assert core.apps.named("alice") in (None, app), "a forgotten app is held by no one"


@asyncio_test()
async def test_an_app_that_is_looked_at_is_not_made(tmp_path: Path) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        for name in ("unknown", "not a name"):
            with pytest.raises(IpcError) as refused:
                core.named_app(name, 1000)
            assert refused.value.code is ErrorCode.BAD_REQUEST
        app, _ = await connected(core, "alice")
        assert core.named_app("alice", 1000) is app
        with pytest.raises(IpcError) as refused:
            core.named_app("alice", 1001)
        assert refused.value.code is ErrorCode.UNAUTHORISED
        assert len(core.apps) == 1


@asyncio_test()
async def test_after_a_long_pause_of_ours_apps_have_time_to_come_back(tmp_path: Path) -> None:
    clocks = TestClocks()
    async with core_of(tmp_path, clocks) as core:
        await connected(core, "alice")
    clocks.pass_by(40 * 24 * 3600, asleep=True)
    async with core_of(tmp_path, clocks) as core:
        clocks.pass_by(60)
        keep(core)
        assert core.apps.named("alice") is not None, "a minute after the start"
        clocks.pass_by(3600)
        keep(core)
        assert core.apps.named("alice") is None


@asyncio_test()
async def test_a_clock_that_is_set_makes_no_app_absent(tmp_path: Path) -> None:
    """A board without a clock of its own starts in 1970, until the network tells it the time."""
    clocks = TestClocks()
    clocks.wall = 3600 * SECOND
    async with core_of(tmp_path, clocks) as core:
        app, listening = await connected(core, "alice")
        core.detach(app, listening)
        clocks.pass_by(2 * 3600)
        keep(core)
        clocks.wall += 20_000 * DAY
        keep(core)
        assert core.apps.named("alice") is app
    async with core_of(tmp_path, clocks) as core:
        clocks.pass_by(2 * 3600)
        keep(core)
        assert core.apps.named("alice") is not None, "also on disk it was seen a moment ago"


@asyncio_test()
async def test_history_that_no_store_gives_is_bounded_and_survives(tmp_path: Path) -> None:
    clocks = TestClocks()
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        for number in range(MAX_JOBS):
            clocks.pass_by(1)
            await core.subscribe(app, [TOPIC], history=HistoryRange(back_ns=(number + 1) * SECOND))
        with pytest.raises(IpcError) as refused:
            await core.subscribe(app, [TOPIC], history=HistoryRange(back_ns=SECOND))
        assert refused.value.code is ErrorCode.BUSY
        assert refused.value.retriable
        assert await core.subscribe(app, topics(1)) == {}, "what asks for no past is not refused"
        (saved,) = (await core.database.load()).history
        assert (saved.start, saved.end) == (clocks.wall - MAX_JOBS * SECOND, clocks.wall)
    async with core_of(tmp_path, clocks) as core:
        assert len(core._parts.history) == 1, "all spans of the topic as one"


@asyncio_test(60)
async def test_ten_thousand_topics_of_one_app_and_a_flood_of_changes(tmp_path: Path) -> None:
    async with core_of(tmp_path, TestClocks(), max_topics_per_app=10_000) as core:
        app, _ = await connected(core, "alice")
        many = topics(10_000)
        for start in range(0, len(many), 1000):
            assert await core.subscribe(app, many[start : start + 1000]) == {}
        assert list(await core.subscribe(app, ["/one/1/more/proto"])) == ["/one/1/more/proto"]
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for topic in many[:300]:
            await core.unsubscribe(app, [topic])
            await core.subscribe(app, [topic])
        assert loop.time() - begun < 15, "what changes costs, not what there is"
        await core.unsubscribe(app, many)
        assert core.table.routes == {}
        assert core.table.shards == set()
        assert not core.link.resyncing, "no stream is followed any more"


@pytest.mark.parametrize("seconds", [1200, 3600, 8 * 24 * 3600, 365 * 24 * 3600])
@pytest.mark.parametrize("sign", [1, -1])
@asyncio_test()
async def test_a_clock_that_is_wrong_for_a_while_drops_nothing_from_a_journal(
    tmp_path: Path, seconds: int, sign: int
) -> None:
    clocks = TestClocks()
    step = sign * seconds * SECOND
    async with core_of(tmp_path, clocks, journal_max_age="1h") as core:
        app, listening = await connected(core, "alice")
        await core.subscribe(app, [TOPIC])
        core.detach(app, listening)
        receive(core, b"right")
        clocks.wall += step
        keep(core)
        receive(core, b"wrong")
        clocks.pass_by(12)
        keep(core)
        clocks.wall -= step
        keep(core)
        clocks.wall += step
    async with core_of(tmp_path, clocks, journal_max_age="1h") as core:
        keep(core)
        clocks.wall -= step  # it was wrong at the start, and is set right
        clocks.pass_by(1800)
        keep(core)
        app, listening = await connected(core, "alice")
        assert app.stream.last_seq == 4, "two messages, and the first status of each life"
        assert app.stream.dropped == 0
        clocks.pass_by(1801)
        keep(core)
        assert app.stream.dropped == 3, "the hour is over all the same"


@asyncio_test()
async def test_a_forward_step_forgets_no_request_id(tmp_path: Path) -> None:
    clocks = TestClocks()
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        request = SendRequest(content_topic=TOPIC, request_id=bytes(16))
        assert await core.send(app, request, b"x") is False
        clocks.wall += 3 * DAY
        other = SendRequest(content_topic=TOPIC, request_id=bytes(15) + b"1")
        assert await core.send(app, other, b"y") is False
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        assert await core.send(app, request, b"x") is True, "a repeat"


@asyncio_test()
async def test_a_send_with_a_timestamp_has_it_and_its_hash_whatever_happens(tmp_path: Path) -> None:
    clocks = TestClocks()
    timestamp = START - 3600 * SECOND
    request = SendRequest(content_topic=TOPIC, request_id=bytes(16), timestamp=timestamp)
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        assert await core.send(app, request, b"x") is False
        assert await core.send(app, request, b"x") is True
        for other in (replace(request, timestamp=timestamp + 1), replace(request, timestamp=None)):
            with pytest.raises(IpcError) as refused:
                await core.send(app, other, b"x")
            assert refused.value.code is ErrorCode.CONFLICT
        ahead = replace(request, request_id=bytes(15) + b"1", timestamp=clocks.wall + 21 * SECOND)
        with pytest.raises(IpcError, match="timestamp: 21 s ahead of this host's clock"):
            await core.send(app, ahead, b"x")
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        (task,) = core.pending(app)
        assert task.timestamp == timestamp
        await core.sends._record.attempting([task])
        shard = autoshard(TOPIC, NETWORK.info.shard_count)
        message = WakuMessage(b"x", TOPIC, timestamp=timestamp)
        assert (task.timestamp, task.message_hash) == (
            timestamp,
            message_hash(shard_topic(1, shard), message),
        )
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        assert [task.timestamp for task in core.pending(app)] == [timestamp], "its row is not damaged"


async def accepted(core: Core, app: App, topic: str, payload: bytes) -> bytes:
    request = SendRequest(request_id=os.urandom(16), content_topic=topic)
    await core.send(app, request, payload)
    return request.request_id


@asyncio_test()
async def test_a_bad_topic_is_refused_with_the_references_words(tmp_path: Path) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        app, _ = await connected(core, "alice")
        with pytest.raises(IpcError, match=r"^bad_request: Failed to auto-subscribe before sending: .+"):
            await accepted(core, app, "no topic", b"hello")


@asyncio_test()
async def test_an_oversized_message_is_accepted_and_ends_in_an_error(tmp_path: Path) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        app, listening = await connected(core, "alice")
        running = await start_sends(core)
        request_id = await accepted(core, app, TOPIC, bytes(200_000))
        async with asyncio.timeout(5):
            while not any(isinstance(event, MessageError) for event in listening.events):
                await asyncio.sleep(0.001)
        error = next(event for event in listening.events if isinstance(event, MessageError))
        assert error.request_id == request_id
        assert error.text == "Message size exceeded maximum of 153600 bytes"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asyncio_test()
async def test_a_stored_send_that_is_damaged_is_not_published(tmp_path: Path) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        app, _ = await connected(core, "alice")
        whole, hurt = [await accepted(core, app, TOPIC, b"hello %d" % number) for number in range(2)]
    file = sqlite3.connect(tmp_path / "mapi.sqlite3")
    file.execute("UPDATE outbox SET payload = x'00' WHERE request_id = ?", (hurt,))
    file.commit()
    file.close()
    async with core_of(tmp_path, TestClocks()) as core:
        app, listening = await connected(core, "alice")
        async with asyncio.timeout(5):
            while not any(isinstance(event, MessageError) for event in listening.events):
                await asyncio.sleep(0.001)
        assert [task.request_id for task in core.pending(app)] == [whole]
        error = next(event for event in listening.events if isinstance(event, MessageError))
        assert (error.request_id, error.text) == (hurt, "its stored copy is damaged")


@asyncio_test()
async def test_the_first_event_is_the_connection_status(tmp_path: Path) -> None:
    """Once in a life of the process, and again after a reconnect only if it has changed."""

    def statuses(listening: Listening) -> list[str]:
        return [e.status for e in listening.events if isinstance(e, ConnectionStatusChange)]

    async with core_of(tmp_path, TestClocks()) as core:
        app, listening = await connected(core, "alice")
        async with asyncio.timeout(5):
            while not listening.events:
                await asyncio.sleep(0.001)
        first = listening.events[0]
        assert isinstance(first, ConnectionStatusChange)
        assert (first.seq, first.status) == (1, "Disconnected") == (1, core.status(app).connection)
        await core.ack(app, first.stream_id, 1)
        core.detach(app, listening)
        app, again = await connected(core, "alice")
        assert app.stream.last_seq == 1, "it is still so"
        core.detach(app, again)
        app.notified_status = "Connected"
        app, third = await connected(core, "alice")
        async with asyncio.timeout(5):
            while not statuses(third):
                await asyncio.sleep(0.001)
        assert statuses(third) == ["Disconnected"]
        assert app.stream.last_seq == 2


@asyncio_test()
async def test_names_make_room_for_new_ones_by_use(tmp_path: Path) -> None:
    clocks = TestClocks()
    async with core_of(tmp_path, clocks, max_apps=4) as core:
        for name in ("subscribed", "first", "second", "here"):
            app, listening = await connected(core, name)
            if name == "subscribed":
                await core.subscribe(app, [TOPIC])
            if name != "here":
                core.detach(app, listening)
            clocks.pass_by(1)
        with pytest.raises(IpcError) as full:
            await connected(core, "third")
        assert full.value.code is ErrorCode.BUSY, "they have only just left"
        clocks.pass_by(20)
        await connected(core, "third")
        assert {app.name for app in core.apps} == {"subscribed", "second", "here", "third"}
        await connected(core, "fourth")
        with pytest.raises(IpcError):
            await connected(core, "fifth")
        clocks.pass_by(3600)
        await connected(core, "fifth")
        assert {app.name for app in core.apps} == {"here", "third", "fourth", "fifth"}
    async with core_of(tmp_path, clocks, max_apps=4) as core:
        assert {app.name for app in core.apps} == {"here", "third", "fourth", "fifth"}


@asyncio_test()
async def test_a_kernel_that_answers_at_once_finds_a_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that takes time comes before the connection to the kernel."""
    made: list[str] = []
    read = Database.read

    async def loaded(database: Database, function: Any) -> Any:
        assert made == [], "the kernel could answer before its listener is there"
        return await read(database, function)

    def link(*arguments: Any, **options: Any) -> KernelLink:
        made.append("link")
        return KernelLink(*arguments, **options)

    monkeypatch.setattr(Database, "read", loaded)
    monkeypatch.setattr("mapi_proc.core.KernelLink", link)
    async with core_of(tmp_path, TestClocks()):
        assert made == ["link"]


def rows(core: Core) -> list[tuple[int, int, int, bytes]]:
    """State, attempts, timestamp and hash of all sends on disk."""
    with sqlite3.connect(core.database.path) as connection:
        return connection.execute("SELECT state, attempts, timestamp, message_hash FROM outbox").fetchall()


def count_batches(core: Core, patch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Collect how many sends each batch from now on adds and changes."""
    counts: list[tuple[int, int]] = []
    submit = core.database.submit

    def counting(batch: Batch, *callbacks: Any, **named: Any) -> None:
        counts.append((len(batch.outbox_added), len(batch.outbox_changed)))
        submit(batch, *callbacks, **named)

    patch.setattr(core.database, "submit", counting)
    return counts


@asyncio_test()
async def test_a_send_that_can_be_attempted_is_stored_with_its_first_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = TestClocks()
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        await core.subscribe(app, [TOPIC])
        running = await start_sends(core)
        stored = count_batches(core, monkeypatch)
        await accepted(core, app, TOPIC, b"hello")
        assert stored == [(1, 0)], "not in a transaction of its own"
        (task,) = core.pending(app)
        assert task.state is SendState.ATTEMPTED
        expected = message_hash(shard_topic(1, task.shard), WakuMessage(b"hello", TOPIC, timestamp=START))
        assert rows(core) == [(OutboxState.ATTEMPTED, 1, START, expected)]
        assert (task.timestamp, task.message_hash) == (START, expected)
        running.cancel()
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        core.sends.adopt(NETWORK)
        (task,) = core.pending(app)
        assert task.state is SendState.RETRY, "it may be out: the same message is published again"
        assert (task.timestamp, task.message_hash) == (START, expected)


@asyncio_test()
async def test_a_restart_goes_on_with_the_windows_of_sends_and_no_row_is_written_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = TestClocks()
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        await core.subscribe(app, [TOPIC])
        running = await start_sends(core)
        await accepted(core, app, TOPIC, b"hello")
        running.cancel()
        clocks.pass_by(20)
        with monkeypatch.context() as patched:
            stored = count_batches(core, patched)
            keep(core)
            core.turn.flush()
        assert [changed for _, changed in stored] == [0]
    for used in (20, 25):
        async with core_of(tmp_path, clocks) as core:
            app, _ = await connected(core, "alice")
            core.sends.adopt(NETWORK)
            (task,) = core.pending(app)
            assert clocks.running - task.first_attempt == pytest.approx(used)
            clocks.pass_by(5)


@asyncio_test()
@pytest.mark.parametrize("what", ["late", "offline", "ended"])
async def test_a_planned_attempt_is_not_made_when_it_has_become_wrong(tmp_path: Path, what: str) -> None:
    """The clock goes on, the kernel goes away, or the loop ends, while the send is on its way to the disk."""
    clocks = TestClocks()
    async with core_of(tmp_path, clocks) as core:
        app, _ = await connected(core, "alice")
        await core.subscribe(app, [TOPIC])
        running = await start_sends(core)
        coming = asyncio.ensure_future(
            core.send(app, SendRequest(request_id=bytes(16), content_topic=TOPIC), b"hello")
        )
        match what:
            case "late":
                clocks.pass_by(10)
            case "offline":
                core.sends.loop.set_online(False)
            case _:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        await coming
        (task,) = core.pending(app)
        if what == "late":
            while not task.attempts:  # attempted in its turn, with a timestamp of then
                await asyncio.sleep(0.001)
            assert task.timestamp == START + 10 * SECOND
        else:
            assert (task.state, task.timestamp) == (SendState.PARKED, 0)
            if what == "offline":
                await core.turn.stored()
                assert rows(core) == [(OutboxState.PARKED, 0, 0, b"")], "no window has begun on disk"
            assert await core.cancel(app, bytes(16))
        running.cancel()


@asyncio_test()
async def test_sends_that_are_on_their_way_to_the_disk_at_the_end_cause_no_fault(tmp_path: Path) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
    async with core_of(tmp_path, TestClocks()) as core:
        app, _ = await connected(core, "alice")
        await core.subscribe(app, [TOPIC])
        running = await start_sends(core)
        coming = asyncio.ensure_future(accepted(core, app, TOPIC, b"hello"))
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await core.close()
        await coming
        await asyncio.sleep(0)
    assert faults == []


@asyncio_test()
async def test_sends_of_one_turn_go_to_the_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        app, _ = await connected(core, "alice")
        await core.subscribe(app, [TOPIC])
        await accepted(core, app, TOPIC, b"first")
        core.sends.acceptance._recent.clear()  # as after many others: the next one is found on disk
        known = core.pending(app)[0].request_id
        stored: list[int] = []
        submit = core.database.submit

        def counting(batch: Batch, *callbacks: Any, **named: Any) -> None:
            stored.extend([len(batch.outbox_added)] if batch.outbox_added else [])
            submit(batch, *callbacks, **named)

        monkeypatch.setattr(core.database, "submit", counting)
        sends = [
            core.send(app, SendRequest(request_id=request_id, content_topic=TOPIC), payload)
            for request_id, payload in (
                (known, b"first"), (b"a" * 16, b"a"), (b"b" * 16, b"b"), (b"b" * 16, b"b")
            )
        ]  # fmt: skip
        assert await asyncio.gather(*sends) == [True, False, False, True]
        assert stored == [3]
        core.sends.acceptance._recent.clear()
        with pytest.raises(IpcError) as refused:
            await core.send(app, SendRequest(request_id=known, content_topic=TOPIC), b"another")
        assert refused.value.code is ErrorCode.CONFLICT
        assert core.sends.ledger.room.count == 3


class _FaultyTasks(dict[tuple[bytes, bytes], SendTask]):
    """A ledger's sends, of which bad ones cannot be kept: methods of a compiled ledger cannot be replaced."""

    def __setitem__(self, key: tuple[bytes, bytes], task: SendTask) -> None:
        if task.payload == b"bad":
            raise ZeroDivisionError
        super().__setitem__(key, task)


@asyncio_test()
async def test_a_fault_gives_the_place_of_the_planned_attempt_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        app, _ = await connected(core, "alice")
        await core.subscribe(app, [TOPIC])
        running = await start_sends(core)
        free = core.sends.loop._running
        with monkeypatch.context() as patched:
            patched.setattr(core.sends.ledger, "_tasks", _FaultyTasks())
            with pytest.raises(ZeroDivisionError):
                await accepted(core, app, TOPIC, b"bad")
        assert core.sends.loop._running == free
        running.cancel()


@asyncio_test()
async def test_a_fault_with_one_send_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        app, _ = await connected(core, "alice")
        await core.subscribe(app, [TOPIC])
        monkeypatch.setattr(core.sends.ledger, "_tasks", _FaultyTasks())
        sends = [
            core.send(app, SendRequest(request_id=payload.ljust(16), content_topic=TOPIC), payload)
            for payload in (b"a", b"bad", b"b")
        ]
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert [type(result) for result in results] == [bool, ZeroDivisionError, bool]
        assert [task.payload for task in core.pending(app)] == [b"a", b"b"]

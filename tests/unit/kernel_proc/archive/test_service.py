"""The archive on an engine that fails as scripted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from ipc_schema.config.archive import ArchiveDatabase, RetentionPolicy, parse_retention
from ipc_schema.message import decode_message
from kernel_proc.archive.api import (
    ArchivedMessage,
    ArchiveState,
    ArchiveUnavailable,
    Backlog,
    HistoryPage,
    HistoryQuery,
    KeyQuery,
    TopicSpan,
)
from kernel_proc.archive.engine import DatabaseFailed, RowsRefused, Totals
from kernel_proc.archive.rows import ArchivedRow
from kernel_proc.archive.service import MessageArchive
from kernel_proc.archive.settings import ArchiveSettings
from tests.support.aio import trio_test
from tests.support.archive import NOW, SHARD, make_message, offer

SETTINGS = ArchiveSettings(database=ArchiveDatabase(path=Path("/nowhere")), retention=RetentionPolicy())


class ScriptedEngine:
    """Keep rows in a list; `failures` are raised by the next writes, `poison` rows are always refused."""

    def __init__(self) -> None:
        self.readers = 2
        self.rows: list[ArchivedRow] = []
        self.groups: list[int] = []
        self.failures: list[str] = []
        self.poison: set[int] = set()
        self.closed = False
        self.claimed = True
        self.claims = 0
        self.releases = 0
        self.prepared: list[tuple[int, float | None]] = []
        self.broken_removals = 0
        self.hold: threading.Event | None = None

    def _fail(self) -> None:
        if self.hold is not None:
            assert self.hold.wait(10)
        if self.failures:
            raise DatabaseFailed(self.failures.pop(0))

    def open(self) -> None:
        self._fail()

    def close(self) -> None:
        self.closed = True

    def insert(self, rows: Sequence[ArchivedRow]) -> int:
        self._fail()
        if any(row.timestamp in self.poison for row in rows):
            raise RowsRefused("poison")
        held = {row.message_hash for row in self.rows}
        new = [row for row in rows if row.message_hash not in held]
        self.rows += new
        self.groups.append(len(rows))
        return len(new)

    def read(self, query: HistoryQuery, timeout: float) -> HistoryPage:
        return HistoryPage(tuple(ArchivedMessage(row.message_hash) for row in self.rows), None)

    def read_keys(self, query: KeyQuery, timeout: float) -> list[tuple[int, bytes]]:
        self._fail()
        return [(row.timestamp, row.message_hash) for row in self.rows]

    def spans(self) -> list[TopicSpan]:
        self._fail()
        return []

    def claim(self) -> bool:
        self.claims += 1
        return self.claimed

    def totals(self) -> Totals:
        return Totals(len(self.rows), 1000 * len(self.rows))

    def release(self) -> None:
        self.releases += 1

    def prepare(self, now: int, keeps: float | None) -> None:
        self.prepared.append((now, keeps))

    def replica_lag(self) -> float | None:
        return None

    def remove(self, excess: int | None, before: int | None) -> int:
        if self.broken_removals:
            self.broken_removals -= 1
            raise DatabaseFailed("locked")
        gone = [row for row in self.rows if before is None or row.timestamp < before][: excess or 500]
        self.rows = self.rows[len(gone) :]
        return len(gone)

    def times(self) -> list[int]:
        return [decode_message(row.data).timestamp - NOW for row in self.rows]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds."""
    monkeypatch.setattr("kernel_proc.archive.writer.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("kernel_proc.archive.writer.LONGEST_PAUSE", 0.01)
    monkeypatch.setattr("kernel_proc.archive.writer.WATCH_SECONDS", 0.01)


def with_archive(
    engine: ScriptedEngine,
    body: Callable[[MessageArchive], Awaitable[None]],
    settings: ArchiveSettings = SETTINGS,
    states: list[ArchiveState] | None = None,
) -> None:
    """Run `body` beside the archive."""
    seen = [] if states is None else states

    @trio_test()
    async def run() -> None:
        archive = MessageArchive(
            engine, settings, clock=lambda: NOW, changed=lambda: seen.append(archive.state)
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(archive.run)
            await body(archive)
            nursery.cancel_scope.cancel()

    run()


def store(archive: MessageArchive, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        assert offer(archive, SHARD, make_message(NOW + number))


def test_a_poisoned_message_falls_alone(caplog: pytest.LogCaptureFixture) -> None:
    engine = ScriptedEngine()
    engine.poison = {NOW + 3, NOW + 8}
    states: list[ArchiveState] = []

    async def body(archive: MessageArchive) -> None:
        store(archive, 10)
        await archive.flush()
        counters = archive.counters
        assert (counters["stored"], counters["refused"], counters["write_failures"]) == (8, 2, 0)

    with_archive(engine, body, states=states)
    assert engine.times() == [0, 1, 2, 4, 5, 6, 7, 9]
    assert states == [ArchiveState.READY, ArchiveState.CLOSED]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


def test_a_group_is_tried_until_it_is_stored_in_order(caplog: pytest.LogCaptureFixture) -> None:
    engine = ScriptedEngine()
    states: list[ArchiveState] = []
    caplog.set_level(logging.INFO)

    async def body(archive: MessageArchive) -> None:
        store(archive, 5)
        await archive.flush()
        engine.failures = ["disk full"] * 20
        store(archive, 5, first=5)
        await archive.flush()
        assert archive.counters["write_failures"] == 20
        assert (archive.state, archive.reason) == (ArchiveState.READY, "")

    with_archive(engine, body, states=states)
    assert engine.times() == list(range(10))
    assert states == [ArchiveState.READY, ArchiveState.STALLED, ArchiveState.READY, ArchiveState.CLOSED]
    # One line when it begins and one when it ends, not one for each attempt.
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_queries_before_it_is_open_are_unavailable_and_offers_wait() -> None:
    engine = ScriptedEngine()
    engine.failures = ["refused"] * 3

    async def body(archive: MessageArchive) -> None:
        assert archive.state is ArchiveState.OPENING
        with pytest.raises(ArchiveUnavailable):
            await archive.query(HistoryQuery())
        store(archive, 3)
        await archive.flush()
        assert len((await archive.query(HistoryQuery())).messages) == 3

    with_archive(engine, body)


def test_what_comes_in_while_a_group_is_written_is_the_next_group() -> None:
    engine = ScriptedEngine()

    async def body(archive: MessageArchive) -> None:
        while archive.state is ArchiveState.OPENING:
            await trio.sleep(0.001)
        engine.hold = threading.Event()
        store(archive, 1)
        while archive._writer._asked is None:
            await trio.sleep(0.001)
        store(archive, 1500, first=1)
        engine.hold.set()
        await archive.flush()

    with_archive(engine, body)
    assert engine.groups == [1, 1024, 476]


def test_an_engine_that_says_nothing_is_stalled_and_then_ready_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel_proc.archive.writer.SILENCE_SECONDS", 0.05)
    engine = ScriptedEngine()
    states: list[ArchiveState] = []

    async def body(archive: MessageArchive) -> None:
        store(archive, 1)
        await archive.flush()
        engine.hold = threading.Event()
        store(archive, 1, first=1)
        while states[-1] is not ArchiveState.STALLED:
            await trio.sleep(0.001)
        assert "no response" in archive.reason
        engine.hold.set()
        await archive.flush()

    with_archive(engine, body, states=states)
    assert engine.times() == [0, 1]
    assert states == [ArchiveState.READY, ArchiveState.STALLED, ArchiveState.READY, ArchiveState.CLOSED]


def test_at_the_end_a_failing_database_is_tried_once_more_and_left(caplog: pytest.LogCaptureFixture) -> None:
    engine = ScriptedEngine()

    async def body(archive: MessageArchive) -> None:
        store(archive, 2)
        await archive.flush()
        engine.failures = ["lost"] * 1000
        store(archive, 3, first=2)

    with_archive(engine, body)
    assert engine.times() == [0, 1]
    assert len(engine.failures) > 990
    assert engine.closed
    assert "archive closed with unstored messages" in caplog.text


def test_waiting_for_a_flush_can_be_cancelled() -> None:
    engine = ScriptedEngine()

    async def body(archive: MessageArchive) -> None:
        engine.failures = ["lost"] * 20
        store(archive, 1)
        with trio.move_on_after(0.002) as scope:
            await archive.flush()
        assert scope.cancelled_caught
        await archive.flush()
        await archive.flush()

    with_archive(engine, body)


def test_a_flush_ends_with_the_archive() -> None:
    """Waiting for messages that the archive could not store must end with the archive."""
    engine = ScriptedEngine()
    engine.failures = ["gone"] * 1000

    @trio_test()
    async def check() -> None:
        archive = MessageArchive(engine, SETTINGS)
        flushed: list[bool] = []

        async def flush() -> None:
            await archive.flush()
            flushed.append(True)

        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            await nursery.start(archive.run)
            assert offer(archive, SHARD, make_message(NOW))
            outer.start_soon(flush)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert flushed == [True]

    check()


def test_every_refusal_appears_in_the_metrics() -> None:
    archive = MessageArchive(ScriptedEngine(), SETTINGS)
    reported = {labels["type"] for name, labels, _ in archive.samples() if name == "archive_errors"}
    topic = "/waku/2/rs/1/" + "9" * 200
    assert not archive.offer(topic, make_message(NOW), bytes(32), NOW)
    assert {"bad_topic", "closed", "queue_full", "query_busy"} <= reported
    counted = {labels.get("type"): value for name, labels, value in archive.samples()}
    assert counted["bad_topic"] == 1


def test_retention_goes_on_after_a_failure() -> None:
    engine = ScriptedEngine()
    settings = replace(SETTINGS, retention=parse_retention("capacity:600"), retention_interval=0.01)

    async def body(archive: MessageArchive) -> None:
        engine.broken_removals = 3
        store(archive, 2000)
        await archive.flush()
        while (counters := archive.counters)["removed"] < 1400:  # reported only after the rows are gone
            await trio.sleep(0.001)
        assert (counters["removed"], counters["retention_failures"]) == (1400, 3)
        assert counters["write_failures"] == 0
        assert archive.state is ArchiveState.READY

    with_archive(engine, body, settings)
    assert engine.times() == list(range(1400, 2000))


def test_without_the_claim_nothing_is_removed() -> None:
    engine = ScriptedEngine()
    engine.claimed = False
    settings = replace(SETTINGS, retention=parse_retention("capacity:10;time:1"), retention_interval=0.01)

    async def body(archive: MessageArchive) -> None:
        store(archive, 100)
        await archive.flush()
        while engine.claims < 5:
            await trio.sleep(0.001)
        assert len(engine.rows) == 100
        assert ("archive_messages", {"type": "stored"}, 100) in archive.samples()
        engine.claimed = True
        while len(engine.rows) > 10:
            await trio.sleep(0.001)

    with_archive(engine, body, settings)


def test_what_waits_for_a_database_that_is_away_goes_to_disk_and_is_stored_after_a_restart(
    tmp_path: Path,
) -> None:
    engine = ScriptedEngine()
    settings = replace(SETTINGS, spool=tmp_path / "spool", queue_messages=50)

    async def away(archive: MessageArchive) -> None:
        store(archive, 5)
        await archive.flush()
        engine.failures = ["gone"] * 100_000
        number = 5
        while number < 1000:  # many times what the queue holds
            if offer(archive, SHARD, make_message(NOW + number)):
                number += 1
            else:
                await trio.sleep(0.001)
        while archive.backlog().on_disk < 900:
            await trio.sleep(0.001)
        assert archive.state is ArchiveState.STALLED
        assert archive.backlog().messages == 995
        assert archive.backlog().away_seconds > 0
        assert ("archive_spool_messages", {}, archive.backlog().on_disk) in archive.samples()

    with_archive(engine, away, settings)
    assert engine.times() == [0, 1, 2, 3, 4]
    engine.failures = ["still gone"] * 3

    async def back(archive: MessageArchive) -> None:
        committed: list[tuple[str, int, bytes]] = []
        archive.add_listener(committed.extend)
        while archive.state is not ArchiveState.READY:
            await trio.sleep(0.001)
        store(archive, 5, first=1000)
        await archive.flush()
        assert len(committed) == 1000
        assert archive.backlog() == Backlog()

    with_archive(engine, back, settings)
    assert sorted(engine.times()) == list(range(1005))
    assert list(tmp_path.iterdir()) == []


def test_a_spool_that_is_full_or_broken_leaves_messages_in_the_queue(tmp_path: Path) -> None:
    for settings in (
        replace(SETTINGS, spool=tmp_path / "spool", spool_bytes=5000, queue_messages=50),
        replace(SETTINGS, spool=tmp_path / "no" / "spool", queue_messages=50),
    ):
        engine = ScriptedEngine()

        async def body(archive: MessageArchive, engine: ScriptedEngine = engine) -> None:
            store(archive, 1)
            await archive.flush()
            engine.failures = ["gone"] * 1_000_000
            accepted = 1
            while archive.counters["queue_full"] < 50:
                accepted += offer(archive, SHARD, make_message(NOW + accepted))
                await trio.sleep(0.001)
            engine.failures = []
            await archive.flush()
            assert sorted(engine.times()) == list(range(accepted))

        with_archive(engine, body, settings)


def test_a_damaged_spool_is_set_aside_reported_and_does_not_hold_up_what_follows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel_proc.archive.spill.SPILL_PAUSE", 0.001)
    (tmp_path / "spool").write_bytes(b"not a database" * 1000)
    settings = replace(SETTINGS, spool=tmp_path / "spool", queue_messages=50)
    engine = ScriptedEngine()
    engine.failures = ["gone"] * 1_000_000

    async def body(archive: MessageArchive) -> None:
        number = 0
        while archive.backlog().on_disk < 200:
            number += offer(archive, SHARD, make_message(NOW + number))
            await trio.sleep(0.001)
        engine.failures = []
        await archive.flush()
        assert sorted(engine.times()) == list(range(number))
        (damaged,) = archive.backlog().damaged
        assert (tmp_path / damaged).read_bytes() == b"not a database" * 1000
        assert ("archive_spool_damaged_files", {}, 1) in archive.samples()
        assert archive.counters["spool_failures"] == 1
        reason = caplog.records[0].named_values["reason"]  # type: ignore[attr-defined]
        assert f"set aside as {tmp_path / damaged}" in str(reason)

    with_archive(engine, body, settings)


def test_at_the_end_more_than_fits_goes_to_disk(tmp_path: Path) -> None:
    """Whatever the limit: it would be lost."""
    engine = ScriptedEngine()
    settings = replace(SETTINGS, spool=tmp_path / "spool", spool_bytes=1)
    engine.failures = ["gone"] * 1_000_000

    async def fill(archive: MessageArchive) -> None:
        for number in range(3000):
            assert offer(archive, SHARD, make_message(NOW + number))

    with_archive(engine, fill, settings)
    engine.failures = []

    async def back(archive: MessageArchive) -> None:
        while archive.state is not ArchiveState.READY:
            await trio.sleep(0.001)
        await archive.flush()

    with_archive(engine, back, settings)
    assert sorted(engine.times()) == list(range(3000))


def test_counts_of_shards_are_bounded_and_each_stands_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel_proc.archive.service.MAX_SHARDS", 2)

    async def body(archive: MessageArchive) -> None:
        for number, topic in enumerate(("/waku/2/rs/1/0", "/waku/2/rs/2/0", "/a", "/b", "/c")):
            assert offer(archive, topic, make_message(NOW + number))
        counts = [
            (labels["shard"], value)
            for name, labels, value in archive.samples()
            if name == "archive_messages_per_shard"
        ]
        assert counts == [("0", 2), ("a", 1), ("other", 2)]

    with_archive(ScriptedEngine(), body)

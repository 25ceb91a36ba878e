"""Channels on a real database and a fake way out: what is stored, when it leaves, what survives."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from mapi_proc.channels import departures
from mapi_proc.channels.channel import ChannelCore, ChannelSettings
from mapi_proc.channels.departures import HeldDepartures
from mapi_proc.channels.events import (
    ChannelOutput,
    Delivered,
    DeliveryError,
    Received,
    RetrieveMessages,
    Sent,
)
from mapi_proc.channels.figures import ChannelFigures
from mapi_proc.channels.host import ChannelHost
from mapi_proc.channels.profiles import MARK
from mapi_proc.channels.sds.message import decode_sds
from mapi_proc.channels.sds.settings import SdsSettings
from mapi_proc.channels.sds.state import SendKind
from mapi_proc.channels.segmentation.split import SplitLimits
from mapi_proc.channels.storing import stored_channel
from mapi_proc.channels.transmitter import MessageInFlight, Transmitter
from mapi_proc.clocks import Clocks
from mapi_proc.database import Batch, ChannelRecord, ChannelRows, Database
from mapi_proc.database.channels import (
    find_channel_message,
    find_channel_request,
    load_channel,
    load_channels,
)
from mapi_proc.send.rate import RateLimiter
from mapi_proc.send.task import NoPeers, Outcome, Published, Refused, SendTask
from mapi_proc.write_batch import Turn
from tests.support.aio import asyncio_test

TOPIC = "/app/1/chat/proto"
WALL = 1_700_000_000
RECORD = ChannelRecord(1, 7, "channel", TOPIC, "alice", b"\x80")


class World:
    """One participant on a database; `air` collects what goes out."""

    def __init__(self, database: Database, sender: str, sds: SdsSettings) -> None:
        self.now = 0.0
        self.database = database
        self.air: list[SendTask] = []
        self.stored_when_sent: list[int] = []
        self.events: list[ChannelOutput] = []
        self.wanted: list[RetrieveMessages] = []
        self.outcome: Outcome = Published(1)
        self.turn = Turn(database, lambda: 1, lambda _: None, self._failed, self.wall)
        self.transmitter = Transmitter(
            self.publish, RateLimiter(None), lambda: 1, self.wall, lambda: int(self.now * 1e9)
        )
        self.departures = HeldDepartures(
            self.transmitter,
            database,
            self.turn,
            lambda _: 3,
        )
        self.figures = ChannelFigures()
        settings = ChannelSettings(split=SplitLimits(segment_size=320), sds=sds)
        self.host = ChannelHost(
            RECORD,
            ChannelCore("channel", sender, settings, Random(sender)),
            notify=lambda event, _: self.events.append(event),
            batch=lambda: self.turn.batch,
            transmit=self.departures.transmit,
            retrieve=lambda _, retrieve: self.wanted.append(retrieve),
            clocks=Clocks(self.wall, lambda: self.now, self.wall),
            steady=self.wall,
            figures=self.figures,
        )

    def wall(self) -> int:
        return int((WALL + self.now) * 1e9)

    def _failed(self, error: Exception) -> None:
        raise AssertionError(error)

    async def publish(self, task: SendTask, force: bool) -> Outcome:
        stored = await self.database.read(load_channel, 1)
        self.stored_when_sent.append(len(stored.messages))
        if isinstance(self.outcome, Published):
            self.air.append(task)
        return self.outcome

    async def settled(self) -> None:
        """Wait until everything is on disk and out."""
        await self.turn.stored()
        await self.departures.idle()
        while len(self.transmitter) and isinstance(self.outcome, Published):
            await asyncio.sleep(0)
        await self.turn.stored()

    async def restored(self) -> None:
        (record,) = await self.database.read(load_channels)
        self.host.restore(stored_channel(record, await self.database.read(load_channel, 1)))


@asynccontextmanager
async def world(
    directory: Path, sender: str = "alice", sds: SdsSettings | None = None
) -> AsyncIterator[World]:
    directory.mkdir(exist_ok=True)
    fresh = not (directory / "mapi.sqlite3").exists()
    database = await Database.open(directory / "mapi.sqlite3")
    one = World(database, sender, sds or SdsSettings(max_attempts=3))
    running = asyncio.create_task(one.transmitter.run())
    try:
        if fresh:
            batch: Batch = database.batch()
            batch.channel(ChannelRows(1, created=RECORD._replace(sender_id=sender)))
            await database.commit(batch)
        one.transmitter.set_online(True)
        await one.restored()
        yield one
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await database.close()


def payloads(one: World) -> list[bytes]:
    return [event.payload for event in one.events if isinstance(event, Received)]


@asyncio_test()
async def test_nothing_leaves_before_it_is_on_disk(tmp_path: Path) -> None:
    async with world(tmp_path) as alice:
        assert not alice.host.send(b"r", bytes(500), False)
        await alice.settled()
        assert len(alice.air) == 3
        assert alice.stored_when_sent == [3] * 3
        assert {(task.meta, task.shard, task.content_topic, task.ephemeral) for task in alice.air} == {
            (MARK, 3, TOPIC, False)
        }
        assert len({task.message_hash for task in alice.air}) == 3
        assert alice.events == [Sent(b"r")]
        assert alice.host.send(b"r", bytes(500), False)


@asyncio_test()
async def test_two_participants_over_restarts_of_both(tmp_path: Path) -> None:
    async with world(tmp_path / "alice") as alice:
        alice.host.send(b"1", bytes(500), False)
        alice.host.send(b"2", b"second", False)
        await alice.settled()
        wire = [(task.payload, task.message_hash) for task in alice.air]
    got: list[bytes] = []
    for payload, digest in reversed(wire):  # a restart after each
        async with world(tmp_path / "bob", "bob") as bob:
            bob.host.receive(payload, digest)
            await bob.settled()
            got += payloads(bob)
    assert got == [bytes(500), b"second"]
    async with world(tmp_path / "bob", "bob") as bob:
        for payload, digest in wire:
            bob.host.receive(payload, digest)
        bob.now = 60.0
        bob.host.tick()
        await bob.settled()
        assert payloads(bob) == []
        (sync,) = bob.air
        assert sync.ephemeral
    async with world(tmp_path / "alice") as alice:
        alice.host.receive(sync.payload, sync.message_hash)
        await alice.settled()
        assert alice.events == [Delivered(b"1", "bob"), Delivered(b"2", "bob")]
    async with world(tmp_path / "alice") as alice:
        assert alice.events == []
        assert await alice.database.read(find_channel_request, 1, b"1") is not None


@asyncio_test()
async def test_unacknowledged_messages_are_new_messages_of_the_same_bytes(tmp_path: Path) -> None:
    async with world(tmp_path) as alice:
        alice.host.send(b"r", b"hello", False)
        for _ in range(8):
            await alice.settled()
            alice.now += 400.0
            alice.host.tick()
        await alice.settled()
        sent = [task for task in alice.air if decode_sds(task.payload).content]
        assert len(sent) == 3
        assert len({task.payload for task in sent}) == 1
        assert len({task.message_hash for task in sent}) == 3
        assert alice.events == [Sent(b"r"), DeliveryError(b"r", "no participant acknowledged it")]


@asyncio_test()
async def test_content_waits_for_peers_and_sync_messages_do_not(tmp_path: Path) -> None:
    async with world(tmp_path) as alice:
        alice.outcome = NoPeers()
        alice.host.send(b"r", b"hello", False)
        await alice.turn.stored()
        await alice.departures.idle()
        while not alice.transmitter.counters["waited"]:
            await asyncio.sleep(0)
        alice.now = 10_000.0
        alice.host.tick()
        await alice.departures.idle()
        while not alice.transmitter.counters["dropped"]:
            await asyncio.sleep(0)
        assert alice.air == []
        alice.outcome = Published(1)
        alice.transmitter.wake()
        await alice.settled()
        (task,) = alice.air
        assert decode_sds(task.payload).content
        assert alice.events == [Sent(b"r")]


@asyncio_test()
async def test_repairs_that_wait_are_bounded_in_bytes_and_content_is_not(tmp_path: Path) -> None:
    """A request of a few bytes brings forth a message of 100 KB: 20,000 of them may wait."""
    async with world(tmp_path) as alice:

        def put(kind: SendKind, count: int) -> int:
            before = alice.transmitter.counters["dropped"]
            for _ in range(count):
                alice.transmitter.put(
                    MessageInFlight(alice.host, "m", kind, TOPIC, 3, bytes(1 << 20), b"", True)
                )
            return alice.transmitter.counters["dropped"] - before

        assert put(SendKind.REPAIR, 40) == 8
        assert put(SendKind.FIRST, 2) == 0
        await alice.settled()
        assert put(SendKind.REPAIR, 40) == 8
        alice.transmitter.forget(alice.host)
        assert put(SendKind.REPAIR, 40) == 8


@asyncio_test()
async def test_what_is_refused_is_tried_again_later(tmp_path: Path) -> None:
    async with world(tmp_path) as alice:
        alice.outcome = Refused("no")
        alice.host.send(b"r", b"hello", False)
        await alice.turn.stored()
        await alice.departures.idle()
        while not alice.transmitter.counters["refused"]:
            await asyncio.sleep(0)
        alice.outcome = Published(1)
        alice.now = 31.0
        alice.host.tick()
        await alice.settled()
        kinds = [bool(decode_sds(task.payload).content) for task in alice.air]
        assert sorted(kinds) == [False, True]
        assert alice.host.due is not None


@asyncio_test()
async def test_bytes_that_are_on_disk_only_are_read_to_be_sent(tmp_path: Path) -> None:
    async with world(tmp_path) as alice:
        alice.host.send(b"r", b"hello", False)
        await alice.settled()
        first = alice.air[0].payload
    async with world(tmp_path) as alice:
        alice.now = 10.0
        alice.host.tick()
        await alice.settled()
        assert first in [task.payload for task in alice.air]


def test_a_message_that_cannot_be_read_now_is_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [sqlite3.OperationalError("disk I/O error")]

    def find(connection: sqlite3.Connection, number: int, message_id: str) -> bytes | None:
        if faults:
            raise faults.pop()
        return find_channel_message(connection, number, message_id)

    monkeypatch.setattr(departures, "find_channel_message", find)

    @asyncio_test()
    async def check() -> None:
        on_disk_only = SdsSettings(max_attempts=3, max_history_bytes=0)
        async with world(tmp_path, sds=on_disk_only) as alice:
            alice.host.send(b"r", b"hello", False)
            for _ in range(3):
                await alice.settled()
                alice.now += 400.0
                alice.host.tick()
            await alice.settled()
            assert not faults
            assert len([task for task in alice.air if decode_sds(task.payload).content]) == 2

    check()

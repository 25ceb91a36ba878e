"""The state of channels in the database: the simulation on SQLite, and the tables' own rules."""

from __future__ import annotations

import sqlite3
import weakref
from contextlib import closing
from itertools import count
from pathlib import Path
from random import Random

import pytest

from mapi_proc.channels.channel import ChannelCore, ChannelSettings
from mapi_proc.channels.events import ChannelChanges, EndedRequest, StoredChannel, StoredRequest
from mapi_proc.channels.sds.state import Changes, SdsState, SdsStoredMessage
from mapi_proc.channels.storing import channel_rows, stored_channel
from mapi_proc.database import Batch, ChannelRecord, ChannelRows, Database
from mapi_proc.database.channels import (
    execute_channels,
    find_channel_message,
    find_channel_request,
    find_channel_send,
    load_channel,
    load_channels,
)
from mapi_proc.database.records import DamagedError
from mapi_proc.database.schema import MIGRATIONS, migrate
from tests.simulation.channels.run import simulate
from tests.support.aio import asyncio_test

RECORD = ChannelRecord(1, 7, "channel", "/a/1/b/proto", "alice", b"\x80", b"secret")


class SqliteDisk:
    """A participant's disk as the real tables, in memory."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self.connection.close)  # by the collector, in whatever thread
        migrate(self.connection)
        execute_channels(self.connection, [ChannelRows(1, created=RECORD)])

    def apply(self, changes: ChannelChanges) -> None:
        rows = channel_rows(1, changes, 5)
        if rows is not None:
            assert rows.cost > 0
            execute_channels(self.connection, [rows])

    def load(self) -> StoredChannel:
        (record,) = load_channels(self.connection)
        return stored_channel(record, load_channel(self.connection, 1))

    def has(self, message_id: str) -> bool:
        query = "SELECT 1 FROM channel_message WHERE message_id = ?"
        return self.connection.execute(query, (message_id,)).fetchone() is not None

    def raw(self, message_id: str) -> bytes | None:
        return find_channel_message(self.connection, 1, message_id)


def test_the_simulation_on_sqlite() -> None:
    for seed in range(1000, 1025):
        simulate(seed, SqliteDisk)


def test_bytes_of_messages_that_wait_are_read_and_of_others_not() -> None:
    disk = SqliteDisk()
    changes = Changes()
    for number, state in enumerate(SdsState):
        changes.store(SdsStoredMessage(state.name, number, "bob", b"", state, b"raw"))
    disk.apply(ChannelChanges(changes))
    read = {row.message_id: row.raw for row in disk.load().messages}
    assert read == {"WAITING": b"raw", "HELD": b"raw", "OPENED": b"raw", "DONE": b"", "LOST": b""}
    assert disk.raw("DONE") == b"raw"
    disk.apply(ChannelChanges(Changes(stripped={"HELD", "DONE"})))
    assert (disk.raw("HELD"), disk.raw("DONE")) == (b"raw", None)
    disk.apply(ChannelChanges(Changes(states={"HELD": SdsState.DONE}, stripped={"HELD"})))
    assert disk.raw("HELD") is None
    disk.apply(ChannelChanges(Changes(removed={"HELD"})))
    assert not disk.has("HELD")
    assert disk.raw("HELD") is None


def test_an_ended_send_is_remembered_by_its_id_until_it_is_forgotten() -> None:
    disk = SqliteDisk()
    request = StoredRequest(b"r", ("a", "b"), 2, ephemeral=False, sent=True, fingerprint=b"mark")
    disk.apply(ChannelChanges(Changes(), {b"r": request}))
    assert disk.load().requests == [request]
    assert find_channel_send(disk.connection, 1, b"r") == (True, "", "")
    disk.apply(ChannelChanges(Changes(), {b"r": EndedRequest(b"mark", True, "delivered", "bob")}))
    assert disk.load().requests == []
    assert find_channel_request(disk.connection, 1, b"r") == b"mark"
    assert find_channel_request(disk.connection, 1, b"other") is None
    assert find_channel_send(disk.connection, 1, b"r") == (True, "delivered", "bob")
    assert find_channel_send(disk.connection, 1, b"other") is None
    execute_channels(disk.connection, [ChannelRows(1, requests_forgotten=5)])
    assert find_channel_request(disk.connection, 1, b"r") == b"mark"
    execute_channels(disk.connection, [ChannelRows(1, requests_forgotten=6)])
    assert find_channel_request(disk.connection, 1, b"r") is None
    assert find_channel_send(disk.connection, 1, b"r") is None


def test_of_a_send_that_an_older_version_ended_the_end_is_not_known() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, MIGRATIONS[:4])
        for name, ended in ((b"over", 3), (b"open", 0)):
            row = (name, b"", 1, 0, 1, b"mark", ended)
            connection.execute("INSERT INTO channel_request VALUES (1, ?, ?, ?, ?, ?, ?, ?)", row)
        migrate(connection)
        assert find_channel_send(connection, 1, b"over") is None
        assert find_channel_request(connection, 1, b"over") == b"mark"
        assert find_channel_send(connection, 1, b"open") == (True, "", "")


def test_nothing_changed_is_nothing_stored() -> None:
    assert channel_rows(1, ChannelChanges(Changes()), 5) is None


@pytest.mark.parametrize("state", [b"\xc1", b"\x01", b"\x93\x01\x02\x03"])
def test_damage_is_named(state: bytes) -> None:
    disk = SqliteDisk()
    with pytest.raises(DamagedError, match="channel 1"):
        stored_channel(RECORD._replace(state=state), load_channel(disk.connection, 1))
    disk.connection.execute("INSERT INTO channel_message VALUES (1, 1, 'a', 'b', 'c', x'', 0, NULL)")
    with pytest.raises(DamagedError, match="wrong types"):
        load_channel(disk.connection, 1)


def test_a_record_does_not_show_its_secret() -> None:
    assert "secret" not in repr(RECORD)


@asyncio_test()
async def test_channels_share_transactions_and_go_with_their_app(tmp_path: Path) -> None:
    core = ChannelCore("channel", "alice", ChannelSettings(), Random(1))
    core.send(b"r", b"hello", False, 0.0, 1_700_000_000 * 10**9)
    (transmit,), changes = core.take()
    database = await Database.open(tmp_path / "mapi.sqlite3")
    try:
        batch = database.batch()
        batch.channel(ChannelRows(1, created=RECORD))
        rows = channel_rows(1, changes, 5)
        assert rows is not None
        batch.channel(rows)
        assert not batch.empty
        await database.commit(batch)
        (record,) = await database.read(load_channels)
        assert record[:7] == RECORD[:7]
        stored = stored_channel(record, await database.read(load_channel, 1))
        assert [request.request_id for request in stored.requests] == [b"r"]
        (message,) = stored.messages
        raw = await database.read(find_channel_message, 1, message.message_id)
        assert raw == transmit.payload  # type: ignore[union-attr]

        batch = database.batch()
        batch.channel(ChannelRows(1, opened=(0, b"")))
        await database.commit(batch)
        assert [(r.open, r.secret) for r in await database.read(load_channels)] == [(0, b"")]

        batch = database.batch()
        batch.forget_app(7)
        await database.commit(batch)
        assert await database.read(load_channels) == []
        assert (await database.read(load_channel, 1)).messages == []
    finally:
        await database.close()


def test_batches_without_channels_cost_nothing_more() -> None:
    assert Batch(count(1)).channels == []

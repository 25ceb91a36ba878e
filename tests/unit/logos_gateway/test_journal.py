"""One app's connection and the window that its readers share."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any, cast

import pytest

from ipc_schema.errors import ErrorCode
from logos_client import Position
from logos_client.events import MessageReceived
from logos_client.exceptions import PeerRestartedError
from logos_client.messaging import MessagingClient
from logos_gateway.apps import journal as module
from logos_gateway.apps.journal import Journal
from tests.support.aio import asyncio_test

STREAM = b"s" * 16
KIB = 1024


class Connection:
    """The client's part that a journal uses: events as fast as they are taken, and acknowledgements."""

    name = "app"
    instance = b"i" * 16

    def __init__(self, count: int, lost_acks: int = 0) -> None:
        self.count = count
        self.acks: list[int] = []
        self._lost_acks = lost_acks
        self._seqs = iter(range(1, count + 1))

    async def _next_events(self, most: int) -> list[MessageReceived]:
        seqs = list(islice(self._seqs, most))
        if not seqs:
            await asyncio.Event().wait()
        rest = ("/a/1/b/proto", bytes(KIB), bytes(32), 0, b"", False, 0, "")
        return [MessageReceived(STREAM, seq, 0, *rest) for seq in seqs]

    async def ack(self, position: Position) -> None:
        await asyncio.sleep(0)
        if self._lost_acks:
            self._lost_acks -= 1
            raise PeerRestartedError(ErrorCode.PEER_RESTARTED, "the connection was lost")
        self.acks.append(position.seq)

    async def close(self) -> None:
        pass


@asyncio_test()
async def test_a_full_window_does_not_wait_for_the_delay_of_acknowledgements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_ACK_DELAY", 3600.0)
    connection = Connection(2000)
    await read_all(connection)
    assert connection.acks == sorted(set(connection.acks))
    assert len(connection.acks) < 50  # each is a write to the disk


@asyncio_test()
async def test_an_acknowledgement_that_was_lost_is_sent_again() -> None:
    # All that the window holds has been handled, so nothing but the failure itself can lead to another one.
    await read_all(Connection(1000, lost_acks=3))


async def read_all(connection: Connection) -> None:
    journal = Journal(cast("MessagingClient", connection), lambda: 256 * KIB)
    seqs: list[int] = []
    async with journal.reader(None, auto=True) as reader:
        while len(seqs) < connection.count:
            entries = await reader.next()
            seqs += [cast("Any", entry.event).seq for entry in entries]
            assert journal.window.bytes < 400 * KIB
            reader.done(entries)
    assert seqs == list(range(1, connection.count + 1))
    await journal.close()

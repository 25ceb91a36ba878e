"""A core on a real database, without a kernel: the network is known from an earlier run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import zmq

from ipc_schema.config.mapi import load_mapi_config
from ipc_schema.hello import NetworkInfo
from ipc_schema.mapi.event_codec import decode_app_event
from ipc_schema.mapi.events import AppEvent
from mapi_proc.apps import App
from mapi_proc.clocks import Clocks
from mapi_proc.core import Core
from mapi_proc.database import Database
from mapi_proc.network import NETWORK_NOTE, AppNetwork

NETWORK = AppNetwork(NetworkInfo(cluster=1, shard_count=8, max_message_size=153_600))
SECOND = 1_000_000_000
DAY = 24 * 3600 * SECOND
START = 20_000 * DAY


class TestClocks:
    """Time that a test moves."""

    __test__ = False

    def __init__(self) -> None:
        self.wall = START
        self.boot = 0
        self.running = 0.0

    def pass_by(self, seconds: float, *, asleep: bool = False) -> None:
        self.wall += int(seconds * SECOND)
        self.boot += int(seconds * SECOND)
        self.running += 0.0 if asleep else seconds

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: self.wall, lambda: self.running, lambda: self.boot)


class Listening:
    """An app's connection that keeps what comes."""

    def __init__(self) -> None:
        self.events: list[AppEvent] = []
        self.ended = False

    def send(self, header: bytes, payload: bytes, /) -> bool:
        self.events.append(decode_app_event(header))
        return True

    def taken_over(self, header: bytes, /) -> None:
        self.ended = True


@asynccontextmanager
async def core_of(directory: Path, clocks: TestClocks, **options: object) -> AsyncIterator[Core]:
    """A core over the database in this directory; no kernel answers."""
    if not (directory / "mapi.sqlite3").exists():
        database = await Database.open(directory / "mapi.sqlite3")
        batch = database.batch()
        batch.note(NETWORK_NOTE, NETWORK.to_note())
        await database.commit(batch)
        await database.close()
    flags = {"data-dir": str(directory), "kernel-dir": str(directory / "kernel")}
    config = load_mapi_config(flags=flags | {name.replace("_", "-"): one for name, one in options.items()})
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    failed: list[Exception] = []
    core = await Core.open(config, context=context, on_fatal=failed.append, clocks=clocks.clocks)
    try:
        yield core
    finally:
        await core.close()
        context.term()
    assert not failed


async def connected(core: Core, name: str | None, credit: int = 1 << 30) -> tuple[App, Listening]:
    """An app, and a connection that has claimed it."""
    app, connection = await core.open_app(name, 1000), Listening()
    core.claim(app, connection, takeover=False)
    core.attach(app, connection, credit)
    return app, connection

"""Backups put back, files that vanish, damage: a (stream id, seq) never names two events, nothing that is
acknowledged is lost in silence.

The node has no kernel: sends wait, and cancelling one puts an event into its app's stream.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import NamedTuple

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.hello import SeenPosition
from ipc_schema.mapi import events
from ipc_schema.paths import mapi_endpoints
from logos_client import MessagingClient
from logos_client.events import Event, LinkLost, LinkRestored, MessageCancelled
from logos_gateway.apps.journals import Journals
from mapi_proc.database import Database
from mapi_proc.database.sidecar import place_of
from mapi_proc.network import NETWORK_NOTE
from tests.support.aio import asyncio_test
from tests.support.kernel_process import short_directory
from tests.support.mapi_process import MapiProcess
from tests.support.recorder import Recorder
from tests.unit.mapi_proc.core.world import NETWORK

pytestmark = pytest.mark.integration

TOPIC = "/app/1/chat/proto"
FILE = "mapi.sqlite3"


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path / "node"


async def know_network(data: Path) -> None:
    """Let an earlier run have met a kernel."""
    data.mkdir(mode=0o700)
    database = await Database.open(data / FILE)
    batch = database.batch()
    batch.note(NETWORK_NOTE, NETWORK.to_note())
    await database.commit(batch)
    await database.close()


@asynccontextmanager
async def serving(data: Path) -> AsyncIterator[MapiProcess]:
    with MapiProcess(data) as mapi:
        await mapi.serving()
        yield mapi


async def cause_events(app: Recorder, count: int) -> None:
    """Put `count` events that are never the same into the app's stream, and read them."""
    wanted = cancelled(app) + count
    for _ in range(count):
        request_id = os.urandom(16)
        await app.connection.request(
            "send", {"request_id": request_id, "content_topic": TOPIC}, [b"x"], timeout=30
        )
        assert await app.ask("cancel", request_id=request_id) == {"cancelled": True}
    await app.until(lambda: cancelled(app) >= wanted)


def names(app: Recorder) -> Counter[tuple[bytes, int]]:
    """How often each event came."""
    return Counter((event.stream_id, event.seq) for event, _ in app.events)


def cancelled(app: Recorder) -> int:
    return sum(isinstance(event, events.MessageCancelled) for event, _ in app.events)


def remove_log(data: Path) -> None:
    for suffix in ("-wal", "-shm"):
        (data / (FILE + suffix)).unlink(missing_ok=True)


class Variant(NamedTuple):
    """`take(data, backup)` while it runs, `put(data, backup)` when it has ended."""

    take: Callable[[Path, Path], object]
    put: Callable[[Path, Path], object]


def through_sqlite(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target)) as here:
        there.backup(here)
    there.close()
    here.close()


def vacuum_into(data: Path, backup: Path) -> None:
    with closing(sqlite3.connect(data / FILE)) as connection, connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    connection.close()


def put_file(data: Path, backup: Path) -> None:
    remove_log(data)
    backup.replace(data / FILE)


def put_content(data: Path, backup: Path) -> None:
    remove_log(data)
    shutil.copy2(backup, data / FILE)


def put_tree(data: Path, backup: Path) -> None:
    shutil.rmtree(data)
    shutil.copytree(backup, data)


def put_tree_over(data: Path, backup: Path) -> None:
    remove_log(data)
    shutil.copytree(backup, data, dirs_exist_ok=True)


def copy_tree(data: Path, backup: Path) -> None:
    shutil.copytree(data, backup, ignore=shutil.ignore_patterns("run"))


def through_checkpoint(data: Path, backup: Path) -> None:
    """The main file alone, with all that was written until now in it."""
    with closing(sqlite3.connect(data / FILE)) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    shutil.copy2(data / FILE, backup)
    connection.close()


VARIANTS = {
    "sqlite backup": Variant(lambda data, backup: through_sqlite(data / FILE, backup), put_file),
    "sqlite backup, put back by sqlite": Variant(
        lambda data, backup: through_sqlite(data / FILE, backup),
        lambda data, backup: through_sqlite(backup, data / FILE),
    ),
    "vacuum": Variant(vacuum_into, put_content),
    "file of the running epoch": Variant(through_checkpoint, put_content),
    "whole directory": Variant(copy_tree, put_tree),
    "whole directory, file by file": Variant(copy_tree, put_tree_over),
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_whatever_is_put_back_no_number_is_used_twice(directory: Path, name: str) -> None:
    variant = VARIANTS[name]
    killed = list(VARIANTS).index(name) % 2 == 1

    @asyncio_test(60)
    async def run() -> None:
        await know_network(directory)
        backup = directory.parent / "backup"
        async with serving(directory) as mapi, Recorder(directory, "alice") as alice:
            await cause_events(alice, 2)
            variant.take(directory, backup)
            await cause_events(alice, 3)
            if killed:
                mapi.kill()
            else:
                assert mapi.stop() == 0
            variant.put(directory, backup)
            mapi.start()
            await mapi.serving()
            await alice.until(lambda: len(alice.hellos) == 2)
            await cause_events(alice, 4)
            before, after = (hello.stream.id for hello in alice.hellos)
            assert before != after, "the app learns of the new stream"
            assert "all app streams get new ids" in mapi.logged()
            alice.check_names()

    run()


def put_file_system(data: Path, backup: Path) -> None:
    """As a snapshot of the file system does: the files agree with each other and with their places."""
    put_tree(data, backup)
    place = place_of(data / FILE)
    note = data / (FILE + ".written")
    events, sends, *_ = note.read_text().split()
    note.write_text(f"{events} {sends} {place} 0 0 0".ljust(159) + "\n")
    with closing(sqlite3.connect(data / FILE)) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'place'", (b"%d" % place,))
    connection.close()


@asyncio_test(60)
async def test_a_file_system_put_back_whole_is_noticed_by_the_apps(directory: Path) -> None:
    """Nothing in it tells; what the app has seen does."""
    await know_network(directory)
    backup = directory.parent / "backup"
    seen: dict[tuple[bytes, int], Event] = {}

    async def cause(client: MessagingClient, count: int) -> list[bytes]:
        made = [await client.send(TOPIC, b"x") for _ in range(count)]
        for request_id in made:
            assert await client.cancel(request_id)
        left = set(made)
        while left:
            event = await client.next_event()
            assert event is not None
            if isinstance(event, MessageCancelled):
                left.discard(event.request_id)
                assert seen.setdefault((event.stream_id, event.seq), event) == event
        return made

    async with serving(directory) as mapi, MessagingClient.connect(directory / "run", name="alice") as alice:
        made = await cause(alice, 2)
        copy_tree(directory, backup)
        made += await cause(alice, 5)
        mapi.kill()
        put_file_system(directory, backup)
        mapi.start()
        await mapi.serving()
        made += await cause(alice, 3)
        assert "all app streams get new ids" not in mapi.logged(), "from within it looks whole"
        assert "alice has seen event" in mapi.logged()
        assert {getattr(event, "request_id", b"") for event in seen.values()} == set(made)
        ids = {stream_id for stream_id, _ in seen}
        assert len(ids) == 2
        mapi.kill()  # the new id is on disk
        mapi.start()
        await mapi.serving()
        await cause(alice, 1)
        assert {stream_id for stream_id, _ in seen} == ids


@asyncio_test(60)
async def test_a_page_tells_a_new_gateway_what_it_has_seen(directory: Path) -> None:
    """The gateway that knew has ended too, and the first that uses the app knows nothing."""
    await know_network(directory)
    backup = directory.parent / "backup"

    async def cause(client: MessagingClient, count: int) -> None:
        for _ in range(count):
            assert await client.cancel(await client.send(TOPIC, b"x"))

    async with serving(directory) as mapi:
        async with MessagingClient.connect(directory / "run", name="alice", ack="manual") as alice:
            await cause(alice, 2)
            copy_tree(directory, backup)
            await cause(alice, 5)
            events = [await alice.next_event(10) for _ in range(8)]  # and the status of the connection
            last, instance = events[-1], alice.instance
            assert not isinstance(last, LinkLost | LinkRestored)
        mapi.kill()
        put_file_system(directory, backup)
        mapi.start()
        await mapi.serving()
        async with MessagingClient.connect(directory / "run", name="bob"):
            pass
        journals = Journals(mapi_endpoints(directory / "run"))
        try:
            blind = await journals.open("alice")
            seen = SeenPosition(stream=last.stream_id, seq=last.seq, instance=instance)
            assert blind.must_report(seen)
            current = await journals.open("alice", seen=seen)
            assert current is not blind
            assert "alice has seen event" in mapi.logged()
            assert await journals.open("alice", seen=seen) is current, "once is enough"
            async with current.reader(None, auto=True) as reader:
                (first, *_) = await reader.next()
            assert first.position is not None
            assert first.position.stream_id != last.stream_id
        finally:
            await journals.close()
        journals = Journals(mapi_endpoints(directory / "run"))
        try:  # also if the two come at once
            blind, current = await asyncio.gather(journals.open("alice"), journals.open("alice", seen=seen))
            assert blind.closed
            assert not current.closed
        finally:
            await journals.close()


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_nothing_put_back_keeps_the_stream(directory: Path, *, killed: bool) -> None:
    @asyncio_test(60)
    async def run() -> None:
        await know_network(directory)
        async with serving(directory) as mapi, Recorder(directory, "alice") as alice:
            await cause_events(alice, 2)
            seen = names(alice)
            if killed:
                mapi.kill()
            else:
                assert mapi.stop() == 0
            mapi.start()
            await mapi.serving()
            await alice.until(lambda: len(alice.hellos) == 2)
            await cause_events(alice, 2)
            assert len({hello.stream.id for hello in alice.hellos}) == 1
            assert "new ids" not in mapi.logged()
            alice.check_names()
            assert seen + seen <= names(alice), "what was not acknowledged came again"

    run()


@asyncio_test(60)
async def test_a_log_that_is_gone_is_noticed(directory: Path) -> None:
    await know_network(directory)
    async with serving(directory) as mapi, Recorder(directory, "alice") as alice:
        await cause_events(alice, 3)
        mapi.kill()
        remove_log(directory)
        mapi.start()
        await mapi.serving()
        assert "write-ahead log is gone" in mapi.logged()


@asyncio_test(60)
async def test_a_database_that_is_gone_is_logged(directory: Path) -> None:
    await know_network(directory)
    (directory / FILE).unlink()
    async with serving(directory) as mapi:
        assert f"{FILE} or what it held is gone" in mapi.logged()


@asyncio_test(60)
async def test_a_copy_over_a_left_log_is_refused_with_advice(directory: Path) -> None:
    await know_network(directory)
    backup = directory.parent / "backup"
    async with serving(directory) as mapi, Recorder(directory, "alice") as alice:
        await cause_events(alice, 2)
        through_sqlite(directory / FILE, backup)
        await cause_events(alice, 2)
        mapi.kill()
        content = backup.read_bytes()
        backup.replace(directory / FILE)
        mapi.start()
        assert mapi.wait() == 78
        assert f"remove {FILE}-wal" in mapi.logged()
        assert (directory / FILE).read_bytes() == content, "nothing was touched"
        remove_log(directory)
        mapi.start()
        await mapi.serving()


def delete(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))


def replace(file: Path) -> None:
    delete(file)
    shutil.copy2(file.with_name("elsewhere"), file)


def truncate(file: Path) -> None:
    os.truncate(file, 0)


@pytest.mark.parametrize(("harm", "suffix"), [(delete, ""), (replace, ""), (truncate, ""), (delete, "-wal")])
def test_a_file_lost_under_a_running_mapi_is_noticed(
    directory: Path, harm: Callable[[Path], None], suffix: str
) -> None:
    @asyncio_test(60)
    async def run() -> None:
        await know_network(directory)
        async with serving(directory) as mapi, Recorder(directory, "alice") as alice:
            await cause_events(alice, 2)
            harm(directory / (FILE + suffix))
            body = {"request_id": os.urandom(16), "content_topic": TOPIC}
            with pytest.raises(IpcError) as refused:
                await alice.connection.request("send", body, [b"x"], timeout=0.5)
            assert refused.value.code in {ErrorCode.BUSY, ErrorCode.DEADLINE_EXCEEDED}
            health = await mapi.health()
            assert not health["ready"]
            assert "while it was open" in health["database"]["reason"]
            if harm is delete:
                (directory / "elsewhere").rename(directory / (FILE + suffix))
                await mapi._until(lambda health: health["database"]["state"] == "open", 20)
                await cause_events(alice, 1)
            else:
                mapi.kill()

    run()

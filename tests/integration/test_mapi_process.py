"""The Messaging API as a process: start in any order, refusals with their exit codes, owners of names, what
outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq

from ipc_schema.errors import IpcError
from ipc_schema.mapi.events import EventsDropped, MessagePropagated
from ipc_schema.paths import mapi_endpoints
from logos_client.events import LinkRestored
from logos_client.events import MessageReceived as Received
from logos_client.exceptions import DeadlineError, NotReadyError
from logos_client.messaging import MessagingClient
from logos_process.build import build_of
from mapi_proc.send import acceptance
from tests.support.aio import asyncio_test
from tests.support.kernel_process import Context, KernelProcess, eventually, short_directory
from tests.support.mapi_process import AppDealer, MapiProcess
from tests.support.nodes import TOPIC, single_node, wait_for
from tests.support.recorder import Recorder

pytestmark = pytest.mark.integration

EXIT_FAILED = 70
EXIT_CONFIG = 78
NOBODY = 65534
HELLO: dict[str, object] = {"kind": "app", "protocol": [1, 1]}


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def test_its_directory_may_be_named_as_it_is_seen_from_here(directory: Path) -> None:
    command = [sys.executable, "-m", "mapi_proc", "--data-dir", "d"]
    with subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True) as mapi:
        try:
            eventually(lambda: (directory / "d" / "run" / "mapi" / "apps").is_socket())
        finally:
            mapi.terminate()
        assert mapi.stderr is not None
        assert "cannot start" not in mapi.stderr.read()


class Dealers:
    """Plain connections to apps' sockets, closed at the end."""

    def __init__(self) -> None:
        self._context: Context = zmq.Context()
        self._made: list[AppDealer] = []

    def __call__(self, run_dir: Path) -> AppDealer:
        self._made.append(AppDealer(self._context, mapi_endpoints(run_dir).apps))
        return self._made[-1]

    def close(self) -> None:
        for dealer in self._made:
            dealer.close()
        self._context.term()


@pytest.fixture
def dealer() -> Iterator[Dealers]:
    dealers = Dealers()
    yield dealers
    dealers.close()


def refused(*options: str, code: int = EXIT_CONFIG) -> str:
    """Start a Messaging API that is expected to refuse; what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "mapi_proc", *options], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


# --- what is refused at the start ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["--send-window=soon"], "send-window"),
        (["--no-such-option=1"], "no-such-option"),
        (["--preset=nowhere"], "preset"),
        (["--mode=boat"], "mode"),
        (["--journal-total-bytes=1MiB"], "journal-total-bytes"),
        (["--ipc-apps=tcp://0.0.0.0:5555"], "ipc-apps"),
        (["--ipc-group=no-such-group"], "ipc-group"),
        (["--ipc-dir=/tmp/" + "x" * 120], "ipc-dir"),
        (["--config-file=/no/such/file"], "config-file"),
    ],
)
def test_bad_options_are_refused_by_name(directory: Path, options: list[str], key: str) -> None:
    assert key in refused(f"--data-dir={directory}/n", *options)


def test_a_data_directory_that_cannot_be_used_is_named(directory: Path) -> None:
    (directory / "file").write_text("")
    assert str(directory / "file") in refused(f"--data-dir={directory}/file/n")


@asyncio_test(60)
async def test_two_nodes_on_one_data_directory(directory: Path) -> None:
    """The second kernel and the second Messaging API are refused, also when their sockets lie elsewhere, and
    the first ones never notice."""
    with single_node(directory) as node:
        health = await node.mapi.ready()
        assert health["build"] == build_of(acceptance)
        async with Recorder(node.directory, "alice") as app:
            await app.subscribed(TOPIC, mesh=False)
            for options in ([], [f"--ipc-dir={directory}/elsewhere"]):
                said = await asyncio.to_thread(
                    refused, f"--data-dir={node.directory}", *options, code=EXIT_FAILED
                )
                assert f"in use by process {node.mapi.pid}" in said
                assert str(node.directory) in said
            said = await asyncio.to_thread(
                refused, f"--data-dir={directory}/o", f"--ipc-dir={node.run}", code=EXIT_FAILED
            )
            assert "in use by process" in said
            kernel = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "kernel_proc", f"--data-dir={node.directory}", "--tcp-port=0"],
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert kernel.returncode == EXIT_FAILED
            assert "in use by process" in kernel.stderr
            node.kernel.dealer().code("relay.publish", {"content_topic": TOPIC}, b"still here")
            await app.until(lambda: app.payloads == [b"still here"])
            assert len(app.hellos) == 1
            assert (await node.mapi.health())["pid"] == health["pid"]


@asyncio_test()
async def test_signals_and_control_end_it_cleanly(directory: Path) -> None:
    with KernelProcess(directory / "k"), MapiProcess(directory / "n", kernel_dir=directory / "k") as mapi:
        for end in ("SIGTERM", "SIGINT", "shutdown"):
            await mapi.ready()
            async with Recorder(mapi.data_dir, "alice") as app:
                await app.until(lambda: app.hellos)
                if end == "shutdown":
                    await mapi.ask("shutdown")
                else:
                    mapi.signal(getattr(signal, end))
                assert await asyncio.to_thread(mapi.wait) == 0
            assert {entry.name for entry in (mapi.run_dir / "mapi").iterdir()} == {"lock"}
            mapi.start()
        assert "Traceback" not in mapi.logged()


# --- start in any order -------------------------------------------------------------------------------------


@asyncio_test(60)
async def test_the_messaging_api_first_then_the_kernel(directory: Path, dealer: Dealers) -> None:
    with MapiProcess(directory / "n") as mapi:
        await mapi.serving()
        app = dealer(mapi.run_dir)
        error = app.ask("hello", HELLO | {"name": "alice"}).error
        assert error is not None
        assert (error.code, error.retriable) == ("not_ready", True)
        assert "kernel" in error.message
        with pytest.raises(NotReadyError):
            await MessagingClient.connect(mapi.run_dir, timeout=0.3)
        connecting = asyncio.create_task(_connect(mapi.run_dir))
        with KernelProcess(directory / "n"):
            async with await connecting as client:
                assert await client.subscribe(TOPIC) == {}
                assert client.network.shard_count == 1
            assert app.ok("hello", HELLO | {"name": "alice"})["app"] == "alice"


async def _connect(run_dir: Path) -> MessagingClient:
    return await MessagingClient.connect(run_dir, timeout=20)


@asyncio_test(60)
async def test_without_a_kernel_on_the_network_of_the_last_run(directory: Path) -> None:
    with MapiProcess(directory / "n") as mapi:
        with KernelProcess(directory / "n"):
            await mapi.ready()
        assert mapi.stop() == 0
        mapi.start()
        await mapi.serving()
        async with MessagingClient.connect(mapi.run_dir, name="alice") as app:
            assert await app.subscribe(TOPIC) == {}
            status = await app.status()
            assert status.connection == "Disconnected"
            assert status.reason
            await app.send(TOPIC, b"accepted without a kernel")
            with pytest.raises(DeadlineError):
                await app.node_info(timeout=0.3)
            with KernelProcess(directory / "n"):
                received = await wait_for(app, Received)
                assert received.payload == b"accepted without a kernel"
                assert (await app.node_info(["MaxMessageSize"]))["MaxMessageSize"] == 153_600


@asyncio_test(60)
async def test_a_contradicting_network_is_refused_by_name(directory: Path) -> None:
    with (
        KernelProcess(directory / "k"),
        MapiProcess(directory / "n", "--cluster-id=5", kernel_dir=directory / "k") as mapi,
    ):
        await mapi.serving()
        async with asyncio.timeout(15):
            while "cluster-id" not in (health := await mapi.health())["reason"]:
                await asyncio.sleep(0.05)
        assert not health["ready"]
        assert health["network"] is None
        with pytest.raises(NotReadyError):
            await MessagingClient.connect(mapi.run_dir, timeout=0.3)


@asyncio_test(60)
async def test_a_kernel_on_another_network_than_before(directory: Path) -> None:
    """Content topics move to the shards of the new network; the app need not do anything."""
    kernel = KernelProcess(directory / "n")
    with kernel, MapiProcess(directory / "n") as mapi:
        await mapi.ready()
        async with Recorder(mapi.data_dir, "alice") as app:
            await app.subscribed(TOPIC, mesh=False)
            kernel.stop()
            kernel.options = ("--cluster-id=7", "--num-shards-in-network=8")
            kernel.start()
            async with asyncio.timeout(15):
                while (health := await mapi.health())["resyncing"] or not health["kernel"]["up"]:
                    await asyncio.sleep(0.05)
            assert health["network"]["cluster"] == 7
            kernel.dealer().code("relay.publish", {"content_topic": TOPIC}, b"on cluster 7")
            await app.until(lambda: app.payloads == [b"on cluster 7"])


# --- two Messaging APIs on one kernel -----------------------------------------------------------------------


@asyncio_test(60)
async def test_two_messaging_apis_on_one_kernel(directory: Path) -> None:
    with (
        KernelProcess(directory / "k") as kernel,
        MapiProcess(directory / "x", kernel_dir=directory / "k") as one,
        MapiProcess(directory / "y", kernel_dir=directory / "k") as two,
    ):
        await one.ready()
        await two.ready()
        async with (
            Recorder(one.data_dir, "alice") as alice,
            Recorder(two.data_dir, "alice") as other,
            MessagingClient.connect(one.run_dir) as sender,
        ):
            await alice.subscribed(TOPIC, mesh=False)
            await other.subscribed(TOPIC, mesh=False)
            await sender.send(TOPIC, b"from one")
            for app in (alice, other):
                await app.until(lambda: app.payloads == [b"from one"])  # noqa: B023
            # One leaves: the interest of the other keeps the shard.
            await alice.ask("unsubscribe", topics=[TOPIC])
            await sender.unsubscribe(TOPIC)
            await asyncio.to_thread(eventually, lambda: _holders_gone(one))
            kernel.dealer().code("relay.publish", {"content_topic": TOPIC}, b"for two")
            await other.until(lambda: other.payloads == [b"from one", b"for two"])
            one.kill()
            kernel.dealer().code("relay.publish", {"content_topic": TOPIC}, b"still for two")
            await other.until(lambda: other.payloads[-1] == b"still for two")
            assert alice.payloads == [b"from one"]
            assert other.missed == []


def _holders_gone(mapi: MapiProcess) -> bool:
    return bool(asyncio.run(mapi.health())["shards"] == {})


# --- names --------------------------------------------------------------------------------------------------

_AS_NOBODY = """
import json, os, sys
import zmq
from ipc_schema.frames import decode_reply, encode_request
import encodings.idna  # nothing can be imported once we are the user nobody
os.setgroups([])
os.setgid({nobody})
os.setuid({nobody})
context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.setsockopt(zmq.LINGER, 0)
socket.connect({endpoint!r})
for method, body in {requests!r}:
    socket.send_multipart(encode_request(bytes(16), method, body))
    if not socket.poll({wait}):
        print("no answer")
        break
    reply = decode_reply(socket.recv_multipart())
    print(str(reply.error.code) if reply.error else "ok")
context.destroy()
"""


def as_nobody(endpoint: str, *requests: tuple[str, dict[str, object]], wait: int = 30_000) -> list[str]:
    """Requests of another user, on one connection: the code of each answer, or `ok`; `no answer` ends it."""
    code = _AS_NOBODY.format(nobody=NOBODY, endpoint=endpoint, requests=list(requests), wait=wait)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@asyncio_test(60)
async def test_a_name_belongs_to_the_user_that_first_used_it(directory: Path, dealer: Dealers) -> None:
    directory.chmod(0o711)
    (directory / "ipc").mkdir()
    (directory / "ipc").chmod(0o711)
    shared = [f"--ipc-dir={directory}/ipc", f"--ipc-group={NOBODY}"]
    kernel_dir = f"--kernel-dir={directory}/k/run"
    with (
        KernelProcess(directory / "k"),
        MapiProcess(directory / "n", *shared, kernel_dir, f"--allowed-uid={NOBODY}") as mapi,
    ):
        mapi.run_dir = directory / "ipc"
        await mapi.ready()
        endpoint = mapi_endpoints(mapi.run_dir).apps
        own = dealer(mapi.run_dir)
        own.ok("hello", HELLO | {"name": "root-app"})
        own.ok("goodbye")
        answers = await asyncio.to_thread(
            as_nobody,
            endpoint,
            ("hello", HELLO | {"name": "root-app"}),
            ("hello", HELLO | {"name": "root-app", "takeover": True}),
            ("hello", HELLO | {"name": "nobody-app"}),
            ("forget", {"name": "root-app"}),
            ("subscribe", {"topics": [TOPIC]}),
            ("goodbye", {}),
        )
        assert answers == ["unauthorised", "unauthorised", "ok", "unauthorised", "ok", "ok"]
        mapi.kill()
        mapi.start()
        await mapi.ready()
        own = dealer(mapi.run_dir)
        assert own.code("hello", HELLO | {"name": "nobody-app"}) == "unauthorised", "also after a restart"
        own.ok("hello", HELLO | {"name": "root-app"})
        # Control is for the same users.
        assert await asyncio.to_thread(as_nobody, mapi_endpoints(mapi.run_dir).control, ("health", {})) == [
            "ok"
        ]
    with (
        KernelProcess(directory / "k"),
        MapiProcess(directory / "n", *shared, kernel_dir) as mapi,
    ):
        mapi.run_dir = directory / "ipc"
        await mapi.ready()
        sockets = (endpoint, mapi_endpoints(mapi.run_dir).control)
        for answers in await asyncio.gather(
            *(asyncio.to_thread(as_nobody, each, ("hello", HELLO), wait=1000) for each in sockets)
        ):
            assert answers == ["no answer"]
        figures = (await mapi.health())["ipc"]
        for name in ("apps", "control"):
            assert figures[name]["denied"] > 0, "turned away at the door, before a byte is read"
            assert figures[name]["bad"] == 0
        assert figures["apps"]["requests"] == 0


@asyncio_test(60)
async def test_named_apps_expire_after_their_time_of_absence(directory: Path) -> None:
    """Their last sign of life is set back on disk instead of waiting."""
    with (
        KernelProcess(directory / "k"),
        MapiProcess(directory / "n", "--app-expiry=60", kernel_dir=directory / "k") as mapi,
    ):
        await mapi.ready()
        streams = {}
        for name in ("gone", "here", "recent"):
            async with Recorder(mapi.data_dir, name) as app:
                await app.subscribed(TOPIC, mesh=False)
                streams[name] = app.hellos[0].stream.id
        assert mapi.stop() == 0
        with closing(sqlite3.connect(mapi.data_dir / "mapi.sqlite3")) as database, database:
            long_ago = time.time_ns() - 61 * 10**9
            database.execute("UPDATE app SET last_seen = ? WHERE name IN ('gone', 'here')", (long_ago,))
        database.close()
        mapi.start()
        async with Recorder(mapi.data_dir, "here") as here:
            await here.until(lambda: here.hellos)
            async with asyncio.timeout(20):
                while (await mapi.health())["apps"]["known"] != 2:
                    await asyncio.sleep(0.1)
            assert here.hellos[0].stream.id == streams["here"], "it came back in time"
            for name, same in (("gone", False), ("recent", True)):
                async with Recorder(mapi.data_dir, name) as app:
                    await app.until(lambda: app.hellos)
                    assert (app.hellos[0].stream.id == streams[name]) is same
                    assert app.hellos[0].subscriptions == ((TOPIC,) if same else ())
            # The note that a connected app is there is renewed: a kill -9 later must not make it look absent.
            await mapi.ready()
            mapi.kill()
            with closing(sqlite3.connect(mapi.data_dir / "mapi.sqlite3")) as database, database:
                (seen,) = database.execute("SELECT last_seen FROM app WHERE name = 'here'").fetchone()
            database.close()
            assert seen > time.time_ns() - 60 * 10**9


@asyncio_test(60)
async def test_journals_are_bounded_alone_and_together_and_the_app_learns_what_was_dropped(
    directory: Path,
) -> None:
    limits = ("--journal-max-bytes=256KiB", "--journal-total-bytes=400KiB")
    with single_node(directory, mapi_options=limits) as node:
        await node.mapi.ready()
        for name in ("one", "two"):
            async with Recorder(node.directory, name) as app:
                await app.subscribed(TOPIC, mesh=False)
        publisher = node.kernel.dealer()
        for number in range(400):
            publisher.code("relay.publish", {"content_topic": TOPIC}, b"%04d" % number + bytes(1000))
        async with asyncio.timeout(20):
            while (await node.mapi.health())["receive"]["accepted"] < 400:
                await asyncio.sleep(0.05)
            while (await node.mapi.health())["apps"]["journal_bytes"] > 400 * 1024:
                await asyncio.sleep(0.05)  # the common bound is looked at every 5 s
        kept = gone = 0
        for name in ("one", "two"):
            async with Recorder(node.directory, name) as app:
                await app.until(lambda: app.payloads[-1:] and app.payloads[-1][:4] == b"0399")
                (dropped,) = [event for event, _ in app.events if isinstance(event, EventsDropped)]
                assert dropped is app.events[0][0]
                assert (dropped.first, dropped.reason) == (1, "bytes")
                gone += dropped.last
                assert dropped.last + len(app.payloads) == app.events[-1][0].seq
                assert 0 < sum(map(len, app.payloads)) < 256 * 1024
                kept += sum(app.costs)
        assert kept < 410 * 1024
        assert (await node.mapi.health())["apps"]["events_dropped"] == gone


@asyncio_test(60)
async def test_what_an_ephemeral_app_loses_with_its_messaging_api_is_said(directory: Path) -> None:
    with single_node(directory) as node:
        await node.mapi.ready()
        async with MessagingClient.connect(node.run) as app:
            await app.subscribe(TOPIC)
            node.mapi.kill()
            node.mapi.start()
            restored = await wait_for(app, LinkRestored)
            assert not restored.resumed
            assert restored.subscription_errors == {}
            await node.mapi.ready()
            await app.status()
            node.kernel.dealer().code("relay.publish", {"content_topic": TOPIC}, b"subscribed again")
            received = await wait_for(app, Received)
            assert received.payload == b"subscribed again"


@asyncio_test(60)
async def test_topics_and_fates_of_two_apps_do_not_mix(directory: Path) -> None:
    """A request id is an app's own: two apps may use the same one."""
    with single_node(directory, mapi_options=("--send-window=1",)) as node:
        await node.mapi.ready()
        async with Recorder(node.directory, "one") as one, Recorder(node.directory, "two") as two:
            await one.subscribed(TOPIC, mesh=False)
            await two.subscribed(TOPIC, mesh=False)
            request_id = os.urandom(16)
            body = {"request_id": request_id, "content_topic": TOPIC, "meta": b""}
            for app, payload in ((one, b"of one"), (two, b"of two")):
                reply = await app.connection.request("send", body, [payload])
                assert reply.body["repeated"] is False
            for app in (one, two):
                await app.until(lambda: sorted(app.payloads) == [b"of one", b"of two"])  # noqa: B023
            with pytest.raises(IpcError) as error:
                await one.connection.request("send", body, [b"of two"])
            assert error.value.code == "conflict"
            assert not [e for e, _ in one.events + two.events if isinstance(e, MessagePropagated)]


def test_health_is_one_json_document(directory: Path) -> None:
    """What an operator's tools see: only plain values."""

    @asyncio_test()
    async def run() -> None:
        with single_node(directory) as node:
            health = await node.mapi.ready()
            health["kernel"]["instance"] = health["kernel"]["instance"].hex()
            assert json.loads(json.dumps(health)) == health

    run()

"""An app that launches its node: real processes, their restarts, their end with the app however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from logos_client import LinkLost, LinkRestored, MessageReceived, MessagingClient
from logos_deploy import ConfigError, DataDirInUseError, LaunchError, blocking, launch, launcher_node
from logos_deploy.launcher import Node
from logos_deploy.node.handles import ProcessHandle
from logos_process.lock import FileLock
from tests.support.aio import asyncio_test
from tests.support.kernel_process import eventually, short_directory

pytestmark = pytest.mark.integration

TOPIC = "/toychat/2/huilong/proto"
LOCAL = {"tcp-port": 0}
END_SECONDS = 5.0
"""Within which both processes end, once the app is gone."""


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


class Watched:
    """Processes that must be gone at the end; killed if they are not."""

    def __init__(self, *pids: int | None) -> None:
        self._stack = ExitStack()
        self._handles = [self._stack.enter_context(ProcessHandle(pid)) for pid in pids if pid is not None]
        assert len(self._handles) == len(pids)

    def alive(self) -> list[int]:
        return [handle.pid for handle in self._handles if handle.alive()]

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.kill()
        self._stack.close()


async def message(client: MessagingClient, payload: bytes) -> MessageReceived:
    """The next message with this payload; other events are passed over."""
    while True:
        event = await client.next_event(20)
        if isinstance(event, MessageReceived) and event.payload == payload:
            return event


async def restarted(node: Node, name: str, before: int | None) -> None:
    """Wait until a process runs again, and the client is back."""
    async with asyncio.timeout(20):
        while node.pids[name] in (None, before) or not node.client.connected:
            await asyncio.sleep(0.02)


@asyncio_test(60)
async def test_a_node_in_an_app_its_restarts_and_its_end(directory: Path) -> None:
    async with launch("", "core", LOCAL, data_dir=directory / "n", name="app") as node:
        pids = dict(node.pids)
        with Watched(*pids.values()) as watched:
            await node.client.subscribe(TOPIC)
            await node.client.send(TOPIC, b"1")
            await message(node.client, b"1")
            kernel = await node.kernel()
            assert kernel is await node.kernel()
            assert kernel.network == node.client.network
            async with MessagingClient.connect(node.run_dir) as other:  # another program of the user's
                assert other.network == node.client.network

            links: list[type] = []
            node.client.on(LinkLost, lambda event: links.append(type(event)))
            node.client.on(LinkRestored, lambda event: links.append(type(event)))
            for name in ("mapi", "kernel"):
                before = node.pids[name]
                assert before is not None
                os.kill(before, signal.SIGKILL)
                await restarted(node, name, before)
                payload = f"after the {name}'s death".encode()
                await node.client.send(TOPIC, payload, timeout=20)
                await message(node.client, payload)
            assert links == [LinkLost, LinkRestored]  # the kernel's does not concern the client's link
            assert node.restarts == {"kernel": 1, "mapi": 1}
            with Watched(*node.pids.values()) as second:
                waiting = asyncio.create_task(node.wait())
                await node.close()
                await waiting
                assert second.alive() == watched.alive() == []
    logs = {name: path.read_text() for name, path in node.logs.items()}
    assert all(text.count("ready") >= 2 for text in logs.values()), logs
    assert node.pids == {"kernel": None, "mapi": None}
    assert {path.parent for path in node.logs.values()} == {directory / "n" / "logs"}


@asyncio_test(60)
async def test_a_closed_node_can_be_started_again(directory: Path) -> None:
    node = await launch(overrides=LOCAL, data_dir=directory / "n", name="app")
    await node.client.subscribe(TOPIC)
    with pytest.raises(RuntimeError, match="is already running"):
        await node.start()
    await node.close()
    async with node:
        assert await node.client.subscriptions() == [TOPIC]
        await node.client.send(TOPIC, b"again")
        await message(node.client, b"again")
    assert node.pids == {"kernel": None, "mapi": None}


def test_a_closed_node_can_be_started_again_in_the_blocking_form(directory: Path) -> None:
    node = blocking.launch(overrides=LOCAL, data_dir=directory / "n", name="app")
    node.client.subscribe(TOPIC)
    with pytest.raises(RuntimeError, match="is already running"):
        node.start()
    node.close()
    node.start()
    assert node.client.subscriptions() == [TOPIC]
    node.close()
    assert node.pids == {"kernel": None, "mapi": None}


def test_the_blocking_form_and_a_durable_app_over_two_launches(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with blocking.launch(overrides=LOCAL, data_dir=directory / "n", name="app") as node:
        node.client.subscribe(TOPIC)
        node.client.send(TOPIC, b"kept")
        peer_id = node.kernel().info(["MyPeerId"])
        # The event is in the journal, and not handled.
        eventually(lambda: node.client.counters.received)
        monkeypatch.setattr(launcher_node, "RELEASE_SECONDS", 0.1)
        with pytest.raises(DataDirInUseError, match="in use by a kernel, process"):
            blocking.launch(overrides=LOCAL, data_dir=directory / "n")
        waiting = threading.Thread(target=node.wait)
        waiting.start()
    waiting.join(10)
    with blocking.launch(overrides=LOCAL, data_dir=directory / "n", name="app") as node:
        assert node.kernel().info(["MyPeerId"]) == peer_id
        received = (event for event in node.client if isinstance(event, MessageReceived))
        assert next(received).payload == b"kept"
        assert node.client.subscriptions() == [TOPIC]


# -- the app dies ------------------------------------------------------------------------------------------

APP = """
import os, signal, sys, time
from logos_deploy.{form} import launch
node = None
def main():
    global node
    node = launch(overrides={{"tcp-port": 0}}, data_dir=sys.argv[1], name="app")
    forked = os.fork()
    if forked == 0:
        node.close()  # the parent's: nothing happens
        signal.pause()
    print(*node.pids.values(), forked, flush=True)
    {end}
main()
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os._exit(7)", 7),
        ("raise OSError('an error of the app')", 1),
    ],
)
def test_both_processes_end_with_the_app(directory: Path, end: str, code: int) -> None:
    """Though a child that the app forked lives on. The same directory can be used again at once."""
    app = subprocess.Popen(
        [sys.executable, "-c", APP.format(form="blocking", end=end), str(directory / "n")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert app.stdout is not None
    kernel, mapi, forked = (int(pid) for pid in app.stdout.readline().split())
    with Watched(kernel, mapi) as watched, Watched(forked) as child:
        assert app.wait(10) == code
        gone = time.monotonic()
        eventually(lambda: not watched.alive(), END_SECONDS)
        print(f"ended after {time.monotonic() - gone:.2f} s")
        assert child.alive()
    app.stdout.close()
    assert app.stderr is not None
    assert ("an error of the app" in app.stderr.read()) == (code == 1)
    app.stderr.close()


def test_an_app_killed_while_it_launches(directory: Path) -> None:
    program = """
import sys
from logos_deploy.blocking import launch
launch(overrides={"tcp-port": 0}, data_dir=sys.argv[1])
"""
    app = subprocess.Popen([sys.executable, "-c", program, str(directory / "n")])
    try:
        children = eventually(lambda: _children_of(app.pid))
    finally:
        app.kill()
        app.wait()
    with Watched(*children) as watched:
        eventually(lambda: not watched.alive())  # as soon as they are so far as to look


def _children_of(pid: int) -> list[int]:
    found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (thread / "children").read_text().split()]
    return sorted(set(found)) if len(set(found)) == 2 else []


# -- a launch that fails -----------------------------------------------------------------------------------


@asyncio_test()
async def test_a_cancelled_launch_leaves_nothing(directory: Path) -> None:
    before = set(_children_of(os.getpid()))  # fixtures of other tests may have some
    starting = asyncio.ensure_future(_open(directory / "n"))
    async with asyncio.timeout(20):
        while len(children := set(_children_of(os.getpid())) - before) != 2:
            await asyncio.sleep(0.01)
    with Watched(*children) as watched:
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert watched.alive() == []


async def _open(data_dir: Path) -> Node:
    return await launch(overrides=LOCAL, data_dir=data_dir)


def test_what_cannot_be_started_says_why(directory: Path) -> None:
    before = set(_children_of(os.getpid()))
    with pytest.raises(ConfigError, match="tcp-port"):
        blocking.launch(overrides={"tcp-port": -1}, data_dir=directory / "a")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"tcp-port: port {port} on 127.0.0.1 is in use"):
            blocking.launch(overrides={"tcp-port": port}, data_dir=directory / "a")
    assert not (directory / "a").exists()

    (directory / "b").mkdir(mode=0o700)
    (directory / "b" / "mapi.sqlite3").mkdir()
    with pytest.raises(ConfigError, match=r"data-dir: cannot open .*mapi\.sqlite3"):
        blocking.launch(overrides=LOCAL, data_dir=directory / "b")
    (directory / "b" / "mapi.sqlite3").rmdir()
    with (
        FileLock.acquire(directory / "b" / "mapi.lock", "it"),
        pytest.raises(LaunchError) as caught,
    ):
        blocking.launch(overrides=LOCAL, data_dir=directory / "b")
    assert caught.value.process == "mapi"
    assert caught.value.log == directory / "b" / "logs" / "mapi.log"
    assert "mapi ended with exit code 70" in str(caught.value)
    assert f"in use by process {os.getpid()}" in str(caught.value)
    assert caught.value.output
    with pytest.raises(LaunchError, match=r"kernel and mapi not ready within 0\.01 s"):
        blocking.launch(overrides=LOCAL, data_dir=directory / "c", timeout=0.01)
    assert set(_children_of(os.getpid())) <= before

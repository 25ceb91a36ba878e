"""`MessagingApi`, the object: a node of its own or attached to a kernel, started and stopped again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from ipc_schema.config.options import ConfigError
from ipc_schema.errors import IpcError
from ipc_schema.mapi.events import (
    AppEvent,
    MessageError,
    MessagePropagated,
    MessageReceived,
    TakenOver,
)
from logos_client.events import MessageReceived as _Received
from logos_client.messaging import MessagingClient
from logos_process.exits import StartError
from mapi_proc.api import MessagingApi
from mapi_proc.kernel_child import KernelChildError
from mapi_proc.local_app import LocalEvent
from mapi_proc.subscriptions import NeverSubscribe
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess, eventually, short_directory
from tests.support.nodes import TOPIC

pytestmark = pytest.mark.integration

OVERRIDES: dict[str, object] = {"tcp-port": 0}


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def children() -> list[psutil.Process]:
    """Kernels that this process runs."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ended a moment ago
            if "kernel_proc" in child.cmdline():
                found.append(child)
    return found


@asynccontextmanager
async def events_of(api: MessagingApi) -> AsyncIterator[asyncio.Queue[LocalEvent]]:
    """The events of the app in this process, in a queue."""
    queue: asyncio.Queue[LocalEvent] = asyncio.Queue()

    async def read() -> None:
        async for event in api.events():
            queue.put_nowait(event)

    task = asyncio.create_task(read())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def of(queue: asyncio.Queue[LocalEvent], kind: type[AppEvent]) -> tuple[AppEvent, bytes]:
    """The next event of a kind."""
    while True:
        event, payload = await queue.get()
        if isinstance(event, kind):
            return event, payload


@asyncio_test(90)
async def test_a_node_of_its_own_starts_sends_stops_and_starts_again(directory: Path) -> None:
    api = MessagingApi(overrides=OVERRIDES | {"send-window": 1}, data_dir=directory / "n")
    peer_ids = set()
    for number in range(2):
        await api.start()
        assert len(children()) == 1
        with pytest.raises(RuntimeError, match="already started"):
            await api.start()
        assert len(children()) == 1, "a second start changes nothing"
        assert api.status().connection == "Disconnected"
        assert api.kernel.network.shard_count == 1
        peer_ids.add((await api.node_info(["MyPeerId"]))["MyPeerId"])
        async with events_of(api) as events:
            assert set(await api.subscribe([TOPIC, "nonsense"])) == {"nonsense"}
            request_id = await api.send(TOPIC, b"hello %d" % number)
            _, payload = await of(events, MessageReceived)
            assert payload == b"hello %d" % number
            error, _ = await of(events, MessageError)
            assert isinstance(error, MessageError)
            assert error.request_id == request_id
            assert "; last: no peer is connected" in error.text
            async with MessagingClient.connect(directory / "n" / "run") as client:
                await client.subscribe(TOPIC)
                await api.send(TOPIC, b"to apps of other processes")
                while not isinstance(got := await client.next_event(10), _Received):
                    pass
                assert got.payload == b"to apps of other processes"
        await api.stop()
        await api.stop()
        assert children() == []
        with pytest.raises(RuntimeError):
            _ = api.kernel
    assert len(peer_ids) == 1, "the same node"
    assert not list((directory / "n" / "run").glob("*/[!l]*")), "no socket is left"


@asyncio_test(60)
async def test_a_kernel_child_that_dies_is_started_again(directory: Path) -> None:
    async with (
        MessagingApi(overrides=OVERRIDES, data_dir=directory / "n") as api,
        events_of(api) as events,
    ):
        await api.subscribe([TOPIC])
        (before,) = children()
        before.kill()
        while [child.pid for child in children()] in ([], [before.pid]) or not api.service.core.link.up:
            await asyncio.sleep(0.05)
        await api.send(TOPIC, b"after")
        _, payload = await of(events, MessageReceived)
        assert payload == b"after"
        assert (await api.kernel.health()).state == "READY", "its kernel's interface comes back by itself"
    assert children() == []


@asyncio_test(60)
async def test_attached_to_a_running_kernel_two_named_apps_talk(directory: Path) -> None:
    with (
        KernelProcess(directory / "k") as first,
        KernelProcess(directory / "l", f"--staticnode={first.address()}"),
    ):
        async with (
            MessagingApi.attach(directory / "k" / "run", data_dir=directory / "a", name="alice") as alice,
            MessagingApi.attach(directory / "l" / "run", data_dir=directory / "b", name="bob") as bob,
            events_of(alice) as to_alice,
            events_of(bob) as to_bob,
        ):
            await alice.subscribe([TOPIC])
            await bob.subscribe([TOPIC])
            request_id = await alice.send(TOPIC, b"from alice", meta=b"m", ephemeral=True)
            event, payload = await of(to_bob, MessageReceived)
            assert isinstance(event, MessageReceived)
            assert (payload, event.meta, event.ephemeral) == (b"from alice", b"m", True)
            sent, _ = await of(to_alice, MessagePropagated)
            assert isinstance(sent, MessagePropagated)
            assert (sent.request_id, sent.message_hash) == (request_id, event.message_hash)
            while [len(peers) for peers in (await alice.kernel.mesh()).values()] != [1]:
                await asyncio.sleep(0.05)
            assert await bob.unsubscribe([TOPIC, "/other/1/topic/proto"]) == {
                "/other/1/topic/proto": "already unsubscribed"
            }
        assert first.control().ok("health")["ready"], "a kernel that was there before is left alone"


@asyncio_test(60)
async def test_a_named_app_in_this_process_goes_on_after_a_stop(directory: Path) -> None:
    with KernelProcess(directory / "k") as kernel:
        api = MessagingApi.attach(directory / "k" / "run", data_dir=directory / "n", name="alice")
        async with api, events_of(api) as events:
            await api.subscribe([TOPIC])
            dealer = kernel.dealer()
            for payload in (b"one", b"two"):
                dealer.code("relay.publish", {"content_topic": TOPIC}, payload)
            assert (await of(events, MessageReceived))[1] == b"one"
            assert (await of(events, MessageReceived))[1] == b"two"
        dealer.code("relay.publish", {"content_topic": TOPIC}, b"while it was stopped")
        async with api, events_of(api) as events:
            payloads = [(await of(events, MessageReceived))[1]]
            while payloads[-1] != b"while it was stopped":
                payloads.append((await of(events, MessageReceived))[1])
            assert b"one" not in payloads, "asking for the next one said that it was done with"
            async with MessagingClient.connect(directory / "n" / "run", name="alice", takeover=True) as other:
                assert await other.subscriptions() == [TOPIC]
                await of(events, TakenOver)


@asyncio_test(60)
async def test_overrides_that_contradict_the_kernel_are_refused_by_name(directory: Path) -> None:
    with KernelProcess(directory / "k", "--cluster-id=3"):
        for key, value in (
            ("cluster-id", 5),
            ("num-shards-in-network", 4),
            ("max-msg-size", "100KiB"),
            ("preset", "twn"),
        ):
            api = MessagingApi.attach(
                directory / "k" / "run", overrides={key: value}, data_dir=directory / "n"
            )
            with pytest.raises(IpcError, match=key) as error:
                await api.start()
            assert error.value.code == "bad_request"
            assert not api.service.running
        async with MessagingApi.attach(
            directory / "k" / "run", overrides={"cluster-id": 3}, data_dir=directory / "n"
        ) as api:
            assert api.kernel.network.cluster == 3


@pytest.mark.parametrize(
    ("preset", "mode", "overrides", "key"),
    [
        ("nowhere", "core", {}, "preset"),
        ("", "edge", {"relay": True}, "relay"),
        ("", "boat", {}, "mode"),
        ("", "core", {"no-such-option": 1}, "no-such-option"),
        ("", "core", {"tcp-port": "seventy"}, "tcp-port"),
        ("", "core", {"relay": False}, "relay"),
        ("", "core", {"max-apps": 0}, "max-apps"),
    ],
)
def test_bad_configuration_is_refused_before_anything_starts(
    directory: Path, preset: str, mode: str, overrides: dict[str, object], key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        MessagingApi(preset, mode=mode, overrides=overrides, data_dir=directory / "n")


@asyncio_test(60)
async def test_what_cannot_start_leaves_nothing(directory: Path) -> None:
    with KernelProcess(directory / "k"):
        # No kernel there.
        api = MessagingApi.attach(directory / "absent", data_dir=directory / "n")
        with pytest.raises(IpcError) as error:
            await api.start(timeout=0.3)
        assert error.value.code == "not_ready"
        async with MessagingApi.attach(directory / "k" / "run", data_dir=directory / "n"):
            # The data directory is in use.
            second = MessagingApi.attach(directory / "k" / "run", data_dir=directory / "n")
            with pytest.raises(StartError, match="in use"):
                await second.start()
    # Its own kernel refuses: the directory's key file is invalid.
    (directory / "m").mkdir(mode=0o700)
    (directory / "m" / "nodekey").write_text("not a key\n")
    api = MessagingApi(overrides=OVERRIDES, data_dir=directory / "m")
    with pytest.raises(KernelChildError, match="78"):
        await api.start(timeout=1000)  # by the child's end: the time-out is far away
    assert children() == []


class OnlyLoud:
    """A policy of the test's own."""

    def wants(self, app: str, content_topic: str, subscribed: bool) -> bool:
        return not subscribed and "loud" in content_topic

    def unsubscribed(self, app: str, content_topic: str) -> None:
        pass

    def forget(self, app: str) -> None:
        pass


@asyncio_test(60)
async def test_auto_subscribe_is_a_policy_that_can_be_replaced(directory: Path) -> None:
    loud, quiet = "/loud/1/topic/proto", "/quiet/1/topic/proto"
    with KernelProcess(directory / "k"):
        for policy, expected in ((OnlyLoud(), [loud]), (NeverSubscribe(), []), (None, [loud, quiet])):
            api = MessagingApi.attach(
                directory / "k" / "run", data_dir=directory / "n", auto_subscribe=policy
            )
            async with api:
                await api.send(loud, b"x")
                await api.send(quiet, b"x")
                assert sorted(api.status().topics) == expected


HOST = """
import asyncio, sys
from mapi_proc.api import MessagingApi

async def main():
    api = MessagingApi(overrides={"tcp-port": 0}, data_dir=sys.argv[1])
    await api.start()
    print(api._child.pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_the_kernel_ends_with_the_process_that_holds_the_object(directory: Path) -> None:
    """After kill -9, the pipe from us is what stops the kernel."""
    with subprocess.Popen(
        [sys.executable, "-c", HOST, str(directory / "n")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as host:
        assert host.stdout is not None
        kernel = psutil.Process(int(host.stdout.readline()))
        assert kernel.is_running()
        host.kill()
    eventually(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE, 10)
    with KernelProcess(directory / "n") as again:
        assert again.control().ok("health")["ready"], "the directory is free again"


def test_a_parent_that_is_gone_before_the_kernel_is_up_ends_it_too(directory: Path) -> None:
    reading, writing = os.pipe()
    environment = {**os.environ, "LOGOS_PARENT_FD": str(reading)}
    with subprocess.Popen(
        [sys.executable, "-m", "kernel_proc", f"--data-dir={directory}/k", "--tcp-port=0"],
        env=environment,
        pass_fds=[reading],
        stderr=subprocess.PIPE,
        text=True,
    ) as kernel:
        os.close(reading)
        os.close(writing)
        try:
            # SIGTERM: before its loop runs, that ends it at once
            assert kernel.wait(20) in (0, -signal.SIGTERM)
            assert kernel.stderr is not None
            assert "the parent process has ended" in kernel.stderr.read()
        finally:
            kernel.send_signal(signal.SIGKILL)


def test_a_descriptor_that_is_not_a_pipe_to_a_parent_is_refused(directory: Path) -> None:
    for given in ("77", "x"):
        done = subprocess.run(
            [sys.executable, "-m", "kernel_proc", f"--data-dir={directory}/k", "--tcp-port=0"],
            env={**os.environ, "LOGOS_PARENT_FD": given},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 78
        assert "LOGOS_PARENT_FD" in done.stderr
        assert "Traceback" not in done.stderr

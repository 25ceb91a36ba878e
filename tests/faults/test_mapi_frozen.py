"""Frozen processes (SIGSTOP): an app that stops reading harms no other, a hanging kernel is noticed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from logos_client.events import (
    ConnectionStatusChange,
    LinkLost,
    MessagePropagated,
    MessageReceived,
    MessagesMissed,
)
from logos_client.kernel import KernelClient
from logos_client.messaging import MessagingClient
from tests.support.aio import asyncio_test
from tests.support.app_process import AppProcess
from tests.support.kernel_process import eventually, short_directory
from tests.support.load import Load
from tests.support.nodes import TOPIC, Node, drain, node_with_sender, single_node, wait_for
from tests.support.recorder import Recorder

pytestmark = pytest.mark.integration

LARGE = 140 * 1024
EPHEMERAL_MAX = 4 << 20
MIB = 1 << 20


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(psutil.Process(pid).memory_info().rss)


async def publish_and_receive(node: Node, reader: MessagingClient, load: Load, count: int) -> None:
    """Publish at the load's rate, a few at a time so that a slow machine is not taken for a slow reader; the
    reader gets all of it in order."""
    before = len(load.sent)
    received: list[MessageReceived] = []

    async def receive(up_to: int) -> None:
        while len(received) < up_to:
            event = await reader.next_event(20)
            if isinstance(event, MessageReceived):
                received.append(event)

    for done in range(0, count, 10):
        await asyncio.gather(load.run(10), receive(done + 10))
    assert [event.payload for event in received] == list(load.sent)[before:]


@pytest.mark.parametrize("name", [None, "sleeper"])
@asyncio_test(90)
async def test_a_frozen_app_costs_the_others_nothing(directory: Path, name: str | None) -> None:
    named = [f"--name={name}"] if name else []
    with single_node(
        directory, mapi_options=(f"--ephemeral-max-bytes={EPHEMERAL_MAX}", "--journal-max-bytes=64MiB")
    ) as node:
        await node.mapi.ready()
        async with (
            MessagingClient.connect(node.run) as reader,
            KernelClient.connect(node.run) as kernel,
        ):
            await reader.subscribe(TOPIC)
            load = Load(kernel, rate=60, size=LARGE)
            await publish_and_receive(node, reader, load, 60)
            with AppProcess(node.directory, directory / "app.jsonl", *named) as app:
                app.signal(signal.SIGSTOP)
                before = memory(node.mapi.pid)
                await publish_and_receive(node, reader, load, 180)
                grown = memory(node.mapi.pid) - before
                app.signal(signal.SIGCONT)
                wanted = [payload[:16].decode() for payload in list(load.sent)[60:]]
                await asyncio.to_thread(eventually, lambda: heads(app)[-1:] == wanted[-1:])
                if name:
                    assert heads(app) == wanted, "a named app reads its journal"
                    assert app.of("EventsDropped") == []
                else:
                    assert dropped(app) > 0
                    assert dropped(app) + len(heads(app)) == len(wanted), "what is gone is reported"
            # 180 messages are 25 MiB. What may stay of them in memory: the app's credit (2 MiB), its stream's
            # bound, and what the allocator keeps.
            assert grown < 24 * MIB, grown


def heads(app: AppProcess) -> list[str]:
    return [line["head"] for line in app.of("MessageReceived")]


def dropped(app: AppProcess) -> int:
    """Return how many events were reported to the app as gone; none of them came."""
    gone: set[int] = set()
    for line in app.of("EventsDropped"):
        assert line["last"] == line["seq"]
        gone |= set(range(line["first"], line["last"] + 1))
    assert not gone & {line["seq"] for line in app.of("MessageReceived")}
    return len(gone)


@asyncio_test(90)
async def test_a_frozen_app_with_endless_credit_is_bounded_too(directory: Path) -> None:
    with single_node(directory, mapi_options=(f"--ephemeral-max-bytes={EPHEMERAL_MAX}",)) as node:
        await node.mapi.ready()
        async with MessagingClient.connect(node.run) as reader, KernelClient.connect(node.run) as kernel:
            await reader.subscribe(TOPIC)
            load = Load(kernel, rate=200, size=LARGE)
            await publish_and_receive(node, reader, load, 20)
            with AppProcess(node.directory, directory / "app.jsonl", f"--credit={1 << 50}") as app:
                app.signal(signal.SIGSTOP)
                before = memory(node.mapi.pid)
                await publish_and_receive(node, reader, load, 600)  # 82 MiB
                grown = memory(node.mapi.pid) - before
                app.signal(signal.SIGCONT)
                last = list(load.sent)[-1][:16].decode()
                await asyncio.to_thread(eventually, lambda: heads(app)[-1:] == [last])
                assert dropped(app) > 0
                assert dropped(app) + len(heads(app)) == 600
            assert grown < 64 * MIB, grown


@asyncio_test(90)
async def test_a_hung_kernel_is_noticed_and_found_again(directory: Path) -> None:
    with node_with_sender(directory) as (node, sender):
        await node.mapi.ready()
        async with (
            Recorder(node.directory, "alice") as alice,
            MessagingClient.connect(node.run) as bob,
            KernelClient.connect(sender) as kernel,
        ):
            await alice.subscribed(TOPIC)
            await bob.subscribe(TOPIC)
            load = Load(kernel, rate=50)
            await load.run(10)
            assert node.kernel.process is not None
            node.kernel.process.send_signal(signal.SIGSTOP)
            lost = await wait_for(bob, ConnectionStatusChange, lambda e: e.status == "Disconnected")
            assert "does not answer" in lost.reason
            assert (await node.mapi.health())["state"] == "NOT_READY", "its own control answers all the time"
            await bob.send(TOPIC, b"accepted while the kernel hangs")
            await load.run(10)  # the sender's node does not know yet
            node.kernel.process.send_signal(signal.SIGCONT)
            expected = {ConnectionStatusChange, MessagePropagated}
            while expected:  # in either order
                expected.discard(type(await bob.next_event(20)))
            assert (await bob.status()).connection == "PartiallyConnected"
            await load.run(10)
            await alice.until(lambda: set(load.sent) <= set(alice.payloads))
            alice.check_names()
            assert alice.missed == [], "it hung shorter than its peers and its lease bear"
            assert not [e for e in await drain(bob, 0.2) if isinstance(e, LinkLost | MessagesMissed)]


@asyncio_test(60)
async def test_a_frozen_app_that_was_given_up_comes_back(directory: Path) -> None:
    """After 30 s of silence the connection is closed; here its process dies instead, frozen as it is."""
    with single_node(directory) as node:
        await node.mapi.ready()
        with AppProcess(node.directory, directory / "app.jsonl", "--name=alice") as app:
            app.signal(signal.SIGSTOP)
            async with Recorder(node.directory, "alice", takeover=True) as second:
                await second.until(lambda: second.hellos)
                node.kernel.dealer().code("relay.publish", {"content_topic": TOPIC}, os.urandom(LARGE))
                await second.until(lambda: len(second.payloads) == 1)
                app.signal(signal.SIGCONT)
                await asyncio.to_thread(eventually, lambda: app.count("TakenOver") == 1)
                assert app.count("MessageReceived") == 0

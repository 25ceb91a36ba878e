"""kill -9 under load: of the Messaging API, of the kernel, of an app, of both, of the whole host.

What must hold: a message to a subscribed named app is delivered, or lies in a range reported as missing; it
comes again only under the same (stream id, seq).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipc_schema.mapi.events import ConnectionStatusChange, MessageError, MessagePropagated
from logos_client.events import EventsDropped, LinkRestored, MessageReceived, MessagesMissed
from logos_client.kernel import KernelClient
from logos_client.kernel_events import KernelMessage
from logos_client.messaging import MessagingClient
from tests.support.aio import asyncio_test
from tests.support.app_process import AppProcess
from tests.support.kernel_process import KernelProcess, eventually, short_directory
from tests.support.load import Load
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import TOPIC, drain, node_with_sender, wait_for, wait_status
from tests.support.recorder import Recorder

pytestmark = pytest.mark.integration


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def uncovered(load: Load, app: Recorder) -> list[bytes]:
    """Messages that were neither delivered nor lie in a range reported as missing."""
    received = set(app.payloads)
    return [
        payload
        for payload, stamp in load.sent.items()
        if payload not in received and not any(r.from_ns <= stamp <= r.to_ns for r in app.missed)
    ]


def instances(app: Recorder) -> int:
    """How many Messaging APIs the app has greeted."""
    return len({hello.instance for hello in app.hellos})


@asyncio_test(90)
async def test_mapi_killed_under_load_loses_nothing_and_reports_nothing(directory: Path) -> None:
    with node_with_sender(directory) as (node, sender):
        await node.mapi.ready()
        async with (
            Recorder(node.directory, "alice", ack_every=50) as alice,
            MessagingClient.connect(node.run, name="bob") as bob,
            KernelClient.connect(sender) as kernel,
        ):
            await alice.subscribed(TOPIC)
            assert await bob.subscribe(TOPIC) == {}
            load = Load(kernel)
            publishing = asyncio.create_task(load.run(600))
            for lives, number in enumerate((150, 350), start=1):
                await load.reached(number)
                await alice.until(lambda: instances(alice) == lives)  # noqa: B023 (awaited in this round)
                node.mapi.kill()
                node.mapi.start()
            await publishing
            await alice.until(lambda: set(alice.payloads) == set(load.sent))
            assert alice.missed == []
            alice.check_names()
            await alice.until(lambda: instances(alice) == 3)
            assert len({hello.stream.id for hello in alice.hellos}) == 1

            events = await drain(bob, 1.0)
            received = [event.payload for event in events if isinstance(event, MessageReceived)]
            assert sorted(received) == sorted(load.sent), "each once: the client knows repeats"
            assert not [e for e in events if isinstance(e, MessagesMissed | EventsDropped)]
            assert all(event.resumed for event in events if isinstance(event, LinkRestored))


@asyncio_test(90)
async def test_a_kernel_killed_under_load_delivers_or_reports_missing_by_range(directory: Path) -> None:
    with node_with_sender(directory) as (node, sender):
        await node.mapi.ready()
        async with (
            Recorder(node.directory, "alice", ack_every=50) as alice,
            KernelClient.connect(sender) as kernel,
        ):
            await alice.subscribed(TOPIC)
            load = Load(kernel)
            publishing = asyncio.create_task(load.run(1_200))
            await load.reached(200)
            assert node.kernel.process is not None
            node.kernel.process.kill()
            node.kernel.process.wait()
            await alice.until(lambda: statuses(alice)[-1:] == ["Disconnected"])
            reason = [e.reason for e, _ in alice.events if isinstance(e, ConnectionStatusChange)][-1]
            assert reason.startswith("kernel"), reason
            request_id = os.urandom(16)
            send = {"request_id": request_id, "content_topic": TOPIC, "meta": b""}
            await alice.connection.request("send", send, [b"accepted without a kernel"])
            # The sender offers what it sent in its last three heartbeats to a peer that comes back.
            await publishing
            node.kernel.launch()
            await alice.until(lambda: statuses(alice)[-1] == "PartiallyConnected")
            await alice.subscribed(TOPIC)
            await load.run(20)
            await alice.until(lambda: set(list(load.sent)[-20:]) <= set(alice.payloads))
            await alice.until(lambda: not uncovered(load, alice))
            assert set(alice.payloads) != set(load.sent), "nothing was lost: then this test tested nothing"
            assert all(event.content_topics == (TOPIC,) for event in alice.missed)
            assert [event.reason for event in alice.missed] == ["kernel restarted"]
            assert await fate(alice, request_id) is MessagePropagated
            alice.check_names()


def statuses(app: Recorder) -> list[str]:
    return [event.status for event, _ in app.events if isinstance(event, ConnectionStatusChange)]


async def fate(app: Recorder, request_id: bytes) -> type:
    """What became of a send."""

    def fates() -> list[type]:
        return [
            type(event)
            for event, _ in app.events
            if isinstance(event, MessagePropagated | MessageError) and event.request_id == request_id
        ]

    await app.until(fates)
    return fates()[0]


@asyncio_test(90)
async def test_sends_under_way_when_the_kernel_is_killed_all_propagate_once(directory: Path) -> None:
    """Propagated says that the kernel gave a message to its peer's connection: what it took with it from
    there when it died is for the confirmation by stores. Everything else must have arrived, once."""
    with node_with_sender(directory) as (node, peer):
        await node.mapi.ready()
        async with (
            MessagingClient.connect(node.run) as app,
            KernelClient.connect(peer) as kernel,
            kernel.events(shards=[0]) as feed,
        ):
            await app.subscribe(TOPIC)
            await wait_status(app)
            payloads = [b"%04d" % number for number in range(300)]
            request_ids = {os.urandom(16): payload for payload in payloads}
            sending = [
                asyncio.create_task(app.send(TOPIC, payload, request_id=request_id))
                for request_id, payload in request_ids.items()
            ]
            fates = [await wait_for(app, MessagePropagated)]
            assert node.kernel.process is not None
            node.kernel.process.kill()
            node.kernel.process.wait()
            node.kernel.launch()
            await asyncio.gather(*sending)
            given: set[bytes] = set()
            while len(fates) < len(request_ids):
                event = await app.next_event(40)
                assert not isinstance(event, MessageError)
                if isinstance(event, ConnectionStatusChange) and event.status == "Disconnected":
                    given = {request_ids[fate.request_id] for fate in fates}
                elif isinstance(event, MessagePropagated):
                    fates.append(event)
            assert {fate.request_id for fate in fates} == set(request_ids)
            got: list[bytes] = []
            while not set(payloads) - given <= set(got):
                message = await feed.next_event(30)
                if isinstance(message, KernelMessage):
                    got.append(message.payload)
            assert len(got) == len(set(got))
            assert not [e for e in await drain(app, 0.5) if isinstance(e, MessagePropagated | MessageError)]


@asyncio_test(90)
async def test_kernel_and_mapi_killed_at_once(directory: Path) -> None:
    with node_with_sender(directory) as (node, sender):
        await node.mapi.ready()
        async with (
            Recorder(node.directory, "alice", ack_every=50) as alice,
            KernelClient.connect(sender) as kernel,
        ):
            await alice.subscribed(TOPIC)
            load = Load(kernel)
            publishing = asyncio.create_task(load.run(500))
            await load.reached(200)
            assert node.kernel.process is not None
            node.kernel.process.kill()
            node.mapi.kill()
            node.kernel.process.wait()
            node.mapi.start()
            node.kernel.launch()
            await publishing
            await alice.subscribed(TOPIC)
            await load.run(20)
            await alice.until(lambda: set(list(load.sent)[-20:]) <= set(alice.payloads))
            await alice.until(lambda: not uncovered(load, alice))
            alice.check_names()


@asyncio_test(90)
async def test_an_app_killed_under_load_resumes_after_its_last_ack(directory: Path) -> None:
    with node_with_sender(directory) as (node, sender):
        await node.mapi.ready()
        async with KernelClient.connect(sender) as kernel, Recorder(node.directory) as other:
            app = AppProcess(node.directory, directory / "app.jsonl", "--name=alice")
            with app:
                await other.subscribed(TOPIC)
                load = Load(kernel)
                publishing = asyncio.create_task(load.run(500))
                for number in (150, 300):
                    await load.reached(number)
                    app.kill()
                    await asyncio.to_thread(app.start)
                await publishing
                heads = {payload[:16].decode() for payload in load.sent}
                await asyncio.to_thread(
                    eventually, lambda: {line["head"] for line in app.of("MessageReceived")} == heads
                )
            names: dict[str, tuple[str, int]] = {}
            starts = []
            seq = 0
            for line in app.lines():
                if line["kind"] == "ready":
                    starts.append(line)
                    seq = -1
                    continue
                if line["kind"] == "MessageReceived":
                    name = (line["stream"], line["seq"])
                    assert names.setdefault(line["head"], name) == name
                if len(starts) > 1 and seq < 0:
                    assert line["seq"] == starts[-1]["acked"] + 1, "the first one is the one after the ack"
                seq = line["seq"]
            assert len(starts) == 3
            assert len({start["stream"] for start in starts}) == 1
            assert 0 < starts[1]["acked"] <= starts[2]["acked"]
            for kind in ("EventsDropped", "MessagesMissed"):
                assert app.of(kind) == []


@asyncio_test(90)
async def test_a_host_that_went_down_goes_on_where_it_was(directory: Path) -> None:
    """Everything at once, the app too; then all of it again, the Messaging API first."""
    request_id = os.urandom(16)
    kernel, mapi = KernelProcess(directory / "n"), MapiProcess(directory / "n")
    with kernel, mapi:
        await mapi.ready()
        async with Recorder(mapi.data_dir, "alice") as alice:
            await alice.subscribed(TOPIC, mesh=False)
            send = {"request_id": request_id, "content_topic": TOPIC, "meta": b""}
            await alice.connection.request("send", send, [b"accepted without peers"])
            await alice.until(lambda: alice.payloads == [b"accepted without peers"])
            await alice.ask("ack", stream=alice.hellos[0].stream.id, seq=alice.events[-1][0].seq)
            assert kernel.process is not None
            kernel.process.kill()
            mapi.kill()
            kernel.process.wait()
        mapi.start()
        async with Recorder(mapi.data_dir, "alice") as alice:
            await alice.until(lambda: alice.hellos)
            assert alice.hellos[0].subscriptions == (TOPIC,), "known without a kernel"
            with KernelProcess(directory / "s", "--shard=0") as peer:
                kernel.launch()
                await mapi.ready()
                kernel.dealer().ok("peers.connect", {"addresses": [peer.address()]})
                assert await fate(alice, request_id) is MessagePropagated
                await alice.subscribed(TOPIC)
                peer.dealer().ok("relay.publish", {"content_topic": TOPIC}, b"after")
                await alice.until(lambda: b"after" in alice.payloads)
                assert b"accepted without peers" not in alice.payloads, "it was acknowledged"

"""Reliable channels through deaths, absences and wrong keys; real processes throughout."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from logos_client.blocking import MessagingClient as BlockingMessagingClient
from logos_client.events import ChannelMessageLost, ChannelMessageReceived, MessageReceived
from logos_client.exceptions import BadRequestError
from logos_client.messaging import MessagingClient
from tests.integration.test_mapi_channels import FAST, delivered, events_until, of, open_channel, payloads
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import TOPIC, Node, node_pair, single_node

pytestmark = pytest.mark.integration

Hook = Callable[[bytes], bytes]
NAMES = ("alice", "bob", "carol")


@contextmanager
def three_nodes(directory: Path, *store: str) -> Iterator[list[Node]]:
    """Alice's kernel is dialled by the two others. `store`: further options of carol's."""
    with KernelProcess(directory / "alice") as first:
        dial = f"--staticnode={first.address()}"
        with (
            KernelProcess(directory / "bob", dial) as second,
            KernelProcess(directory / "carol", dial, f"--staticnode={second.address()}", *store) as third,
            MapiProcess(directory / "alice", *FAST) as a,
            MapiProcess(directory / "bob", *FAST) as b,
            MapiProcess(directory / "carol", *FAST) as c,
        ):
            pairs = zip(NAMES, (first, second, third), (a, b, c), strict=True)
            yield [Node(directory / name, kernel, mapi) for name, kernel, mapi in pairs]


@asyncio_test(240)
async def test_any_process_may_be_killed_under_load(tmp_path: Path) -> None:
    each = 40
    with three_nodes(tmp_path) as nodes:
        async with AsyncExitStack() as stack:
            apps: list[MessagingClient] = []
            for node, name in zip(nodes, NAMES, strict=True):
                apps.append(await stack.enter_async_context(await open_channel(node, name, sender_id=name)))

            async def talk(app: MessagingClient) -> None:
                for number in range(each):
                    await app.send_to_channel("room", f"{app.name} {number}".encode(), timeout=60)
                    await asyncio.sleep(0.05)

            async def listen(app: MessagingClient) -> list[bytes]:
                return await payloads(app, (len(apps) - 1) * each)

            async def kill() -> None:
                for node, what in ((1, "mapi"), (2, "kernel"), (0, "mapi"), (1, "kernel"), (2, "mapi")):
                    await asyncio.sleep(0.4)
                    if what == "mapi":
                        nodes[node].mapi.kill()
                        nodes[node].mapi.start()
                    else:
                        nodes[node].kernel.stop(signal.SIGKILL)
                        nodes[node].kernel.launch()

            async with asyncio.TaskGroup() as group:
                heard = [group.create_task(listen(app)) for app in apps]
                for app in apps:
                    group.create_task(talk(app))
                group.create_task(kill())
            for app, task in zip(apps, heard, strict=True):
                found = [payload.decode() for payload in task.result()]
                assert max(Counter(found).values()) == 1
                for name in NAMES:
                    if name != app.name:
                        own = [text for text in found if text.startswith(name)]
                        assert own == [f"{name} {number}" for number in range(each)]


@pytest.mark.parametrize("store", [(), ("--store=true", "--shard=0")], ids=["no store", "store"])
@asyncio_test(180)
async def test_who_was_away_gets_all_of_it_in_order(tmp_path: Path, store: tuple[str, ...]) -> None:
    """The others have acknowledged everything meanwhile: nothing is sent again by itself."""
    with three_nodes(tmp_path, *store) as nodes:
        async with (
            await open_channel(nodes[0], "alice") as alice,
            await open_channel(nodes[2], "carol") as carol,
        ):
            async with await open_channel(nodes[1], "bob") as bob:
                first = await alice.send_to_channel("room", b"0")
                assert await payloads(bob, 1) == await payloads(carol, 1) == [b"0"]
                await delivered(alice, {first})
            nodes[1].mapi.kill()
            nodes[1].kernel.stop(signal.SIGKILL)
            sent = {await alice.send_to_channel("room", b"%d" % number) for number in range(1, 5)}
            assert len(await payloads(carol, 4)) == 4
            await delivered(alice, sent)
            nodes[1].kernel.start()
            nodes[1].mapi.start()
            async with MessagingClient.connect(nodes[1].run, name="bob") as bob:
                assert await payloads(bob, 4) == [b"%d" % number for number in range(1, 5)]


@asyncio_test(120)
async def test_only_who_has_a_key_reads_it(tmp_path: Path) -> None:
    key, other = os.urandom(32), os.urandom(32)
    with node_pair(tmp_path, mapi_options=FAST) as nodes:
        async with (
            await open_channel(nodes[0], "alice", keys=[key]) as alice,
            await open_channel(nodes[1], "bob", keys=[other, key]) as bob,
            await open_channel(nodes[1], "mallory", keys=[other]) as mallory,
            await open_channel(nodes[1], "eve") as eve,
        ):
            await eve.subscribe(TOPIC)
            secret = b"a secret for two"
            request = await alice.send_to_channel("room", secret)
            assert await payloads(bob, 1) == [secret]
            await delivered(alice, {request})
            (lost, *_) = of(
                ChannelMessageLost,
                await events_until(mallory, lambda found: bool(of(ChannelMessageLost, found))),
            )
            assert lost.reason.startswith("decryption failed: ")
            seen = await events_until(eve, lambda found: bool(of(MessageReceived, found)))
            assert all(secret not in event.payload for event in of(MessageReceived, seen))
            assert all(secret not in event.payload for event in of(ChannelMessageReceived, seen))


@asyncio_test(90)
async def test_keys_are_kept_only_if_the_app_wants_it(tmp_path: Path) -> None:
    kept, given = os.urandom(32), os.urandom(32)
    with single_node(tmp_path, mapi_options=FAST) as node:
        await node.mapi.ready()
        async with MessagingClient.connect(node.run, name="alice") as alice:
            await alice.create_channel("kept", TOPIC, keys=[kept], keep_keys=True)
            await alice.create_channel("given", TOPIC, keys=[given])
            await alice.send_to_channel("given", b"x")
        node.mapi.kill()
        files = b"".join(path.read_bytes() for path in sorted(node.directory.glob("mapi.sqlite3*")))
        assert kept in files
        assert given not in files
        node.mapi.start()
        await node.mapi.ready()
        async with MessagingClient.connect(node.run, name="alice") as alice:
            assert {one.channel_id: (one.open, one.locked) for one in await alice.channels()} == {
                "kept": (True, False),
                "given": (False, True),
            }
            with pytest.raises(BadRequestError, match="channel is locked"):
                await alice.send_to_channel("given", b"y")
            with pytest.raises(BadRequestError, match="its keys are needed"):
                await alice.create_channel("given", TOPIC)
            await alice.create_channel("given", TOPIC, keys=[given])
            assert (await alice.channel_status("given")).unacknowledged == 1
        assert given.hex() not in node.mapi.logged()
        assert kept.hex() not in node.mapi.logged()


@asyncio_test(120)
async def test_hooks_through_the_deaths_of_messaging_api_and_app(tmp_path: Path) -> None:
    """Each segment of the payload is opened by the app, whose process and whose node die in between."""
    payload, opened = os.urandom(1 << 20), 0
    with node_pair(tmp_path, mapi_options=FAST) as nodes:

        def seal(segment: bytes) -> bytes:
            return os.urandom(8) + segment[::-1]

        def unseal(sealed: bytes) -> bytes:
            return sealed[8:][::-1]

        def open_until_death(sealed: bytes) -> bytes:
            nonlocal opened
            opened += 1
            if opened == 4:
                nodes[1].mapi.kill()
                nodes[1].mapi.start()
            if opened == 8:
                reading.cancel()  # it never gives this one back
            return unseal(sealed)

        async with await open_channel(nodes[0], "alice", hooks=True) as alice:
            await alice.set_channel_encryption("room", seal, unseal)
            bob = await open_channel(nodes[1], "bob", hooks=True)
            await bob.set_channel_encryption("room", seal, open_until_death)
            reading = asyncio.create_task(payloads(bob, 1))
            request = await alice.send_to_channel("room", payload)
            assert await alice.send_to_channel("room", payload, request_id=request) == request
            with pytest.raises(asyncio.CancelledError):
                await reading
            await bob.close()
            assert opened == 8
            await delivered(alice, {request})
            assert await asyncio.to_thread(_read_and_answer, nodes[1].run, seal, unseal) == payload
            assert await payloads(alice, 1) == [b"answer"]
            await alice.set_channel_encryption("room", _refuse, _refuse)
            with pytest.raises(BadRequestError, match="encryption failed: no key"):
                await alice.send_to_channel("room", b"secret")
            await alice.clear_channel_encryption("room")
            with pytest.raises(BadRequestError, match="encryption failed: the app encrypts"):
                await alice.send_to_channel("room", b"secret")


def _refuse(_data: bytes) -> bytes:
    raise ValueError("no key")


def _read_and_answer(run: Path, seal: Hook, unseal: Hook) -> bytes:
    """The next payload of the channel; with the blocking client."""
    with BlockingMessagingClient.connect(run, name="bob") as bob:
        bob.set_channel_encryption("room", seal, unseal)
        while not isinstance(event := bob.next_event(60), ChannelMessageReceived):
            pass
        bob.send_to_channel("room", b"answer")
        return event.payload

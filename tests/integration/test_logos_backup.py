"""`logos backup` of a node that runs, and `logos restore`: what comes back, and under which numbers."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from logos_client.events import LinkRestored, MessageReceived
from logos_client.exceptions import NoPeersError
from logos_client.kernel import KernelClient
from logos_client.messaging import MessagingClient
from logos_deploy.exits import Exit
from tests.integration.logos_node import LogosUp, logos, short_directory
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess

pytestmark = pytest.mark.integration

TOPIC = "/test/1/chat/plain"


def app_of(node: LogosUp, name: str) -> dict[str, Any]:
    found = json.loads(logos("apps", "--json", "--data-dir", str(node.data_dir)).stdout)
    (app,) = [one for one in found["apps"] if one["name"] == name]
    return dict(app)


def endpoint(node: LogosUp) -> str:
    return f"ipc://{node.data_dir}/run/mapi/apps"


async def take(client: MessagingClient, *payloads: bytes) -> set[tuple[bytes, int]]:
    """Wait for these messages. Return the numbers of their events."""
    numbers = {}
    async for event in client:
        if isinstance(event, MessageReceived):
            numbers[event.payload] = (event.stream_id, event.seq)
            if set(payloads) <= numbers.keys():
                return {numbers[payload] for payload in payloads}
    raise AssertionError("the stream has ended")


async def publish(peer: KernelProcess, *payloads: bytes) -> None:
    """From another node of the network, as soon as this one is connected to it."""
    async with KernelClient.connect(peer.endpoints) as kernel:
        for payload in payloads:
            while True:
                try:
                    await kernel.publish(TOPIC, payload)
                    break
                except NoPeersError:
                    await asyncio.sleep(0.1)


async def restored(client: MessagingClient) -> LinkRestored:
    async for event in client:
        if isinstance(event, LinkRestored):
            return event
    raise AssertionError("the stream has ended")


@asyncio_test(150)
async def test_no_number_stands_for_two_events_after_a_restore() -> None:
    with short_directory() as directory, KernelProcess(directory / "peer", "--shard=0") as peer:
        options = ("store=true", f"staticnode={peer.address()}")
        node = LogosUp(directory / "n", *options)
        try:
            node.wait_said("the node is ready")
            peer_id = node.status()["kernel"]["info"]["MyPeerId"]
            async with MessagingClient.connect(endpoint(node), name="app") as app:
                await app.subscribe(TOPIC)
                await publish(peer, b"one")
                used = await take(app, b"one")
            copy = directory / "copies" / "monday"
            done = logos("backup", str(copy), "--data-dir", str(node.data_dir))
            assert done.returncode == Exit.OK, done.stderr
            assert logos("restore", str(copy), "--data-dir", str(node.data_dir)).returncode == Exit.IN_USE
            # numbers that the copy does not know of; this app stays, and is there when the node is back
            watcher = await MessagingClient.connect(endpoint(node), name="app").__aenter__()
            await publish(peer, b"two", b"three")
            used |= await take(watcher, b"two", b"three")
            stream = app_of(node, "app")["stream"]
        finally:
            node.close()

        check_copy(copy)
        done = logos("restore", str(copy), "--data-dir", str(node.data_dir), "--json")
        assert done.returncode == Exit.OK, done.stderr
        assert (Path(json.loads(done.stdout)["replaced"]) / "mapi.sqlite3").exists()

        again = LogosUp(node.data_dir, *options)
        try:
            again.wait_said("the node is ready")
            again.wait_said("all app streams get new ids")
            assert again.status()["kernel"]["info"]["MyPeerId"] == peer_id
            event = await restored(watcher)
            assert not event.resumed, "the app is informed"
            assert event.lost_stream is not None
            assert event.lost_stream.hex() == stream
            assert app_of(again, "app")["stream"] != stream
            await publish(peer, b"four")
            assert not await take(watcher, b"four") & used
            await watcher.close()
        finally:
            again.close()


def check_copy(copy: Path) -> None:
    """It is its owner's alone, and what is not it is refused."""
    names = {path.name for path in copy.iterdir()}
    assert {"manifest.json", "nodekey", "mapi.sqlite3", "store.sqlite3"} <= names
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in copy.iterdir()} == {0o600}
    elsewhere = copy.parent / "elsewhere"
    assert logos("backup", str(copy), "--data-dir", str(elsewhere)).returncode == Exit.FAILED
    assert logos("backup", str(copy) + "2", "--data-dir", str(elsewhere)).returncode == Exit.FAILED
    assert logos("restore", str(copy.parent), "--data-dir", str(elsewhere)).returncode == Exit.DATA
    whole = (copy / "nodekey").read_bytes()
    (copy / "nodekey").write_bytes(whole[::-1])
    damaged = logos("restore", str(copy), "--data-dir", str(elsewhere))
    assert (damaged.returncode, "damaged" in damaged.stderr) == (Exit.DATA, True)
    assert not elsewhere.exists()
    (copy / "nodekey").write_bytes(whole)

"""A full disk under a whole node: a clear state, `busy`, nothing acknowledged that is lost, and it goes on
when there is room again.

Twice: on a real small file system where the test may mount one, and with a limit on file sizes, under which
the same calls fail.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from ipc_schema.errors import IpcError
from ipc_schema.mapi.events import MessagePropagated
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess, eventually, short_directory
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import TOPIC
from tests.support.recorder import Recorder

pytestmark = pytest.mark.integration


class Disk(Protocol):
    """Where a Messaging API has its data."""

    path: Path

    def fill(self, mapi: MapiProcess) -> None: ...
    def free(self, mapi: MapiProcess) -> None: ...


class SmallDisk:
    """A file system of 6 MiB."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, mapi: MapiProcess) -> None:
        with (self.path / "ballast").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def free(self, mapi: MapiProcess) -> None:
        (self.path / "ballast").unlink()


class Limit:
    """No file may be written any more."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, mapi: MapiProcess) -> None:
        _, hard = resource.prlimit(mapi.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(mapi.pid, resource.RLIMIT_FSIZE, (0, hard))

    def free(self, mapi: MapiProcess) -> None:
        _, hard = resource.prlimit(mapi.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(mapi.pid, resource.RLIMIT_FSIZE, (hard, hard))


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture(params=["mounted", "limited"])
def disk(request: pytest.FixtureRequest, directory: Path) -> Iterator[Disk]:
    place = directory / "n"
    place.mkdir()
    if request.param == "limited":
        yield Limit(place)
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield SmallDisk(place)
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=20)


async def send(app: Recorder, request_id: bytes, payload: bytes) -> bool:
    """Accepted: whether it was a repeat. Raises IpcError."""
    body = {"request_id": request_id, "content_topic": TOPIC, "meta": b""}
    reply = await app.connection.request("send", body, [payload], timeout=15)
    return bool(reply.body["repeated"])


async def stalled(mapi: MapiProcess, *, is_so: bool = True) -> dict[str, Any]:
    """Wait until the database says that it cannot be written (or can again)."""
    async with asyncio.timeout(15):
        while True:
            health = await mapi.health()
            if (health["database"]["state"] == "stalled") == is_so:
                return health
            await asyncio.sleep(0.05)


@asyncio_test(90)
async def test_a_full_disk_is_said_refused_and_recovered_from(directory: Path, disk: Disk) -> None:
    with (
        KernelProcess(directory / "k") as kernel,
        MapiProcess(disk.path, kernel_dir=directory / "k") as mapi,
    ):
        await mapi.ready()
        publisher = kernel.dealer()
        count = 0

        def publish(number: int) -> None:
            nonlocal count
            for _ in range(number):
                publisher.code("relay.publish", {"content_topic": TOPIC}, b"%05d" % count + bytes(1000))
                count += 1

        async with Recorder(mapi.data_dir, "alice") as alice, Recorder(mapi.data_dir) as reader:
            await alice.subscribed(TOPIC, mesh=False)
            await reader.until(lambda: reader.hellos)
            accepted = {os.urandom(16): b"accepted %d" % number for number in range(20)}
            for request_id, payload in accepted.items():
                assert not await send(alice, request_id, payload)
            publish(20)
            await alice.until(lambda: len(alice.payloads) == 40)
            position = alice.events[19][0]
            await alice.ask("ack", stream=position.stream_id, seq=position.seq)

            disk.fill(mapi)
            publish(20)
            health = await stalled(mapi)
            assert not health["ready"]
            assert health["state"] == "NOT_READY"
            assert health["database"]["reason"]
            refused = os.urandom(16)
            for app, method, body in (
                (alice, "ack", {"stream": position.stream_id, "seq": alice.events[-1][0].seq}),
                (alice, "subscribe", {"topics": ["/other/1/topic/proto"]}),
                (alice, "unsubscribe", {"topics": [TOPIC]}),
                (reader, "forget", {"name": "alice"}),
            ):
                expected = "conflict" if method == "forget" else "busy"
                with pytest.raises(IpcError) as error:
                    await app.ask(method, **body)
                assert error.value.code == expected, method
            for app in (alice, reader):
                with pytest.raises(IpcError) as error:
                    await send(app, refused, b"refused")
                assert error.value.code == "busy"
                assert error.value.retriable
                assert "disk" in error.value.message
            publish(50)
            beats = alice.heartbeats
            await alice.until(lambda: alice.heartbeats >= beats + 2)
            assert len(alice.payloads) == 40, "nothing is delivered that is not on disk"
            assert (await reader.ask("status"))["connection"] == "Disconnected", "what needs no disk goes on"

            disk.free(mapi)
            await stalled(mapi, is_so=False)
            await mapi.ready()
            await alice.until(lambda: len(alice.payloads) == 20 + count)
            assert not await send(alice, refused, b"refused"), "it had not been accepted"
            await alice.until(lambda: b"refused" in alice.payloads)
            assert alice.missed == []
            assert alice.check_names() == 0

            # Full once more; this time it is killed over it.
            disk.fill(mapi)
            publish(20)
            await stalled(mapi)
            mapi.kill()
            if isinstance(disk, SmallDisk):
                disk.free(mapi)
            mapi.start()
            await mapi.ready()
            await alice.until(lambda: len(alice.hellos) == 2)
            assert alice.hellos[1].stream.id == alice.hellos[0].stream.id
            assert alice.hellos[1].stream.acked == position.seq
            for request_id, payload in accepted.items():
                assert await send(alice, request_id, payload), "accepted is on disk"
            numbers = {b"%05d" % number + bytes(1000) for number in range(count)}
            await alice.until(lambda: numbers <= set(alice.payloads))
            assert alice.missed == []
            alice.check_names()
            assert not [event for event, _ in alice.events if isinstance(event, MessagePropagated)]


@asyncio_test(90)
async def test_a_disk_that_is_full_longer_than_a_lease_costs_no_message(directory: Path) -> None:
    """So much waits for the disk that nothing more is read: the kernel's ring keeps it, as long as the lease
    is renewed."""
    disk = Limit(directory / "n")
    with (
        KernelProcess(directory / "k", "--lease-ttl=2s") as kernel,
        MapiProcess(disk.path, kernel_dir=directory / "k") as mapi,
    ):
        await mapi.ready()
        publisher = kernel.dealer()
        async with Recorder(mapi.data_dir, "alice") as alice:
            await alice.subscribed(TOPIC, mesh=False)
            disk.fill(mapi)
            for number in range(300):  # 41 MiB; 16 MiB may wait
                publisher.code(
                    "relay.publish", {"content_topic": TOPIC}, b"%05d" % number + bytes(140 * 1024)
                )
            await stalled(mapi)
            beats = alice.heartbeats
            await alice.until(lambda: alice.heartbeats >= beats + 5)  # 5 s
            disk.free(mapi)
            await alice.until(lambda: len(alice.payloads) == 300)
            assert [int(payload[:5]) for payload in alice.payloads] == list(range(300))
            assert alice.missed == []


def run_limited(module: str, *options: str) -> tuple[int, str]:
    """Run a process that can write no file; its exit code and what it said."""

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        preexec_fn=no_room,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_start_on_a_full_disk_is_refused_with_the_reason(directory: Path) -> None:
    code, said = run_limited("mapi_proc", f"--data-dir={directory}/n")
    assert code == 70
    assert str(directory / "n") in said
    assert "large" in said or "full" in said or "space" in said, said
    assert "Traceback" not in said


def test_a_kernel_that_has_its_key_runs_on_a_full_disk(directory: Path) -> None:
    kernel = KernelProcess(directory / "k")
    with kernel:
        kernel.stop()
        assert kernel.start().control().ok("health")["ready"]
        assert kernel.process is not None
        resource.prlimit(kernel.process.pid, resource.RLIMIT_FSIZE, (0, 0))
        dealer = kernel.dealer()
        dealer.ok("lease.acquire", {"shards": [0]})
        eventually(lambda: dealer.code("relay.publish", {"content_topic": TOPIC}, b"x") == "no_peers")
        assert kernel.control().ok("health")["ready"]

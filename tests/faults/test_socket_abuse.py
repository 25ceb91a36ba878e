"""What a local client can do to the five sockets of a node: neither process may end, or stop serving others.

The clients are processes of their own and speak to the sockets below libzmq.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from ipc_schema.paths import MapiEndpoints, kernel_endpoints, mapi_endpoints
from tests.support.kernel_process import Dealer, KernelProcess, short_directory
from tests.support.mapi_process import AppDealer, MapiProcess

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
FEW_FILES = ("sh", "-c", 'ulimit -n 400; exec "$@"', "sh")
SOCKETS = ["events", "requests", "kernel control", "apps", "mapi control"]

MANY = """
import errno, socket, sys, time
kept = []
end = time.monotonic() + 20
while len(kept) < 1500 and time.monotonic() < end:
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    try:
        client.connect(sys.argv[1])
    except OSError as error:
        client.close()
        assert error.errno in (errno.EAGAIN, errno.ECONNREFUSED), error
        time.sleep(0.0005)
        continue
    kept.append(client)
print(len(kept), flush=True)
sys.stdin.read()
"""

UNFINISHED = """
import socket, sys, time
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
kind = sys.argv[2].encode()
ready = b"\\x05READY\\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
client.sendall(b"\\xff" + bytes(8) + b"\\x7f\\x03\\x00NULL" + bytes(48))
client.sendall(b"\\x04" + bytes([len(ready)]) + ready)
answer = b""
while b"READY" not in answer:
    answer += client.recv(256)
block = (b"\\x03" + (4096).to_bytes(8, "big") + bytes(4096)) * 16
pause = float(sys.argv[3])
sent = 0
try:
    while True:
        client.sendall(block)
        sent += len(block)
        time.sleep(pause)
except OSError:
    print(sent, flush=True)
"""

STRANGER = """
import os, sys
sys.path[:0] = [sys.argv[1]]
import zmq
os.setgroups([65534]); os.setgid(65534); os.setuid(65533)
context = zmq.Context()
reader = context.socket(zmq.SUB)
reader.subscribe(b"")
askers = [(context.socket(zmq.DEALER), each) for each in sys.argv[3:]]
for socket, endpoint in ((reader, sys.argv[2]), *askers):
    monitor = socket.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED
    )
    socket.connect(endpoint)
    for _ in range(2):  # let in by the file system, and turned away
        assert monitor.poll(10_000), endpoint
        event = int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder)
        assert event != zmq.EVENT_HANDSHAKE_SUCCEEDED, endpoint
assert not reader.poll(1500)
print("turned away", flush=True)
os._exit(0)
"""


FRIEND = """
import os, sys
sys.path[:0] = [sys.argv[1]]
import zmq
from ipc_schema.frames import decode_reply, encode_request
os.setgroups([65534]); os.setgid(65534); os.setuid(65533)
context = zmq.Context()
reader = context.socket(zmq.SUB)
reader.subscribe(b"p\\0")
reader.connect(sys.argv[2])
assert reader.poll(10_000)
print("read", flush=True)
for endpoint in sys.argv[3:]:
    asker = context.socket(zmq.DEALER)
    asker.connect(endpoint)
    asker.send_multipart(encode_request(bytes(16), "health"))
    assert asker.poll(10_000), endpoint
    error = decode_reply(asker.recv_multipart()).error
    assert error is None or error.code == "not_ready", (endpoint, error)
    print("served", flush=True)
os._exit(0)
"""


@dataclass
class Target:
    """A kernel and a Messaging API, and ways to ask each of their sockets."""

    kernel: KernelProcess
    mapi: MapiProcess
    apps: MapiEndpoints
    context: zmq.Context[zmq.Socket[bytes]]

    def endpoint(self, name: str) -> str:
        return {
            "events": self.kernel.endpoints.events,
            "requests": self.kernel.endpoints.requests,
            "kernel control": self.kernel.endpoints.control,
            "apps": self.apps.apps,
            "mapi control": self.apps.control,
        }[name]

    def pid(self, name: str) -> int:
        assert self.kernel.process is not None
        return self.mapi.pid if name in ("apps", "mapi control") else self.kernel.process.pid

    def serves(self, name: str) -> bool:
        """Whether a new client is served, within the patience of a client."""
        if name == "events":
            reader = self.kernel.subscriber(b"p\0")
            try:
                return reader.heartbeat() is not None
            finally:
                reader.close()
        dealer = (AppDealer if name == "apps" else Dealer)(self.context, self.endpoint(name))
        try:
            if name == "apps":
                dealer.ok("hello", {"kind": "app", "protocol": [1, 1]})
                return dealer.ok("goodbye") == {}
            if name == "requests":
                return bool(dealer.hello())
            return "ready" in dealer.ok("health")
        finally:
            dealer.close()


@contextmanager
def node(path: Path, *options: str, constants: dict[str, float] | None = None) -> Iterator[Target]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    few = FEW_FILES
    with (
        KernelProcess(path / "k", "--shard=0", *options, through=few, constants=constants) as kernel,
        MapiProcess(path / "m", *options, kernel_dir=path / "k", through=few, constants=constants) as mapi,
    ):
        try:
            asyncio.run(mapi.ready())
            yield Target(kernel, mapi, mapi_endpoints(mapi.run_dir), context)
            assert kernel.process is not None
            assert kernel.process.poll() is None, kernel.log.read_text()
            assert mapi.stop() == 0
        finally:
            context.destroy(linger=0)


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with short_directory() as path, node(path) as target:
        yield target


def resident(pid: int, key: str = "VmRSS") -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


@pytest.mark.parametrize("name", SOCKETS)
def test_a_client_that_connects_without_end(target: Target, name: str) -> None:
    """More often than the process may have files, in one go; others are still served."""
    path = target.endpoint(name).removeprefix("ipc://")
    client = subprocess.Popen(
        [sys.executable, "-c", MANY, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert client.stdout is not None
        assert int(client.stdout.readline()) > 400
        for each in SOCKETS:
            assert target.serves(each), each
    finally:
        client.communicate()
    assert target.serves(name)


def unfinished(path: str, name: str, pause: float) -> list[str]:
    """The command that sends frames of a message without end: 64 KiB, a pause, and so on."""
    return [
        sys.executable,
        "-c",
        UNFINISHED,
        path,
        "SUB" if name == "events" else "DEALER",
        str(pause),
    ]


@pytest.mark.parametrize("name", SOCKETS)
def test_a_message_that_never_ends(target: Target, name: str) -> None:
    path, pid = target.endpoint(name).removeprefix("ipc://"), target.pid(name)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM counts from here
    before = resident(pid)
    client = subprocess.run(
        unfinished(path, name, 0.0),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(client.stdout) > 0
    assert resident(pid, "VmHWM") - before < 1 << 30
    for each in SOCKETS:
        assert target.serves(each), each


def test_a_message_that_grows_slowly_and_never_ends() -> None:
    """At all sockets at once, each below what is fast; they are closed, and clients that finish are not."""
    memory = "logos_sockets.memory"
    constants = {f"{memory}:ALARMING": 24 << 20, f"{memory}:SUSPICIOUS": 1 << 40, f"{memory}:_PATIENCE": 4.0}
    constants[f"{memory}:UNBEARABLE"] = 48 << 20
    with short_directory() as path, node(path, constants=constants) as target:
        clients = [
            subprocess.Popen(
                unfinished(target.endpoint(name).removeprefix("ipc://"), name, 0.02), stdout=subprocess.PIPE
            )
            for name in SOCKETS
        ]
        try:
            for client in clients:
                assert int(client.communicate(timeout=60)[0])
        finally:
            for client in clients:
                client.kill()
                client.communicate()
        logged = target.kernel.log.read_text() + target.mapi.logged()
        assert logged.count("it finishes no message") >= len(SOCKETS), logged
        for name in SOCKETS:
            assert target.serves(name), name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_that_is_not_allowed_reads_and_asks_nothing() -> None:
    """A group reaches the sockets; its users have to be allowed besides."""
    with short_directory() as path, node(path, "--ipc-group=65534") as target:
        for directory in (path, path / "k", path / "m", path / "k" / "run", path / "m" / "run"):
            directory.chmod(0o755)
        endpoints = [target.endpoint(name) for name in SOCKETS]
        stranger = subprocess.run(
            [sys.executable, "-c", STRANGER, str(ROOT), *endpoints],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert stranger.stdout.strip() == "turned away", stranger.stderr
        for name in SOCKETS:
            assert target.serves(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_of_the_group_that_is_allowed_is_served() -> None:
    """The sockets lie outside the data directories, which stay closed to the group."""
    with short_directory() as path:
        path.chmod(0o711)
        options = ("--ipc-group=65534", "--allowed-uid=65533", f"--ipc-dir={path}/run")
        kernel = KernelProcess(path / "k", "--shard=0", *options)
        kernel.endpoints = kernel_endpoints(path / "run")
        mapi = MapiProcess(path / "m", *options)
        mapi.run_dir = path / "run"
        with kernel, mapi:
            asyncio.run(mapi.ready())
            apps = mapi_endpoints(path / "run")
            endpoints = [*kernel.endpoints, apps.apps, apps.control]
            friend = subprocess.run(
                [sys.executable, "-c", FRIEND, str(ROOT), *endpoints],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert friend.stdout.split() == ["read", "served", "served", "served", "served"], friend.stderr
            assert (path / "k").stat().st_mode & 0o777 == 0o700

"""NATS servers of a test's own, with JetStream: one, or a cluster on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

DEADLINE = 30.0


def require_nats() -> str:
    """The server's program; skips the test without it, but never in continuous integration."""
    program = shutil.which("nats-server")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("nats-server is not installed")
        pytest.skip("nats-server is not installed (Debian: apt-get install nats-server)")
    return program


def free_ports(count: int) -> list[int]:
    """Ports that are free."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class NatsServer:
    """One server; `with` starts and removes it. `settings`: further lines of its configuration."""

    def __init__(self, name: str = "n1", *settings: str, port: int = 0, monitor: int = 0) -> None:
        self.name = name
        self._program = require_nats()
        self._settings = settings
        first, second = free_ports(2)
        self.port = port or first
        self._monitor = monitor or second
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> NatsServer:
        self.directory = Path(tempfile.mkdtemp(prefix="nats-", dir="/tmp"))
        (self.directory / "conf").write_text(
            "\n".join(
                [
                    f'server_name: "{self.name}"',
                    f'listen: "127.0.0.1:{self.port}"',
                    f'http: "127.0.0.1:{self._monitor}"',
                    f'jetstream {{ store_dir: "{self.directory}/store" }}',
                    *self._settings,
                ]
            )
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    def start(self) -> None:
        """Start it on its directory."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self.directory / "conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE)
            self._process = None

    def signal(self, number: int) -> None:
        """Send a signal. After SIGSTOP, wait until all threads stand still: one may be late."""
        os.kill(self.pid, number)
        end = time.monotonic() + 10
        while number == signal.SIGSTOP and not self._stopped():
            assert time.monotonic() < end, "the server goes on"
            time.sleep(0.005)

    def _stopped(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task").glob("*/stat")
        return all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def _ask(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._monitor}{path}", timeout=5) as answer:
                return json.load(answer)
        except (OSError, urllib.error.URLError):
            return None

    def sent_messages(self, client: str) -> int:
        """How many messages it has sent to the clients of that name, connected or gone."""
        connections = self._ask("/connz?state=any")["connections"]
        return sum(int(one["out_msgs"]) for one in connections if one.get("name") == client)

    def wait_ready(self) -> None:
        """Wait until JetStream works: in a cluster, until it has a leader."""
        deadline = time.monotonic() + DEADLINE
        while (self._ask("/healthz") or {}).get("status") != "ok":
            assert self._process is not None
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)


@contextmanager
def nats_cluster(size: int = 3) -> Iterator[list[NatsServer]]:
    """A cluster of servers that are ready."""
    ports = free_ports(3 * size)
    clients, monitors, routes = ports[:size], ports[size : 2 * size], ports[2 * size :]
    listed = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                NatsServer(
                    f"n{index}",
                    f'cluster {{ name: "c", listen: "127.0.0.1:{routes[index]}", routes: [{listed}] }}',
                    port=clients[index],
                    monitor=monitors[index],
                )
            )
            for index in range(size)
        ]
        for server in servers:
            server.wait_ready()
        yield servers

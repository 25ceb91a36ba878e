"""A gateway process of a test's own, and a plain HTTP client for it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from ipc_schema.paths import gateway_address_file
from tests.integration.logos_node import clean_environment
from tests.support.fork_server import start_module

DEADLINE = 30.0


class Answer(NamedTuple):
    """What a request was answered with."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class SseEvent(NamedTuple):
    """One server-sent event."""

    id: str
    kind: str
    data: Any


class GatewayProcess:
    """`python -m logos_gateway` beside a node whose data directory this is."""

    def __init__(
        self,
        data_dir: Path,
        *arguments: str,
        automatic: bool = True,
        constants: dict[str, float] | None = None,
    ) -> None:
        """`constants`: as in `start_module`."""
        ports = ("--rest-port=0", "--metrics-server-port=0") if automatic else ()
        self._log = data_dir.with_name(f"{data_dir.name}.gateway.log")
        self._run_dir = data_dir / "run"
        gateway_address_file(self._run_dir).unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self.process = start_module(
                "logos_gateway",
                [f"--data-dir={data_dir}", "--rest", "--metrics-server", *ports, *arguments],
                log,
                env=clean_environment(),
                constants=constants,
            )
        self.urls = self._wait_urls()

    def _wait_urls(self) -> dict[str, str]:
        path = gateway_address_file(self._run_dir)
        deadline = time.monotonic() + DEADLINE
        while True:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            if path.exists():
                found: dict[str, Any] = json.loads(path.read_text())
                if found["pid"] == self.process.pid:
                    return found
            time.sleep(0.02)

    def log(self) -> str:
        """Everything that this and earlier gateways of the node wrote."""
        return self._log.read_text(errors="replace")

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        server: str = "rest",
    ) -> Answer:
        """One request. `body`: bytes as they are, anything else as JSON."""
        url = urlsplit(self.urls[server])
        assert url.hostname is not None
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=DEADLINE)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        try:
            connection.request(method, path, data, {**sent, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def wait_for(self, path: str, condition: Any, **options: Any) -> Answer:
        """Ask again until the answer fulfils the condition."""
        deadline = time.monotonic() + DEADLINE
        while True:
            answer = self.request("GET", path, **options)
            if condition(answer):
                return answer
            assert time.monotonic() < deadline, answer
            time.sleep(0.05)

    def events(self, path: str, *, headers: Mapping[str, str] | None = None) -> SseReader:
        """Read server-sent events, inside a `with`."""
        return SseReader(self.urls["rest"], path, headers or {})

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(DEADLINE)

    def close(self) -> int:
        """End it in good order; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SseReader:
    """An event stream."""

    def __init__(self, base: str, path: str, headers: Mapping[str, str]) -> None:
        url = urlsplit(base)
        assert url.hostname is not None
        self._connection = http.client.HTTPConnection(url.hostname, url.port, timeout=DEADLINE)
        self._connection.request("GET", path, headers={"Accept": "text/event-stream", **headers})
        self._response = self._connection.getresponse()
        self.status = self._response.status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        sock: socket.socket | None = self._connection.sock
        if sock is not None:
            sock.close()
        self._response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[SseEvent]:
        event_id, kind, data = "", "message", ""
        while line := self._response.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                event_id = value
            elif name == "event":
                kind = value
            elif name == "data":
                data = value
            elif not name and data:
                yield SseEvent(event_id, kind, json.loads(data))
                event_id, kind, data = "", "message", ""

    def take(self, kind: str, count: int) -> list[SseEvent]:
        """The next `count` events of a kind; others are passed over."""
        found: list[SseEvent] = []
        for event in self:
            if event.kind == kind:
                found.append(event)
                if len(found) == count:
                    break
        assert len(found) == count, found
        return found

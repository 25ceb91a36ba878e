"""A real kernel process and plain blocking sockets to talk to it, for tests."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from ipc_schema.frames import Reply, decode_reply, encode_request
from ipc_schema.kernel.events import Heartbeat, KernelEvent, MessageEvent, decode_header
from ipc_schema.paths import KernelEndpoints, kernel_endpoints
from logos_sockets import DEALER_LINGER_MS
from tests.support.fork_server import ChildProcess, start_module

START_SECONDS = 60.0
REPLY_SECONDS = 60.0

Context = zmq.Context[zmq.Socket[bytes]]


class Dealer:
    """A DEALER that asks and waits. One request at a time, unless `send` and `receive` are used apart."""

    def __init__(self, context: Context, endpoint: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, DEALER_LINGER_MS)
        self.socket.connect(endpoint)

    def send(
        self,
        method: str,
        body: Mapping[str, object] | None = None,
        blobs: Sequence[bytes] = (),
        *,
        budget_ms: int = 0,
        flags: int = 0,
    ) -> bytes:
        """Send a request; returns its correlation id."""
        correlation_id = os.urandom(16)
        self.socket.send_multipart(
            encode_request(correlation_id, method, body, blobs, budget_ms=budget_ms, flags=flags)
        )
        return correlation_id

    def receive(self, seconds: float = REPLY_SECONDS) -> Reply:
        """The next reply; TimeoutError when none comes."""
        return decode_reply(self.frames(seconds))

    def frames(self, seconds: float = REPLY_SECONDS) -> list[bytes]:
        """The next message as it is."""
        if not self.socket.poll(int(seconds * 1000)):
            raise TimeoutError("no reply")
        return self.socket.recv_multipart()

    def ask(self, method: str, body: Mapping[str, object] | None = None, *blobs: bytes) -> Reply:
        """Send and wait."""
        expected = self.send(method, body, blobs)
        reply = self.receive()
        assert reply.correlation_id == expected
        return reply

    def ok(self, method: str, body: Mapping[str, object] | None = None, *blobs: bytes) -> dict[str, Any]:
        """Ask, and expect success."""
        reply = self.ask(method, body, *blobs)
        assert reply.error is None, reply.error
        return reply.body

    def code(self, method: str, body: Mapping[str, object] | None = None, *blobs: bytes) -> str:
        """Ask, and expect an error: its code."""
        error = self.ask(method, body, *blobs).error
        assert error is not None
        return str(error.code)

    def hello(self, name: str | None = None) -> dict[str, Any]:
        """Introduce this connection."""
        body: dict[str, object] = {"kind": "tool", "protocol": [1, 1]}
        return self.ok("hello", body | ({"name": name} if name else {}))

    def close(self) -> None:
        self.socket.close()


class Subscriber:
    """A SUB on the event stream."""

    def __init__(self, context: Context, endpoint: str, *topics: bytes, rcvhwm: int = 0) -> None:
        self.socket = context.socket(zmq.SUB)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, 0)
        self.socket.set(zmq.RCVHWM, rcvhwm)
        for topic in topics:
            self.socket.subscribe(topic)
        self.socket.connect(endpoint)

    def event(self, seconds: float = REPLY_SECONDS) -> tuple[bytes, KernelEvent, bytes]:
        """The next event: topic, decoded header, body."""
        if not self.socket.poll(int(seconds * 1000)):
            raise TimeoutError("no event")
        topic, header, body = self.socket.recv_multipart()
        return topic, decode_header(header), body

    def heartbeat(self, seconds: float = REPLY_SECONDS) -> Heartbeat:
        """The next heartbeat; what comes before it is passed over."""
        end = time.monotonic() + seconds
        while True:
            _, event, _ = self.event(max(0.0, end - time.monotonic()))
            if isinstance(event, Heartbeat):
                return event

    def message(self, seconds: float = REPLY_SECONDS) -> tuple[MessageEvent, bytes]:
        """The next message; heartbeats are passed over."""
        end = time.monotonic() + seconds
        while True:
            _, event, body = self.event(max(0.0, end - time.monotonic()))
            if isinstance(event, MessageEvent):
                return event, body

    def close(self) -> None:
        self.socket.close()


class KernelProcess:
    """`python -m kernel_proc` on loopback with automatic ports. Use it as a context manager."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        context: Context | None = None,
        through: Sequence[str] = (),
        constants: Mapping[str, float] | None = None,
    ) -> None:
        """`through` and `constants`: as in `start_module`."""
        self._constants = constants
        self.directory = directory
        self.options = options
        self._through = through
        self.endpoints: KernelEndpoints = kernel_endpoints(directory / "run")
        self.log = directory.parent / f"{directory.name}.log"
        self._context = context or zmq.Context()
        self._own_context = context is None
        self._sockets: list[Dealer | Subscriber] = []
        self.process: ChildProcess | None = None

    def launch(self) -> ChildProcess:
        """Start the process without waiting for it."""
        arguments = [f"--data-dir={self.directory}", "--tcp-port=0"]
        if not any(option.startswith(("--preset", "--listen-address")) for option in self.options):
            arguments.append("--listen-address=127.0.0.1")  # also where a network is named
        arguments += self.options
        with self.log.open("ab") as log:
            self.process = start_module(
                "kernel_proc", arguments, log, through=self._through, constants=self._constants
            )
        return self.process

    def start(self) -> Self:
        """Start the process and wait until it is ready."""
        self.launch()
        return self.wait_ready()

    def wait_ready(self) -> Self:
        """Wait until the launched process is ready."""
        process = self.process
        assert process is not None
        end = time.monotonic() + START_SECONDS
        control = self.control()
        while True:
            control.send("health")
            try:
                if control.receive(1.0).body["ready"]:
                    control.close()
                    return self
            except TimeoutError:
                control.close()
                control = self.control()
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"kernel did not start: {process.poll()}\n{self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the process and wait for its end; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(10)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for socket in self._sockets:
            socket.close()
        if self._own_context:
            self._context.term()

    # --- talking to it ---

    def control(self) -> Dealer:
        """A new connection to the control socket."""
        return self._keep(Dealer(self._context, self.endpoints.control))

    def dealer(self, name: str | None = None, *, hello: bool = True) -> Dealer:
        """A new connection to the requests socket, introduced unless `hello` is False."""
        dealer = self._keep(Dealer(self._context, self.endpoints.requests))
        if hello:
            dealer.hello(name)
        return dealer

    def subscriber(self, *topics: bytes, rcvhwm: int = 0) -> Subscriber:
        """A new reader of events."""
        subscriber = Subscriber(self._context, self.endpoints.events, *topics, rcvhwm=rcvhwm)
        self._sockets.append(subscriber)
        return subscriber

    def _keep(self, dealer: Dealer) -> Dealer:
        self._sockets.append(dealer)
        return dealer

    def info(self, *ids: str) -> dict[str, Any]:
        """Facts of `node.info`."""
        dealer = self.dealer()
        found: dict[str, Any] = dealer.ok("node.info", {"ids": list(ids)})["info"]
        dealer.close()
        return found

    def address(self) -> str:
        """A multiaddr to dial."""
        addresses: list[str] = self.info("MyMultiaddresses")["MyMultiaddresses"]
        return addresses[0]


@contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory with a short path: socket paths may have 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="lk-") as path:
        yield Path(path)


@contextmanager
def kernels(directory: Path, *options: Sequence[str]) -> Iterator[list[KernelProcess]]:
    """Several kernels, one below each other in `directory`, started one after another."""
    started: list[KernelProcess] = []
    try:
        for number, each in enumerate(options):
            started.append(KernelProcess(directory / f"k{number}", *each))
            started[-1].start()
        yield started
    finally:
        for kernel in started:
            kernel.__exit__(None, None, None)


def eventually(check: Any, seconds: float = 40.0) -> Any:
    """Ask `check` until what it returns is true, and return it; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)

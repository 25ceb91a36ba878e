"""discv5 on UDP sockets, with trio.

Sockets are read and written without waiting: a datagram that does not fit into the system's send buffer is
lost, as UDP permits, and counted. Hence nothing queues up here at any load.
"""

from __future__ import annotations

import logging
import random as random_module
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final, ParamSpec, TypeVar

import trio

from kernel_proc.discovery.discv5.endpoint import UdpEndpoint, contact_of, is_loopback
from kernel_proc.discovery.discv5.engine import Engine, NodeCallbacks
from kernel_proc.discovery.discv5.messages import Pong
from kernel_proc.discovery.discv5.packets import MAX_PACKET
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.table import Added, Node
from kernel_proc.discovery.enr import Enr
from kernel_proc.discovery.enr_local import LocalEnr
from logos_process.logs import fields

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_TURN: Final = 64
"""Datagrams processed per socket before other tasks run."""
_BUFFER: Final = 1 << 20
"""Receive buffer in bytes, for bursts while the event loop is busy elsewhere."""


class Discv5Error(Exception):
    """The request failed: not bound, stopped, or no response."""


class Discv5Service:
    """One discv5 node on one UDP port, over IPv4, IPv6 or both.

    `run` binds and works until it is cancelled or `stop` is called. It can be called again; the table starts
    empty each time. The callbacks run in the trio loop.
    """

    def __init__(
        self,
        local: LocalEnr,
        *,
        listen: Sequence[tuple[str, int]],
        bootstrap: Iterable[Enr] = (),
        params: Params | None = None,
        callbacks: NodeCallbacks | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        """`listen` are IP addresses and ports, at most one per IP version; port 0 picks a free one.

        If no `params` are given, limits per address do not apply to loopback while listening on loopback
        only.
        """
        versions = [UdpEndpoint.of(host, port).version for host, port in listen]
        if not listen or len(set(versions)) != len(versions):
            raise ValueError("discv5 needs one or two listen addresses, at most one per IP version")
        self.local = local
        """Our own record."""
        self._listen = tuple(UdpEndpoint.of(host, port) for host, port in listen)
        self._bootstrap = tuple(bootstrap)
        only_loopback = all(is_loopback(endpoint.host) for endpoint in self._listen)
        self._params = Params(exempt_loopback=only_loopback) if params is None else params
        callbacks = callbacks or NodeCallbacks()
        self._callbacks = NodeCallbacks(
            found=self._contained(callbacks.found, None),
            wanted=self._contained(callbacks.wanted, False),
            external=self._contained(callbacks.external, None),
        )
        self._random = random or random_module.SystemRandom()
        self._walk_pause = self._params.walk_pause
        self._engine: Engine | None = None
        self._sockets: dict[int, socket.socket] = {}
        self.bound: tuple[UdpEndpoint, ...] = ()
        """The bound endpoints; empty while not running."""
        self._wake = trio.Event()
        self._scope: trio.CancelScope | None = None
        self._waiting: set[trio.Event] = set()
        self._before: dict[str, int] = {}
        local.add_listener(lambda _record: self._wake.set())  # announce a changed record
        self._counters = {
            "datagrams_not_sent": 0,
            "bytes_received": 0,
            "bytes_sent": 0,
            "socket_errors": 0,
            "callback_failures": 0,
        }

    # -- state ------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the service is bound and working."""
        return self._engine is not None

    def observed(self, version: int = 4) -> UdpEndpoint | None:
        """Return our endpoint as seen by the majority of other nodes."""
        return None if self._engine is None else self._engine.observed(version)

    def nodes(self) -> list[Node]:
        return [] if self._engine is None else self._engine.table.nodes()

    def has_answered(self, node_id: bytes) -> bool:
        """Return whether this node of the table has answered us at the endpoint in its record."""
        node = None if self._engine is None else self._engine.table.get(node_id)
        return node is not None and node.verified

    def counters(self) -> dict[str, int]:
        """Return monotonic counters by name, over all runs."""
        now = {} if self._engine is None else self._engine.counters()
        names = {**self._before, **now}
        return {name: self._before.get(name, 0) + now.get(name, 0) for name in names} | self._counters

    def gauges(self) -> dict[str, int]:
        """Return current sizes by name; empty while not running."""
        return {} if self._engine is None else self._engine.gauges()

    # -- settings ---------------------------------------------

    def set_bootstrap(self, records: Iterable[Enr]) -> None:
        """Set the boot nodes. Replaces the previous ones."""
        self._bootstrap = tuple(records)
        if self._engine is not None:
            self._engine.set_bootstrap(self._reachable(self._bootstrap), trio.current_time())
            self._acted()

    def add_record(self, record: Enr) -> Added | None:
        """Offer a node learned elsewhere to the table. Return None if it is unreachable or the service is
        not running."""
        if self._engine is None:
            return None
        added = self._engine.add_record(record, trio.current_time())
        self._acted()
        return added

    def set_walk_pause(self, seconds: float) -> None:
        """Set the pause between random walks: short while peers are needed, long otherwise."""
        self._walk_pause = seconds
        if self._engine is not None:
            self._engine.set_walk_pause(seconds, trio.current_time())
            self._acted()

    # -- running ----------------------------------------------

    async def run(
        self, task_status: trio.TaskStatus[tuple[UdpEndpoint, ...]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Bind and work until cancelled or stopped; `task_status` gets the bound endpoints.

        Raise OSError if an address cannot be bound, Discv5Error if already running.
        """
        if self._scope is not None:
            raise Discv5Error("discv5 is already running")
        with trio.CancelScope() as self._scope:
            try:
                self._bind()
                engine = self._start()
                task_status.started(self.bound)
                async with trio.open_nursery() as nursery:
                    for sock in self._sockets.values():
                        nursery.start_soon(self._read, engine, sock)
                    await self._work(engine)
            finally:
                self._close()

    def stop(self) -> None:
        """Make `run` return soon."""
        if self._scope is not None:
            self._scope.cancel()

    def _bind(self) -> None:
        bound: list[UdpEndpoint] = []
        for endpoint in self._listen:
            family = socket.AF_INET if endpoint.version == 4 else socket.AF_INET6
            # With port 0, use the same port for both IP versions if possible.
            shared = bound[0].port if bound and endpoint.port == 0 else 0
            sock = _udp_socket(family, endpoint, shared)
            self._sockets[endpoint.version] = sock
            bound.append(UdpEndpoint.of(*sock.getsockname()[:2]))
        self.bound = tuple(bound)

    def _start(self) -> Engine:
        ports = {endpoint.version: endpoint.port for endpoint in self.bound}
        self.local.set_udp(udp4=ports.get(4), udp6=ports.get(6))
        now = trio.current_time()
        engine = Engine(
            self.local,
            self._params,
            self._random,
            now=now,
            versions=frozenset(ports),
            callbacks=self._callbacks,
        )
        engine.set_bootstrap(self._reachable(self._bootstrap), now)
        engine.set_walk_pause(self._walk_pause, now)
        self._engine = engine
        where = ", ".join(f"{endpoint.host}:{endpoint.port}" for endpoint in self.bound)
        log.info("discv5 listening on %s", where, extra=fields(bootstrap=len(self._bootstrap)))
        return engine

    def _contained(self, callback: Callable[P, T], otherwise: T) -> Callable[P, T]:
        """Wrap a callback, so that a bug in it cannot let a remote datagram end the service: log and count
        the exception, and return `otherwise`."""

        def call(*arguments: P.args, **named: P.kwargs) -> T:
            try:
                return callback(*arguments, **named)
            except Exception:
                self._counters["callback_failures"] += 1
                log.exception("discv5 callback raised")
                return otherwise

        return call

    def _reachable(self, records: Iterable[Enr]) -> list[Enr]:
        """Return the boot nodes that we can send to, and warn about the others."""
        versions = frozenset(endpoint.version for endpoint in self.bound)
        chosen = []
        for record in records:
            if record.node_id == self.local.node_id:
                continue
            if contact_of(record, versions) is None:
                log.warning("boot node %s has no UDP address reachable from here", record.text)
                continue
            chosen.append(record)
        return chosen

    def _close(self) -> None:
        for sock in self._sockets.values():
            trio.lowlevel.notify_closing(sock.fileno())
            sock.close()
        self._sockets.clear()
        self.bound = ()
        self._before = {name: value for name, value in self.counters().items() if name not in self._counters}
        self._engine = None
        self._scope = None
        for event in self._waiting:
            event.set()  # no response will arrive any more

    async def _work(self, engine: Engine) -> None:
        """Do what is due, and send the resulting datagrams."""
        while True:
            self._wake = trio.Event()
            engine.tick(trio.current_time())
            self._flush(engine)
            with trio.move_on_at(engine.wakeup()):
                await self._wake.wait()
            await trio.lowlevel.checkpoint()

    async def _read(self, engine: Engine, sock: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock.fileno())
            now = trio.current_time()
            for _ in range(_TURN):
                try:
                    # One byte more than the maximum, to detect oversized datagrams.
                    datagram, address = sock.recvfrom(MAX_PACKET + 1)
                except BlockingIOError:
                    break
                except OSError as error:  # ICMP error about an earlier datagram
                    self._counters["socket_errors"] += 1
                    log.debug("discv5: receive failed: %s", error)
                    continue
                self._counters["bytes_received"] += len(datagram)
                engine.receive(datagram, UdpEndpoint.of(address[0], address[1]), now)
            self._acted()
            await trio.lowlevel.checkpoint()

    def _acted(self) -> None:
        """Send the resulting datagrams and reschedule the next `tick`, after the engine was called."""
        if self._engine is not None:
            self._flush(self._engine)
        self._wake.set()

    def _flush(self, engine: Engine) -> None:
        for endpoint, datagram in engine.outbox:
            try:
                self._sockets[endpoint.version].sendto(datagram, endpoint)
            except BlockingIOError:
                self._counters["datagrams_not_sent"] += 1
            except OSError as error:  # no route, or blocked by a local firewall
                self._counters["datagrams_not_sent"] += 1
                log.debug("discv5: send to %s failed: %s", endpoint, error)
            else:
                self._counters["bytes_sent"] += len(datagram)
        engine.outbox.clear()

    # -- requests ---------------------------------------------

    async def ping(self, record: Enr) -> Pong:
        """PING a node. Raise Discv5Error without a response, ValueError for an unreachable node,
        TooManyRequestsError."""
        return await self._ask(
            lambda engine, now, done: engine.ping(record, now, done), f"no response from {record!r}"
        )

    async def find_node(self, record: Enr, distances: Sequence[int]) -> list[Enr]:
        """Return the records that a node knows at these distances from itself; 0: its own record. Raise as
        `ping`."""
        return await self._ask(
            lambda engine, now, done: engine.find_node(record, distances, now, done),
            f"no response from {record!r}",
        )

    async def _ask(
        self, start: Callable[[Engine, float, Callable[[T | None], None]], None], failure: str
    ) -> T:
        if self._engine is None or self._scope is None:
            raise Discv5Error("discv5 is not running")
        engine, answered = self._engine, trio.Event()
        answers: list[T | None] = []

        def done(answer: T | None) -> None:
            answers.append(answer)
            answered.set()

        start(engine, trio.current_time(), done)
        self._acted()
        self._waiting.add(answered)
        try:
            await answered.wait()
        finally:
            self._waiting.discard(answered)
        if not answers:
            raise Discv5Error("discv5 was stopped")
        if answers[0] is None:
            raise Discv5Error(failure)
        return answers[0]


def _udp_socket(family: socket.AddressFamily, endpoint: UdpEndpoint, shared_port: int) -> socket.socket:
    """Return a bound UDP socket, on `shared_port` if that is free. Raise OSError."""
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        if shared_port:
            try:
                sock.bind((endpoint.host, shared_port))
            except OSError:
                shared_port = 0  # in use: any other port will do
        if not shared_port:
            sock.bind((endpoint.host, endpoint.port))
    except OSError:
        sock.close()
        raise
    return sock

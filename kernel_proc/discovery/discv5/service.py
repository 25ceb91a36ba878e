"""discv5 on UDP sockets, under trio.

Sockets are read and written without waiting: what the system's buffer does not take is lost, as UDP is
allowed to lose it, and counted. So nothing queues up here, whoever sends how much.
"""

from __future__ import annotations

import logging
import random as random_module
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final, ParamSpec, TypeVar

import trio

from kernel_proc.discovery.discv5.dialogue import TalkHandler
from kernel_proc.discovery.discv5.endpoint import UdpEndpoint, contact_of, is_loopback
from kernel_proc.discovery.discv5.engine import Engine
from kernel_proc.discovery.discv5.messages import Pong
from kernel_proc.discovery.discv5.packets import MAX_PACKET
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.table import Added, Node
from kernel_proc.discovery.enr import Enr
from kernel_proc.discovery.enr_local import LocalEnr
from logos_process.logs import fields

__all__ = ["Discv5Error", "Discv5Service"]

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_TURN: Final = 64
"""Datagrams that a socket may have handled before other tasks run."""
_BUFFER: Final = 1 << 20
"""Bytes that the system may keep for us while the loop is busy elsewhere."""


class Discv5Error(Exception):
    """Nothing that was asked for can be had: not bound, stopped, or no answer."""


def _nothing(_: object) -> None:
    """For who does not want to know."""


def _anyone(_: Enr) -> bool:
    return True


class Discv5Service:
    """One node of discv5 on one UDP port, over IPv4, IPv6 or both.

    `run` binds and works until it is cancelled or `stop` is called, and can then be called again; the table
    begins empty each time. Callbacks are called in the trio loop and must not wait: `found` for nodes that
    walks meet and `wanted` lets pass (`Engine` says when, and that it is several times for each), `external`
    when other nodes agree on another endpoint of ours.
    """

    def __init__(
        self,
        local: LocalEnr,
        *,
        listen: Sequence[tuple[str, int]],
        bootstrap: Iterable[Enr] = (),
        params: Params | None = None,
        found: Callable[[Enr], None] = _nothing,
        wanted: Callable[[Enr], bool] = _anyone,
        external: Callable[[UdpEndpoint], None] = _nothing,
        announce_port: bool = True,
        random: random_module.Random | None = None,
    ) -> None:
        """`listen`: IP addresses and ports, one of each IP version at most; port 0: any. `announce_port`:
        put the bound ports into the record (no, if others are known to reach us). `params`: where none are
        given, limits per address do not apply to loopback addresses while only such are listened on."""
        versions = [UdpEndpoint.of(host, port).version for host, port in listen]
        if not listen or len(set(versions)) != len(versions):
            raise ValueError("discv5 listens on one address of each IP version at most, and on one at least")
        self._local = local
        self._listen = tuple(UdpEndpoint.of(host, port) for host, port in listen)
        self._bootstrap = tuple(bootstrap)
        only_loopback = all(is_loopback(endpoint.host) for endpoint in self._listen)
        self._params = Params(exempt_loopback=only_loopback) if params is None else params
        self._found = found
        self._wanted = wanted
        self._external = external
        self._announce_port = announce_port
        self._random = random or random_module.SystemRandom()
        self._walk_pause = self._params.walk_pause
        self._talk: dict[bytes, TalkHandler] = {}
        self._engine: Engine | None = None
        self._sockets: dict[int, socket.socket] = {}
        self._bound: tuple[UdpEndpoint, ...] = ()
        self._wake = trio.Event()
        self._scope: trio.CancelScope | None = None
        self._waiting: set[trio.Event] = set()
        self._before: dict[str, int] = {}
        local.add_listener(lambda _record: self._wake.set())  # a changed record is to be told
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
        """Whether it is bound and at work."""
        return self._engine is not None

    @property
    def bound(self) -> tuple[UdpEndpoint, ...]:
        """Where it listens; empty when it does not run."""
        return self._bound

    @property
    def local(self) -> LocalEnr:
        """Our record."""
        return self._local

    def observed(self, version: int = 4) -> UdpEndpoint | None:
        """The endpoint at which the majority of other nodes sees us."""
        return None if self._engine is None else self._engine.observed(version)

    def nodes(self) -> list[Node]:
        """The nodes of the table."""
        return [] if self._engine is None else self._engine.table.nodes()

    def has_answered(self, node_id: bytes) -> bool:
        """Whether this node of the table has answered us, where its record says it is."""
        node = None if self._engine is None else self._engine.table.get(node_id)
        return node is not None and node.verified

    def counters(self) -> dict[str, int]:
        """What only grows, by name, over all runs."""
        now = {} if self._engine is None else self._engine.counters()
        names = {**self._before, **now}
        return {name: self._before.get(name, 0) + now.get(name, 0) for name in names} | self._counters

    def gauges(self) -> dict[str, int]:
        """What there is now, by name; empty when it does not run."""
        return {} if self._engine is None else self._engine.gauges()

    # -- settings ---------------------------------------------

    def set_bootstrap(self, records: Iterable[Enr]) -> None:
        """Nodes to enter the network by, in place of those given before."""
        self._bootstrap = tuple(records)
        if self._engine is not None:
            self._engine.set_bootstrap(self._reachable(self._bootstrap), trio.current_time())
            self._acted()

    def add_record(self, record: Enr) -> Added | None:
        """Offer a node learned elsewhere to the table. None: it cannot be reached, or we do not run."""
        if self._engine is None:
            return None
        added = self._engine.add_record(record, trio.current_time())
        self._acted()
        return added

    def set_walk_pause(self, seconds: float) -> None:
        """The pause between two random walks: short while peers are needed, long when they are not."""
        self._walk_pause = seconds
        if self._engine is not None:
            self._engine.set_walk_pause(seconds, trio.current_time())
            self._acted()

    def set_talk_handler(self, protocol: bytes, handler: TalkHandler | None) -> None:
        """Answer TALKREQs of a protocol, or no longer (others get an empty answer)."""
        if handler is None:
            self._talk.pop(protocol, None)
        else:
            self._talk[protocol] = handler
        if self._engine is not None:
            contained = None if handler is None else self._contained(handler, b"")
            self._engine.set_talk_handler(protocol, contained)

    # -- running ----------------------------------------------

    async def run(
        self, task_status: trio.TaskStatus[tuple[UdpEndpoint, ...]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Bind and work until cancelled or stopped; `task_status` gets the bound endpoints.

        Raises OSError if an address cannot be bound, Discv5Error if it runs already."""
        if self._scope is not None:
            raise Discv5Error("discv5 runs already")
        with trio.CancelScope() as self._scope:
            try:
                self._bind()
                engine = self._start()
                task_status.started(self._bound)
                async with trio.open_nursery() as nursery:
                    for sock in self._sockets.values():
                        nursery.start_soon(self._read, engine, sock)
                    await self._work(engine)
            finally:
                self._close()

    def stop(self) -> None:
        """End `run`, soon."""
        if self._scope is not None:
            self._scope.cancel()

    def _bind(self) -> None:
        bound: list[UdpEndpoint] = []
        for endpoint in self._listen:
            family = socket.AF_INET if endpoint.version == 4 else socket.AF_INET6
            # Port 0 stands for the same port of both versions where that can be had.
            shared = bound[0].port if bound and endpoint.port == 0 else 0
            sock = _udp_socket(family, endpoint, shared)
            self._sockets[endpoint.version] = sock
            bound.append(UdpEndpoint.of(*sock.getsockname()[:2]))
        self._bound = tuple(bound)

    def _start(self) -> Engine:
        ports = {endpoint.version: endpoint.port for endpoint in self._bound}
        if self._announce_port:
            self._local.set_udp(udp4=ports.get(4), udp6=ports.get(6))
        now = trio.current_time()
        engine = Engine(
            self._local,
            self._params,
            self._random,
            now=now,
            versions=frozenset(ports),
            found=self._contained(self._found, None),
            wanted=self._contained(self._wanted, False),
            external=self._contained(self._external, None),
        )
        engine.set_bootstrap(self._reachable(self._bootstrap), now)
        engine.set_walk_pause(self._walk_pause, now)
        for protocol, handler in self._talk.items():
            engine.set_talk_handler(protocol, self._contained(handler, b""))
        self._engine = engine
        where = ", ".join(f"{endpoint.host}:{endpoint.port}" for endpoint in self._bound)
        log.info("discv5 listens on %s", where, extra=fields(bootstrap=len(self._bootstrap)))
        return engine

    def _contained(self, callback: Callable[P, T], otherwise: T) -> Callable[P, T]:
        """A defect of a callback must not let a stranger's datagram end the service: it is logged, counted,
        and `otherwise` is the result."""

        def call(*arguments: P.args, **named: P.kwargs) -> T:
            try:
                return callback(*arguments, **named)
            except Exception:
                self._counters["callback_failures"] += 1
                log.exception("discv5: a callback failed")
                return otherwise

        return call

    def _reachable(self, records: Iterable[Enr]) -> list[Enr]:
        """Boot nodes that we can send to; the operator is told of the others."""
        versions = frozenset(endpoint.version for endpoint in self._bound)
        chosen = []
        for record in records:
            if record.node_id == self._local.node_id:
                continue
            if contact_of(record, versions) is None:
                log.warning("boot node %s has no UDP address that we can reach", record.text)
                continue
            chosen.append(record)
        return chosen

    def _close(self) -> None:
        for sock in self._sockets.values():
            trio.lowlevel.notify_closing(sock.fileno())
            sock.close()
        self._sockets.clear()
        self._bound = ()
        self._before = {name: value for name, value in self.counters().items() if name not in self._counters}
        self._engine = None
        self._scope = None
        for event in self._waiting:
            event.set()  # nobody will answer any more

    async def _work(self, engine: Engine) -> None:
        """Do what is due, when it is due, and send what came of it."""
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
                    # One byte more than allowed, so that longer ones are seen to be too long.
                    datagram, address = sock.recvfrom(MAX_PACKET + 1)
                except BlockingIOError:
                    break
                except OSError as error:  # an ICMP message about something we sent
                    self._counters["socket_errors"] += 1
                    log.debug("discv5: reading: %s", error)
                    continue
                self._counters["bytes_received"] += len(datagram)
                engine.receive(datagram, UdpEndpoint.of(address[0], address[1]), now)
            self._acted()
            await trio.lowlevel.checkpoint()

    def _acted(self) -> None:
        """The engine was called: send what came of it, and look anew when it wants to be called."""
        if self._engine is not None:
            self._flush(self._engine)
        self._wake.set()

    def _flush(self, engine: Engine) -> None:
        for endpoint, datagram in engine.outbox:
            try:
                self._sockets[endpoint.version].sendto(datagram, endpoint)
            except BlockingIOError:
                self._counters["datagrams_not_sent"] += 1
            except OSError as error:  # no route, a firewall of our own
                self._counters["datagrams_not_sent"] += 1
                log.debug("discv5: sending to %s: %s", endpoint, error)
            else:
                self._counters["bytes_sent"] += len(datagram)
        engine.outbox.clear()

    # -- requests ---------------------------------------------

    async def ping(self, record: Enr) -> Pong:
        """PING a node. Raises Discv5Error without an answer, ValueError for a node that we cannot reach,
        TooManyRequestsError."""
        return await self._ask(
            lambda engine, now, done: engine.ping(record, now, done), f"no answer of {record!r}"
        )

    async def find_node(self, record: Enr, distances: Sequence[int]) -> list[Enr]:
        """Records that a node knows at these distances from it; 0: its own. Raises as `ping`."""
        return await self._ask(
            lambda engine, now, done: engine.find_node(record, distances, now, done),
            f"no answer of {record!r}",
        )

    async def talk(self, record: Enr, protocol: bytes, payload: bytes) -> bytes:
        """Ask a node something in a protocol of the application; empty if it does not know the protocol.
        Raises as `ping`."""
        return await self._ask(
            lambda engine, now, done: engine.talk(record, protocol, payload, now, done),
            f"no answer of {record!r}",
        )

    async def lookup(self, target: bytes) -> list[Enr]:
        """The nodes closest to a node id that could be reached, closest first. Raises TooManyRequestsError,
        Discv5Error."""
        return await self._ask(lambda engine, now, done: engine.lookup(target, now, done), "no lookup")

    async def _ask(
        self, start: Callable[[Engine, float, Callable[[T | None], None]], None], failure: str
    ) -> T:
        if self._engine is None or self._scope is None:
            raise Discv5Error("discv5 does not run")
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
    """A bound UDP socket; of `shared_port` if that is free. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        if shared_port:
            try:
                sock.bind((endpoint.host, shared_port))
            except OSError:
                shared_port = 0  # taken: any other will do
        if not shared_port:
            sock.bind((endpoint.host, endpoint.port))
    except OSError:
        sock.close()
        raise
    return sock

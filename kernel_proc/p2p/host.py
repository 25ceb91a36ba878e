"""The node's libp2p host: listeners, dialling, connections, streams, identify, ping. Implements api.Host.

Rule of this module: whatever one peer does costs that peer its stream or its connection, never the host. So
every task that runs for a peer has one boundary where all exceptions end, are counted and logged.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from kernel_proc.p2p import addresses, identify, ping, transport
from kernel_proc.p2p._errors import ConnectionEnded, NegotiationFailed
from kernel_proc.p2p.addresses import Endpoint
from kernel_proc.p2p.admission import Admission
from kernel_proc.p2p.api import (
    BadAddress,
    DialError,
    Direction,
    HostEvents,
    NotConnected,
    PeerConnection,
    PeerIdentity,
    PeerIdText,
    ProtocolNotSupported,
    Stream,
    StreamClosed,
    StreamHandler,
)
from kernel_proc.p2p.dispatch import Dispatcher
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.multistream import select_one_of
from kernel_proc.p2p.muxer import Muxer
from kernel_proc.p2p.noise import NoiseSecurity
from kernel_proc.p2p.stream import MuxedStream
from kernel_proc.p2p.upgrade import upgrade

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # trio's own name is hidden by the stubs that py-libp2p brings

log = logging.getLogger(__name__)

_COUNTERS = (
    "accepted",
    "dialled",
    "refused_ip",
    "refused_total",
    "refused_peer",
    "refused_half_open",
    "refused_half_open_ip",
    "handshake_failed",
    "handler_errors",
    "streams_refused",
    "streams_replaced",
    "streams_lingered_out",
    "write_timeouts",
    "frozen_evicted",
    "window_overruns",
    "buffer_overruns",
    "protocol_violations",
    "negotiations_failed",
    "identify_failed",
    "connection_errors",
    "listener_errors",
)


class _Connection:
    """One live connection and its muxer."""

    __slots__ = ("endpoint", "gone", "info", "muxer", "pinging")

    def __init__(self, info: PeerConnection, endpoint: Endpoint, muxer: Muxer) -> None:
        self.info = info
        self.endpoint = endpoint
        self.muxer = muxer
        self.pinging = False
        self.gone = trio.Event()


class Libp2pHost:
    """A libp2p host under trio.

    `listen` are multiaddrs (TCP and /ws, port 0 for a free one); `announce` replaces what identify tells
    others about our addresses. Mount handlers and add listeners, then

        async with Libp2pHost(key=key, listen=[...], agent="...").run() as host: ...

    Events: `peer_connected` comes with the first connection of a peer, `peer_disconnected` when its last one
    is gone; both sides dialling at once makes two, and both are kept.
    """

    def __init__(
        self,
        *,
        key: NodeKey,
        listen: Sequence[str] = (),
        limits: HostLimits | None = None,
        agent: str = "logos-mapi",
        announce: Sequence[str] = (),
    ) -> None:
        self._key = key
        key_pair = key.libp2p_key_pair()
        self._public_key = key_pair.public_key.serialize()
        self._security = NoiseSecurity(key_pair)
        self._listen = [addresses.parse(address) for address in listen]
        self._announce = tuple(addresses.parse(address).text() for address in announce)
        self._limits = limits or HostLimits()
        self._agent = agent
        self._bound: list[Endpoint] = []
        self._events: list[HostEvents] = []
        self._peers: dict[PeerIdText, list[_Connection]] = {}
        self._identities: dict[PeerIdText, PeerIdentity] = {}
        self._admission = Admission(self._limits)
        self._counters: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._dispatcher = Dispatcher(self._limits, self._count)
        self._nursery: trio.Nursery | None = None
        self._dialling: dict[PeerIdText, trio.Lock] = {}
        self.set_stream_handler(identify.PROTOCOL, self._serve_identify, max_per_peer=4)
        self.set_stream_handler(identify.PUSH_PROTOCOL, self._serve_identify_push, max_per_peer=2)
        self.set_stream_handler(ping.PROTOCOL, ping.serve, max_per_peer=4)

    # -- facts ----------------------------------------------------------

    @property
    def peer_id(self) -> PeerIdText:
        return self._key.peer_id

    @property
    def agent(self) -> str:
        return self._agent

    @property
    def listen_addresses(self) -> Sequence[str]:
        """Bound multiaddrs with real ports and /p2p/<peer id>; empty before `run`."""
        return [f"{endpoint.text()}/p2p/{self.peer_id}" for endpoint in self._bound]

    @property
    def protocols(self) -> Sequence[str]:
        """What identify advertises: exactly what is mounted."""
        return list(self._dispatcher)

    def set_announced(self, announced: Sequence[str]) -> None:
        """What identify tells from now on about where we are reached; none: the bound addresses. Multiaddrs
        without peer id, also of transports that only a proxy before us speaks."""
        for address in announced:
            addresses.to_bytes(address)  # raises here, not at the first peer that asks
        self._announce = tuple(announced)

    def reachable_addresses(self) -> list[str]:
        """The bound addresses without peer id, a wildcard as the addresses of this machine."""
        return [form for bound in self._bound for form in addresses.reachable_forms(bound)]

    def connections(self) -> Sequence[PeerConnection]:
        return [connection.info for group in self._peers.values() for connection in group]

    def is_connected(self, peer_id: PeerIdText) -> bool:
        return peer_id in self._peers

    def identity(self, peer_id: PeerIdText) -> PeerIdentity | None:
        """What a connected peer told us last; forgotten when its last connection is gone."""
        return self._identities.get(peer_id)

    def counters(self) -> dict[str, int]:
        return dict(self._counters)

    def _count(self, name: str) -> None:
        self._counters[name] += 1

    def add_listener(self, events: HostEvents) -> None:
        self._events.append(events)

    def _emit(self, call: Callable[[HostEvents], None]) -> None:
        for listener in self._events:
            try:
                call(listener)
            except Exception:  # a listener's bug must not cost the connection; it is logged and counted
                self._count("listener_errors")
                log.exception("host event listener %r failed", listener)

    # -- life -----------------------------------------------------------

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Libp2pHost]:
        """Bind all listeners, serve while the block runs, close everything at its end.

        Raises OSError when an address cannot be bound.
        """
        if self._nursery is not None:
            raise RuntimeError("the host is running already")
        listeners: list[tuple[trio.SocketListener, bool]] = []
        try:
            for endpoint in self._listen:
                listeners += [(bound, endpoint.websocket) for bound in await transport.listen(endpoint)]
        except BaseException:
            for listener, _ in listeners:
                listener.socket.close()
            raise
        async with trio.open_nursery() as nursery:
            for listener, websocket in listeners:
                self._bound.append(
                    addresses.from_sockaddr(listener.socket.getsockname(), websocket=websocket)
                )
                handler = partial(self._accepted, websocket=websocket)
                serve = partial(trio.serve_listeners, handler, [listener], handler_nursery=nursery)
                nursery.start_soon(serve)
            self._nursery = nursery
            nursery.start_soon(self._ticker)
            try:
                yield self
            finally:
                self._nursery = None
                self._bound.clear()
                for connection in self._all():
                    connection.muxer.end("host stopped")
                nursery.cancel_scope.cancel()

    async def serve(self, *, task_status: TaskStatus[Libp2pHost] = trio.TASK_STATUS_IGNORED) -> None:
        """`run` for `nursery.start`: started once all listeners are bound, runs until cancelled."""
        async with self.run():
            task_status.started(self)
            await trio.sleep_forever()

    def _all(self) -> list[_Connection]:
        return [connection for group in self._peers.values() for connection in group]

    async def _ticker(self) -> None:
        """Keepalive of all connections from one task."""
        period = min(1.0, self._limits.ping_interval / 4, self._limits.ping_timeout / 4)
        while True:
            await trio.sleep(period)
            now = trio.current_time()
            for connection in self._all():
                try:
                    due = connection.muxer.tick(now)
                except Exception as error:  # one connection's trouble must not end the keepalive of all
                    self._failed(connection, error)
                    continue
                if due and not connection.pinging and self._nursery is not None:
                    self._nursery.start_soon(self._ping_stream, connection)

    def _failed(self, connection: _Connection, error: Exception) -> None:
        """A bug met on a connection: it goes, the host stays."""
        self._count("connection_errors")
        log.error("connection with %s failed", connection.info.peer_id, exc_info=error)
        connection.muxer.end(f"internal error: {error!r}")

    async def _ping_stream(self, connection: _Connection) -> None:
        """Where the muxer has no ping: one round of the ping protocol. Any answer counts; the tick judges."""
        connection.pinging = True
        try:
            with trio.move_on_after(self._limits.ping_timeout):
                stream = connection.muxer.open_stream()
                try:
                    await select_one_of(stream, (ping.PROTOCOL,))
                    await ping.ask(stream)
                finally:
                    stream.finish()
        except (StreamClosed, ConnectionEnded, NegotiationFailed) as error:
            log.debug("ping of %s: %s", connection.info.peer_id, error)  # a refusal is a sign of life too
        except Exception as error:
            self._failed(connection, error)
        finally:
            connection.pinging = False

    # -- connections ----------------------------------------------------

    async def _accepted(self, tcp: trio.SocketStream, *, websocket: bool) -> None:
        """One inbound connection from accept to end. Nothing that happens in it leaves it."""
        try:
            await self._serve_accepted(tcp, websocket=websocket)
        except Exception:  # the boundary of what no inner boundary knows
            self._count("connection_errors")
            log.exception("inbound connection failed")

    async def _serve_accepted(self, tcp: trio.SocketStream, *, websocket: bool) -> None:
        async with tcp:
            try:
                endpoint = addresses.from_sockaddr(tcp.socket.getpeername(), websocket=websocket)
            except OSError:
                return  # gone before we looked
            if (refused := self._admission.admit(endpoint.host)) is not None:
                self._count(refused)
                return
            self._count("accepted")
            try:
                muxer = await self._inbound_handshake(tcp, endpoint)
            finally:
                self._admission.settle(endpoint.host)
            if muxer is None:
                return
            connection = self._register(muxer, endpoint, Direction.INBOUND)
            if isinstance(connection, _Connection):
                await self._run_connection(connection)

    async def _inbound_handshake(self, tcp: trio.SocketStream, endpoint: Endpoint) -> Muxer | None:
        """A muxed connection, or None after counting the failure."""
        problem: object = "timed out"
        with trio.move_on_after(self._limits.handshake_timeout):
            try:
                stream = await transport.WebSocket.accept(tcp) if endpoint.websocket else tcp
                return await upgrade(
                    stream,
                    self._security,
                    outbound=False,
                    expected=None,
                    limits=self._limits,
                    count=self._count,
                )
            except Exception as error:  # a stranger's bytes went through three libraries: all of it means no
                problem = error
        self._count("handshake_failed")
        log.debug("handshake with %s failed: %r", endpoint.text(), problem)
        return None

    def _register(self, muxer: Muxer, endpoint: Endpoint, direction: Direction) -> _Connection | str:
        """Book a connection that has passed its handshake, or say why it must go."""
        peer_id = muxer.peer_id
        if peer_id == self.peer_id:
            self._count("refused_peer")
            return "that is this node itself"
        inbound = direction is Direction.INBOUND
        if (refused := self._admission.establish(peer_id, endpoint.host, inbound=inbound)) is not None:
            self._count(refused)
            return "too many connections"
        info = PeerConnection(peer_id, endpoint.text(), endpoint.host, direction, trio.current_time())
        connection = _Connection(info, endpoint, muxer)
        group = self._peers.setdefault(peer_id, [])
        group.append(connection)
        if len(group) == 1:
            self._emit(lambda listener: listener.peer_connected(info))
        return connection

    async def _run_connection(self, connection: _Connection) -> None:
        """Run a booked connection to its end."""
        muxer = connection.muxer
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._identify, connection)
                await muxer.run(lambda stream: nursery.start_soon(self._dispatcher.serve, stream))
                nursery.cancel_scope.cancel()
        except Exception as error:  # the boundary of this connection: see the module's rule
            self._failed(connection, error)
        finally:
            muxer.end("host stopped")
            self._unregister(connection)

    def _unregister(self, connection: _Connection) -> None:
        info, peer_id = connection.info, connection.info.peer_id
        group = self._peers[peer_id]
        group.remove(connection)
        self._admission.release(peer_id, info.ip, inbound=info.direction is Direction.INBOUND)
        connection.gone.set()
        if not group:
            del self._peers[peer_id]
            self._identities.pop(peer_id, None)
            reason = connection.muxer.ended or "closed"
            self._emit(lambda listener: listener.peer_disconnected(peer_id, reason))

    async def connect(self, address: str, *, deadline: float = 10.0) -> PeerIdText:
        """Dial; at once if connected. Calls for one peer share one dial. Raises BadAddress, DialError."""
        endpoint = addresses.parse(address)
        if endpoint.peer_id is None:
            return await self._dial(endpoint, deadline)
        peer_id = endpoint.peer_id.to_base58()
        if peer_id == self.peer_id:
            raise BadAddress(f"{address} is this node")
        lock = self._dialling.setdefault(peer_id, trio.Lock())
        try:
            async with lock:
                if peer_id in self._peers:
                    return peer_id
                return await self._dial(endpoint, deadline)
        finally:
            if not lock.locked():
                self._dialling.pop(peer_id, None)

    async def _dial(self, endpoint: Endpoint, deadline: float) -> PeerIdText:
        if self._nursery is None:
            raise DialError("the host is not running")
        if not self._admission.can_dial():
            raise DialError("connection limit reached")
        with trio.move_on_after(deadline):
            result = await self._nursery.start(self._dialled, endpoint)
            if isinstance(result, Exception):
                raise result
            return str(result)
        raise DialError(f"{endpoint.text()}: timed out after {deadline:g} s")

    async def _dialled(self, endpoint: Endpoint, *, task_status: TaskStatus[PeerIdText | Exception]) -> None:
        """One outbound connection from dial to end; `started` with the peer id or with what went wrong."""
        tcp: trio.SocketStream | None = None
        try:
            try:
                stream, tcp = await transport.dial(endpoint)
                with trio.fail_after(self._limits.handshake_timeout):
                    muxer = await upgrade(
                        stream,
                        self._security,
                        outbound=True,
                        expected=endpoint.peer_id,
                        limits=self._limits,
                        count=self._count,
                    )
                remote = addresses.from_sockaddr(tcp.socket.getpeername(), websocket=endpoint.websocket)
            except (DialError, BadAddress) as error:
                task_status.started(error)
                return
            except Exception as error:  # as in _inbound_handshake
                self._count("handshake_failed")
                what = str(error) or type(error).__name__
                task_status.started(DialError(f"{endpoint.text()}: handshake failed: {what}"))
                return
            connection = self._register(muxer, remote, Direction.OUTBOUND)
            if isinstance(connection, str):
                task_status.started(DialError(f"{endpoint.text()}: {connection}"))
                return
            self._count("dialled")
            task_status.started(muxer.peer_id)
            await self._run_connection(connection)
        finally:
            if tcp is not None:
                await trio.aclose_forcefully(tcp)

    async def disconnect(self, peer_id: PeerIdText, reason: str) -> None:
        closing = list(self._peers.get(peer_id, ()))
        for connection in closing:
            connection.muxer.end(reason)
        for connection in closing:
            await connection.gone.wait()
        await trio.lowlevel.checkpoint()

    # -- streams --------------------------------------------------------

    def set_stream_handler(self, protocol: str, handler: StreamHandler, *, max_per_peer: int = 8) -> None:
        self._dispatcher.mount(protocol, handler, max_per_peer)

    def remove_stream_handler(self, protocol: str) -> None:
        self._dispatcher.unmount(protocol)

    async def open_stream(
        self, peer_id: PeerIdText, protocols: Sequence[str], *, deadline: float = 10.0
    ) -> Stream:
        live = [c.muxer for c in self._peers.get(peer_id, ()) if c.muxer.ended is None]
        if not live:
            raise NotConnected(f"not connected to {peer_id}")
        stream = live[0].open_stream()
        agreed = False
        try:
            with trio.move_on_after(deadline):
                stream.protocol = await select_one_of(stream, protocols)
                agreed = True
                return stream
            raise StreamClosed(f"no agreement on a protocol within {deadline:g} s")
        except NegotiationFailed as error:
            raise ProtocolNotSupported(str(error)) from None
        except ConnectionEnded as error:
            raise StreamClosed(error.reason) from None
        finally:
            if not agreed:
                stream.drop("negotiation failed")

    # -- identify -------------------------------------------------------

    async def _serve_identify(self, stream: Stream) -> None:
        observed = next((c.address for c in self.connections() if c.peer_id == stream.peer_id), None)
        listen = self._announce or self.reachable_addresses()
        await stream.write(
            identify.encode(
                public_key=self._public_key,
                agent=self._agent,
                protocols=self._dispatcher,
                listen_addresses=listen,
                observed_address=observed,
            )
        )

    async def _serve_identify_push(self, stream: Stream) -> None:
        assert isinstance(stream, MuxedStream)
        try:
            with trio.move_on_after(self._limits.negotiation_timeout):
                self._identified(await identify.read(stream, stream.peer_id))
        except ConnectionEnded as error:
            self._count("identify_failed")
            raise StreamClosed(error.reason) from None

    async def _identify(self, connection: _Connection) -> None:
        """Ask a new connection's peer who it is."""
        problem: object = "timed out"
        try:
            with trio.move_on_after(self._limits.negotiation_timeout):
                stream = connection.muxer.open_stream()
                try:
                    await select_one_of(stream, (identify.PROTOCOL,))
                    identity = await identify.read(stream, stream.peer_id)
                finally:
                    stream.finish()
                self._identified(identity)
                return
        except (StreamClosed, ConnectionEnded, NegotiationFailed) as error:
            problem = error
        if connection.muxer.ended is None:
            self._count("identify_failed")
            log.debug("identify of %s failed: %s", connection.info.peer_id, problem)

    def _identified(self, identity: PeerIdentity) -> None:
        if identity.peer_id in self._peers:
            self._identities[identity.peer_id] = identity
            self._emit(lambda listener: listener.peer_identified(identity))

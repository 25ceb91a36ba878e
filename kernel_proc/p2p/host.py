"""The node's libp2p host: listeners, dialling, connections, streams, identify, ping. Implements api.Host.

Rule of this module: whatever one peer does costs that peer its stream or its connection, never the host. So every
task that runs for a peer has one boundary where all exceptions end, are counted and logged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from kernel_proc.p2p import addresses, identify, ping, transport
from kernel_proc.p2p._errors import ConnectionEnded, NegotiationFailed
from kernel_proc.p2p._libp2p import ID
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
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.multistream import answer_select, select_one_of
from kernel_proc.p2p.muxer import Muxer
from kernel_proc.p2p.noise import ByteStream, NoiseSecurity
from kernel_proc.p2p.stream import MuxedStream
from kernel_proc.p2p.upgrade import upgrade

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

    __slots__ = ("endpoint", "info", "muxer", "pinging")

    def __init__(self, info: PeerConnection, endpoint: Endpoint, muxer: Muxer) -> None:
        self.info = info
        self.endpoint = endpoint
        self.muxer = muxer
        self.pinging = False


class _Mounted:
    """A protocol that is served."""

    __slots__ = ("active", "handler", "max_per_peer")

    def __init__(self, handler: StreamHandler, max_per_peer: int) -> None:
        self.handler = handler
        self.max_per_peer = max_per_peer
        self.active: Counter[PeerIdText] = Counter()


class Libp2pHost:
    """A libp2p host under trio.

    `listen` are multiaddrs (TCP and /ws, port 0 for a free one); `announce` replaces what identify tells others
    about our addresses. Use it as

        async with Libp2pHost(key=key, listen=[...], agent="...").run() as host: ...
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
        self._key_pair = key.libp2p_key_pair()
        self._security = NoiseSecurity(self._key_pair)
        self._listen = [addresses.parse(address) for address in listen]
        self._announce = tuple(addresses.parse(address).text() for address in announce)
        self._limits = limits or HostLimits()
        self._agent = agent
        self._bound: list[Endpoint] = []
        self._listeners: list[HostEvents] = []
        self._mounted: dict[str, _Mounted] = {}
        self._peers: dict[PeerIdText, list[_Connection]] = {}
        self._identities: dict[PeerIdText, PeerIdentity] = {}
        self._admission = Admission(self._limits)
        self._counters: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._nursery: trio.Nursery | None = None
        self._dialling: dict[PeerIdText, trio.Lock] = {}
        self.set_stream_handler(identify.PROTOCOL, self._serve_identify, max_per_peer=4)
        self.set_stream_handler(identify.PUSH_PROTOCOL, self._serve_identify_push, max_per_peer=2)
        self.set_stream_handler(ping.PROTOCOL, ping.serve, max_per_peer=4)

    # -- facts ------------------------------------------------------------------------------------------------

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
        return list(self._mounted)

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
        self._counters[name] = self._counters.get(name, 0) + 1

    def add_listener(self, events: HostEvents) -> None:
        self._listeners.append(events)

    def _emit(self, call: Callable[[HostEvents], None]) -> None:
        for listener in self._listeners:
            try:
                call(listener)
            except Exception:  # a listener's bug must not cost the connection; it is logged and counted
                self._count("listener_errors")
                log.exception("host event listener %r failed", listener)

    # -- life -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Libp2pHost]:
        """Bind all listeners, serve while the block runs, close everything at its end.

        Raises OSError when an address cannot be bound.
        """
        async with trio.open_nursery() as nursery:
            listeners: list[trio.SocketListener] = []
            try:
                for endpoint in self._listen:
                    bound = await transport.listen(endpoint)
                    listeners += bound
                    for listener in bound:
                        self._bound.append(
                            addresses.from_sockaddr(
                                listener.socket.getsockname(), websocket=endpoint.websocket
                            )
                        )
                        handler = partial(self._accepted, websocket=endpoint.websocket)
                        nursery.start_soon(
                            partial(trio.serve_listeners, handler, [listener], handler_nursery=nursery)
                        )
                self._nursery = nursery
                nursery.start_soon(self._ticker)
                yield self
            finally:
                self._nursery = None
                for listener in listeners:
                    listener.socket.close()
                for group in list(self._peers.values()):
                    for connection in list(group):
                        connection.muxer.end("host stopped")
                nursery.cancel_scope.cancel()
                self._bound.clear()

    async def serve(self, *, task_status: trio.TaskStatus[Libp2pHost] = trio.TASK_STATUS_IGNORED) -> None:
        """`run` for `nursery.start`: started once all listeners are bound, runs until cancelled."""
        async with self.run():
            task_status.started(self)
            await trio.sleep_forever()

    async def _ticker(self) -> None:
        period = min(1.0, self._limits.ping_interval / 4, self._limits.ping_timeout / 4)
        while True:
            await trio.sleep(period)
            now = trio.current_time()
            for group in list(self._peers.values()):
                for connection in group:
                    if connection.muxer.tick(now) and not connection.pinging and self._nursery is not None:
                        self._nursery.start_soon(self._ping_stream, connection)

    async def _ping_stream(self, connection: _Connection) -> None:
        """Where the muxer has no ping: one round on the ping protocol. Any answer counts; the tick judges."""
        connection.pinging = True
        try:
            with trio.move_on_after(self._limits.ping_timeout):
                stream = connection.muxer.open_stream()
                try:
                    await select_one_of(stream, (ping.PROTOCOL,))
                    await ping.ask(stream)
                finally:
                    await stream.reset()
        except (StreamClosed, ConnectionEnded, NegotiationFailed):
            pass  # a refusal is a sign of life too; silence is seen by the tick
        finally:
            connection.pinging = False

    # -- connections ------------------------------------------------------------------------------------------

    async def _accepted(self, tcp: trio.SocketStream, *, websocket: bool) -> None:
        """One inbound connection from accept to end. Nothing that happens in it leaves it."""
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
                muxer = await self._handshake(tcp, endpoint, None, outbound=False)
            finally:
                self._admission.settle(endpoint.host)
            if muxer is not None:
                await self._serve(muxer, endpoint, Direction.INBOUND)

    async def _handshake(
        self, tcp: trio.SocketStream, endpoint: Endpoint, expected: ID | None, *, outbound: bool
    ) -> Muxer | None:
        """A muxed connection, or None after counting the failure."""
        problem: object = "timed out"
        with trio.move_on_after(self._limits.handshake_timeout):
            try:
                stream: ByteStream = await transport.WebSocket.accept(tcp) if endpoint.websocket else tcp
                return await upgrade(
                    stream,
                    self._security,
                    outbound=outbound,
                    expected=expected,
                    limits=self._limits,
                    count=self._count,
                )
            except Exception as error:  # bytes of a stranger went through three libraries: all of it means no
                problem = error
        self._count("handshake_failed")
        log.debug("handshake with %s failed: %r", endpoint.text(), problem)
        return None

    async def _serve(
        self,
        muxer: Muxer,
        endpoint: Endpoint,
        direction: Direction,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run one established connection to its end."""
        peer_id, inbound = muxer.peer_id, direction is Direction.INBOUND
        if peer_id == self.peer_id:
            self._count("handshake_failed")
            return
        if (refused := self._admission.establish(peer_id, endpoint.host, inbound=inbound)) is not None:
            self._count(refused)
            return
        info = PeerConnection(peer_id, endpoint.text(), endpoint.host, direction, trio.current_time())
        connection = _Connection(info, endpoint, muxer)
        group = self._peers.setdefault(peer_id, [])
        group.append(connection)
        reason = "host stopped"
        try:
            if len(group) == 1:
                self._emit(lambda listener: listener.peer_connected(info))
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._identify, connection)
                reason = await muxer.run(lambda stream: nursery.start_soon(self._inbound_stream, stream))
                nursery.cancel_scope.cancel()
        except Exception as error:  # the boundary of this connection: see the module's rule
            self._count("connection_errors")
            reason = f"internal error: {error!r}"
            log.exception("connection with %s failed", peer_id)
        finally:
            muxer.end(reason)
            group.remove(connection)
            self._admission.release(peer_id, endpoint.host, inbound=inbound)
            if not group:
                del self._peers[peer_id]
                self._identities.pop(peer_id, None)
                final = muxer.ended or reason
                self._emit(lambda listener: listener.peer_disconnected(peer_id, final))

    async def connect(self, address: str, *, deadline: float = 10.0) -> PeerIdText:
        """Dial; at once if connected. Two calls for one peer share one dial. Raises BadAddress, DialError."""
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
            if (
                not lock.statistics().tasks_waiting
                and self._dialling.get(peer_id) is lock
                and not lock.locked()
            ):
                del self._dialling[peer_id]

    async def _dial(self, endpoint: Endpoint, deadline: float) -> PeerIdText:
        if self._nursery is None:
            raise DialError("the host is not running")
        if not self._admission.can_dial():
            raise DialError("connection limit reached")
        established: list[PeerIdText] = []
        failure: list[Exception] = []
        with trio.move_on_after(deadline):
            await self._nursery.start(self._dialled, endpoint, established, failure)
        if failure:
            raise failure[0]
        if not established:
            raise DialError(f"{endpoint.text()}: timed out after {deadline:g} s")
        return established[0]

    async def _dialled(
        self,
        endpoint: Endpoint,
        established: list[PeerIdText],
        failure: list[Exception],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """One outbound connection from dial to end; `started` once it is established or has failed."""
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
            except (DialError, BadAddress) as error:
                failure.append(error)
                task_status.started()
                return
            except Exception as error:  # as in _handshake
                self._count("handshake_failed")
                failure.append(
                    DialError(f"{endpoint.text()}: handshake failed: {error or type(error).__name__}")
                )
                task_status.started()
                return
            self._count("dialled")
            established.append(muxer.peer_id)
            remote = addresses.from_sockaddr(tcp.socket.getpeername(), websocket=endpoint.websocket)
            await self._serve(muxer, remote, Direction.OUTBOUND, task_status)
        finally:
            if tcp is not None:
                await trio.aclose_forcefully(tcp)

    async def disconnect(self, peer_id: PeerIdText, reason: str) -> None:
        for connection in list(self._peers.get(peer_id, ())):
            connection.muxer.end(reason)
        await trio.lowlevel.checkpoint()

    # -- streams ----------------------------------------------------------------------------------------------

    def set_stream_handler(self, protocol: str, handler: StreamHandler, *, max_per_peer: int = 8) -> None:
        self._mounted[protocol] = _Mounted(handler, max_per_peer)

    def remove_stream_handler(self, protocol: str) -> None:
        self._mounted.pop(protocol, None)

    async def open_stream(
        self, peer_id: PeerIdText, protocols: Sequence[str], *, deadline: float = 10.0
    ) -> Stream:
        group = self._peers.get(peer_id)
        if not group:
            raise NotConnected(f"not connected to {peer_id}")
        stream = group[0].muxer.open_stream()
        return await self._agree(stream, protocols, deadline)

    async def _agree(self, stream: MuxedStream, protocols: Sequence[str], deadline: float) -> MuxedStream:
        done = False
        try:
            with trio.move_on_after(deadline):
                stream.protocol = await select_one_of(stream, protocols)
                done = True
                return stream
            raise StreamClosed(f"no agreement on a protocol within {deadline:g} s")
        except NegotiationFailed as error:
            raise ProtocolNotSupported(str(error)) from None
        except ConnectionEnded as error:
            raise StreamClosed(error.reason) from None
        finally:
            if not done:
                await _reset(stream)

    async def _inbound_stream(self, stream: MuxedStream) -> None:
        """Negotiate and serve one stream the peer opened. Nothing that happens in it leaves it."""
        try:
            with trio.move_on_after(self._limits.negotiation_timeout):
                stream.protocol = await answer_select(stream, self._mounted)
        except (StreamClosed, ConnectionEnded, NegotiationFailed) as error:
            self._count("negotiations_failed")
            log.debug("stream of %s: %s", stream.peer_id, error)
        mounted = self._mounted.get(stream.protocol)
        if mounted is None:
            await stream.reset()
            return
        peer_id = stream.peer_id
        if mounted.active[peer_id] >= mounted.max_per_peer:
            self._count("streams_refused")
            await stream.reset()
            return
        mounted.active[peer_id] += 1
        try:
            await mounted.handler(stream)
        except StreamClosed:
            await stream.reset()
        except Exception:  # the boundary of this stream: see the module's rule
            self._count("handler_errors")
            log.exception("handler of %s failed on a stream of %s", stream.protocol, peer_id)
            await stream.reset()
        else:
            stream.finish()
        finally:
            mounted.active[peer_id] -= 1
            if not mounted.active[peer_id]:
                del mounted.active[peer_id]

    # -- identify and ping ------------------------------------------------------------------------------------

    def _identify_message(self, stream: Stream) -> bytes:
        observed = next((c.address for c in self.connections() if c.peer_id == stream.peer_id), None)
        listen = self._announce or [
            form for bound in self._bound for form in addresses.reachable_forms(bound)
        ]
        return identify.encode(
            public_key=self._key_pair.public_key.serialize(),
            agent=self._agent,
            protocols=self._mounted,
            listen_addresses=listen,
            observed_address=observed,
        )

    async def _serve_identify(self, stream: Stream) -> None:
        await stream.write(self._identify_message(stream))

    async def _serve_identify_push(self, stream: Stream) -> None:
        assert isinstance(stream, MuxedStream)
        with trio.fail_after(self._limits.negotiation_timeout):
            self._identified(await identify.read(stream, stream.peer_id))

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
                    await _reset(stream)
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


async def _reset(stream: MuxedStream) -> None:
    """Reset also while we are being cancelled."""
    with trio.CancelScope(shield=True):
        await stream.reset()

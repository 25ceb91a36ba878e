"""The node's libp2p host: ties the parts of this room together. Implements api.Host.

Rule of this room: whatever a peer does costs that peer its stream or connection, never the host. Hence every
task that runs for a peer has one boundary at which all exceptions are caught, counted and logged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from kernel_proc.p2p import addresses, identify, ping, transport
from kernel_proc.p2p._errors import ConnectionEnded, NegotiationFailed
from kernel_proc.p2p.addresses import Endpoint
from kernel_proc.p2p.api import (
    DialError,
    Direction,
    EndCause,
    HostEvents,
    HostPeer,
    NotConnected,
    PeerConnection,
    PeerIdentity,
    PeerIdText,
    ProtocolNotSupported,
    Stream,
    StreamClosed,
    StreamHandler,
)
from kernel_proc.p2p.circuit import Circuits, StreamTransport
from kernel_proc.p2p.connections import Connections, HostConnection
from kernel_proc.p2p.counters import Counters
from kernel_proc.p2p.dispatch import Dispatcher
from kernel_proc.p2p.inbound import Acceptor
from kernel_proc.p2p.introduction import Introduction
from kernel_proc.p2p.keepalive import Keepalive
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.multistream import select_one_of
from kernel_proc.p2p.noise import NoiseSecurity
from kernel_proc.p2p.outbound import Dialler
from kernel_proc.p2p.tls import ServerCertificate
from kernel_proc.p2p.upgrade import Upgrader


class Libp2pHost:
    """A libp2p host for trio.

    `listen` are multiaddrs (TCP, /ws and, with a `certificate`, /wss; port 0 for a free one); `announce`
    replaces the addresses in identify. Mount handlers and add listeners, then

        async with Libp2pHost(key=key, listen=[...], agent="...").run() as host: ...

    `peer_connected` is emitted for the first connection of a peer, `peer_disconnected` when its last one
    has ended. Simultaneous dialling results in two connections; both are kept.
    """

    def __init__(
        self,
        *,
        key: NodeKey,
        listen: Sequence[str] = (),
        limits: HostLimits | None = None,
        agent: str = "logos-mapi",
        announce: Sequence[str] = (),
        certificate: ServerCertificate | None = None,
    ) -> None:
        limits = limits or HostLimits()
        count = self._counters = Counters()
        self.peer_id: PeerIdText = key.peer_id
        self._listen = [addresses.parse(address) for address in listen]
        self._bound: list[Endpoint] = []
        self._running = False
        self._nursery: trio.Nursery | None = None
        self._connections = Connections(key.peer_id, limits, count)
        self._dispatcher = Dispatcher(limits, count)
        self._introduction = Introduction(
            key,
            agent,
            self._dispatcher,
            self._connections,
            limits,
            count,
            announce=[addresses.parse(address).text() for address in announce],
            reachable=self.reachable_addresses,
        )
        security = NoiseSecurity(key.libp2p_key_pair())
        upgrader = Upgrader(self._connections, security, limits, count, self._run_connection)
        self._acceptor = Acceptor(upgrader, certificate)
        self._dialler = Dialler(key.peer_id, upgrader)
        self._circuits = Circuits(upgrader)
        self.circuit_dialler: Callable[[str, float], Awaitable[PeerIdText]] | None = None
        """What dials the addresses of relays (…/p2p-circuit/…). It raises BadAddress or DialError."""
        self._keepalive = Keepalive(self._connections, limits)
        self.set_stream_handler(identify.PROTOCOL, self._introduction.serve, max_per_peer=4)
        self.set_stream_handler(identify.PUSH_PROTOCOL, self._introduction.serve_push, max_per_peer=2)
        self.set_stream_handler(ping.PROTOCOL, ping.serve, max_per_peer=4)

    # -- queries --------------------------------------------------------

    @property
    def listen_addresses(self) -> Sequence[str]:
        """The bound multiaddrs with actual ports and /p2p/<peer id>; empty before `run`."""
        return [f"{endpoint.text()}/p2p/{self.peer_id}" for endpoint in self._bound]

    @property
    def protocols(self) -> Sequence[str]:
        """The protocols in identify: exactly the mounted ones."""
        return list(self._dispatcher)

    def set_announced(self, announced: Sequence[str]) -> None:
        """Set the addresses in identify; none means the bound ones.

        Multiaddrs without peer id; transports spoken only by a proxy in front of us are allowed. Connected
        peers are notified by identify push.
        """
        news = self._introduction.announce(announced)
        if news and self._nursery is not None and self._connections.all():
            self._nursery.start_soon(self._introduction.push, name="identify push")

    def reachable_addresses(self) -> list[str]:
        """Return the bound addresses without peer id, with wildcards expanded to the addresses of this
        machine."""
        return [form for bound in self._bound for form in addresses.reachable_forms(bound)]

    def own_record(self) -> HostPeer | None:
        """Return our signed peer record as sent in identify; None without addresses."""
        return self._introduction.own_record()

    def connections(self) -> Sequence[PeerConnection]:
        return [connection.info for connection in self._connections.all()]

    def is_connected(self, peer_id: PeerIdText) -> bool:
        return peer_id in self._connections

    def identity(self, peer_id: PeerIdText) -> PeerIdentity | None:
        """Return the latest identity of a connected peer; forgotten when its last connection has ended."""
        return self._connections.identity(peer_id)

    def counters(self) -> dict[str, int]:
        return self._counters.as_dict()

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent by all connections since the start."""
        return self._connections.traffic

    def open_streams(self) -> Mapping[tuple[Direction, str], int]:
        """Streams with an agreed protocol that are open now, by direction and protocol."""
        streams = (one for each in self._connections.all() for one in each.muxer.open_streams())
        return Counter(
            (Direction.OUTBOUND if one.outbound else Direction.INBOUND, one.protocol)
            for one in streams
            if one.protocol
        )

    def add_listener(self, events: HostEvents) -> None:
        self._connections.add_listener(events)

    # -- lifetime--------------------------------------------------------

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Libp2pHost]:
        """Bind all listeners, serve while the block runs, and close everything at its end.

        Raise OSError if an address cannot be bound.
        """
        if self._running:
            raise RuntimeError("the host is already running")
        self._running = True
        listeners: list[tuple[trio.SocketListener, str]] = []
        try:
            for endpoint in self._listen:
                listeners += [(bound, endpoint.transport) for bound in await transport.listen(endpoint)]
        except BaseException:
            self._running = False
            for listener, _ in listeners:
                listener.socket.close()
            raise
        async with trio.open_nursery() as nursery:
            for listener, on in listeners:
                self._bound.append(addresses.from_sockaddr(listener.socket.getsockname(), on))
                handler = partial(self._acceptor.accepted, on=on)
                serve = partial(trio.serve_listeners, handler, [listener], handler_nursery=nursery)
                nursery.start_soon(serve)
            self._nursery = self._dialler.nursery = nursery
            nursery.start_soon(self._keepalive.run, name="keepalive")
            try:
                yield self
            finally:
                self._nursery = self._dialler.nursery = None
                self._running = False
                self._bound.clear()
                for connection in self._connections.all():
                    connection.muxer.end("host stopped", EndCause.HOST_STOPPED)
                nursery.cancel_scope.cancel()

    async def serve(self, *, task_status: trio.TaskStatus[Libp2pHost] = trio.TASK_STATUS_IGNORED) -> None:
        """Run for `nursery.start`: started once all listeners are bound, until cancelled."""
        async with self.run():
            task_status.started(self)
            await trio.sleep_forever()

    # -- connections ----------------------------------------------------

    async def _run_connection(self, connection: HostConnection) -> None:
        """Run a registered connection to its end."""
        muxer = connection.muxer
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._introduction.ask, connection)
                await muxer.run(lambda stream: nursery.start_soon(self._dispatcher.serve, stream))
                nursery.cancel_scope.cancel()
        except Exception as error:  # the boundary of this connection, see the module docstring
            self._connections.failed(connection, error)
        finally:
            muxer.end("host stopped", EndCause.HOST_STOPPED)
            self._connections.unregister(connection)

    async def connect(self, address: str, *, deadline: float = 10.0) -> PeerIdText:
        """Dial, or return at once if connected. Concurrent calls for one peer share a dial. Raise
        BadAddress or DialError."""
        if self.circuit_dialler is not None and "/p2p-circuit" in address:
            return await self.circuit_dialler(address, deadline)
        return await self._dialler.connect(address, deadline)

    # -- circuits through a relay ---------------------------------------

    async def serve_circuit(self, transport: StreamTransport, relay: PeerIdText, peer_id: PeerIdText) -> None:
        """Serve an inbound circuit until it ends."""
        await self._circuits.serve(transport, relay, peer_id)

    async def dial_circuit(self, transport: StreamTransport, relay: PeerIdText, peer_id: PeerIdText) -> None:
        """Make a connection of a circuit that the relay has opened. Raise DialError."""
        if self._nursery is None:
            await trio.aclose_forcefully(transport)
            raise DialError("the host is not running")
        error = await self._nursery.start(self._circuits.dialled, transport, relay, peer_id)
        if error is not None:
            raise error

    async def probe(self, address: str, deadline: float) -> None:
        """Dial a multiaddr with peer id, also beside a connection, and hang up. Raise BadAddress or
        DialError."""
        await self._dialler.probe(address, deadline)

    async def disconnect(self, peer_id: PeerIdText, reason: str) -> None:
        await self._connections.close(peer_id, reason)

    # -- streams --------------------------------------------------------

    def set_stream_handler(self, protocol: str, handler: StreamHandler, *, max_per_peer: int = 8) -> None:
        self._dispatcher.mount(protocol, handler, max_per_peer)

    def remove_stream_handler(self, protocol: str) -> None:
        self._dispatcher.unmount(protocol)

    async def open_stream(
        self, peer_id: PeerIdText, protocols: Sequence[str], *, deadline: float = 10.0
    ) -> Stream:
        live = [one for one in self._connections.of(peer_id) if one.muxer.ended is None]
        if not live:
            raise NotConnected(f"not connected to {peer_id}")
        # Relays cut a circuit off after minutes or kilobytes (circuit-v2, "Limit"): direct ones first.
        stream = min(live, key=lambda one: one.info.is_relayed).muxer.open_stream()
        agreed = False
        try:
            with trio.move_on_after(deadline):
                stream.protocol = await select_one_of(stream, protocols)
                agreed = True
                return stream
            raise StreamClosed(f"protocol negotiation timed out after {deadline:g} s")
        except NegotiationFailed as error:
            raise ProtocolNotSupported(str(error)) from None
        except ConnectionEnded as error:
            raise StreamClosed(error.reason) from None
        finally:
            if not agreed:
                stream.drop("negotiation failed")

"""Connections whose transport is a stream of another connection: circuits through a relay."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields

import trio

from kernel_proc.p2p._libp2p import ID
from kernel_proc.p2p.addresses import Endpoint
from kernel_proc.p2p.api import DialError, Direction, PeerIdText, Stream, StreamClosed
from kernel_proc.p2p.connections import HostConnection
from kernel_proc.p2p.upgrade import Upgrader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CircuitEndpoint(Endpoint):
    """A peer behind a relay; host and port are the relay's."""

    relay: PeerIdText = ""

    @staticmethod
    def through(relay: HostConnection) -> CircuitEndpoint:
        """Return the endpoint of a peer that is reached by this connection."""
        place = {field.name: getattr(relay.endpoint, field.name) for field in fields(Endpoint)}
        return CircuitEndpoint(**place, relay=relay.info.peer_id)

    def text(self) -> str:
        """The multiaddr without the peer's own /p2p."""
        return f"{Endpoint.text(self)}/p2p/{self.relay}/p2p-circuit"


class StreamTransport(trio.abc.AsyncResource):
    """A stream as a byte stream to secure and mux; `rest` was read from it already."""

    def __init__(self, stream: Stream, rest: bytes) -> None:
        self._stream = stream
        self._rest = rest

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return the next bytes, b"" at EOF."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        try:
            return await self._stream.read(max_bytes)
        except StreamClosed as error:
            raise trio.BrokenResourceError(str(error)) from None

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except StreamClosed as error:
            raise trio.BrokenResourceError(str(error)) from None

    async def aclose(self) -> None:
        """End the circuit."""
        await self._stream.reset()


class Circuits:
    """Make connections of circuits, and serve them as any other."""

    def __init__(self, upgrader: Upgrader) -> None:
        self._upgrader = upgrader

    async def serve(self, transport: StreamTransport, relay: PeerIdText, peer_id: PeerIdText) -> None:
        """Serve an inbound circuit until it ends."""
        connection = await self._establish(transport, relay, peer_id, Direction.INBOUND)
        if isinstance(connection, str):
            log.debug("circuit from %s through %s: %s", peer_id, relay, connection)
            return
        self._upgrader.count("circuits_accepted")
        await self._upgrader.run(connection)

    async def dialled(
        self,
        transport: StreamTransport,
        relay: PeerIdText,
        peer_id: PeerIdText,
        *,
        task_status: trio.TaskStatus[DialError | None],
    ) -> None:
        """Serve an outbound circuit until it ends; `started` with None or the error."""
        try:
            connection = await self._establish(transport, relay, peer_id, Direction.OUTBOUND)
            if isinstance(connection, str):
                task_status.started(DialError(f"{peer_id} through {relay}: {connection}"))
                return
            self._upgrader.count("circuits_dialled")
            task_status.started(None)
            await self._upgrader.run(connection)
        finally:
            await trio.aclose_forcefully(transport)

    async def _establish(
        self, transport: StreamTransport, relay: PeerIdText, peer_id: PeerIdText, direction: Direction
    ) -> HostConnection | str:
        """Return the connection, or why there is none."""
        through = self._upgrader.connections.of(relay)
        if not through:
            return "the relay is gone"
        try:
            muxer = await self._upgrader.upgrade(
                transport, outbound=direction is Direction.OUTBOUND, expected=ID.from_base58(peer_id)
            )
        except Exception as error:
            # The peer's bytes went through three libraries: any exception means a failed handshake.
            self._upgrader.count("handshake_failed")
            return f"handshake failed: {error}"
        return self._upgrader.connections.register(muxer, CircuitEndpoint.through(through[0]), direction)

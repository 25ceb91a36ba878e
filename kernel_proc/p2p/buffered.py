"""A connection before it is secure: exact reads, and how py-libp2p's handshake sees it.

Not compiled: a class that mypyc compiles may have no base that the build does not know, and it does not know
py-libp2p, whose dependencies need a compiler and GMP.
"""

from __future__ import annotations

from typing import Final, Protocol

from kernel_proc.p2p._errors import ConnectionEnded, ProtocolViolation
from kernel_proc.p2p._libp2p import ConnectionType, IRawConnection, Multiaddr

READ_SIZE: Final = 2 * 65536
"""Large enough for a frame of maximum size and the start of the next."""


class ByteStream(Protocol):
    """A transport: a trio.SocketStream, or a WebSocket."""

    async def receive_some(self, max_bytes: int) -> bytes | bytearray: ...
    async def send_all(self, data: bytes) -> None: ...
    async def aclose(self) -> None: ...


class BufferedTransport:
    """Exact reads over a transport, for negotiation and handshake."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def read_exactly(self, count: int) -> bytes:
        """Read exactly `count` bytes. Raise ConnectionEnded at EOF."""
        while len(self._buffer) < count:
            data = await self.stream.receive_some(READ_SIZE)
            if not data:
                raise ConnectionEnded("closed by peer")
            self._buffer += data
        result = bytes(self._buffer[:count])
        del self._buffer[:count]
        return result

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    def take_rest(self) -> bytes:
        """Return what was read beyond the last exact read."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


class HandshakeConnection(IRawConnection):
    """The transport as seen by py-libp2p's handshake."""

    def __init__(self, transport: BufferedTransport, *, initiator: bool) -> None:
        self.is_initiator = initiator
        self._transport = transport

    async def read(self, n: int | None = None) -> bytes:
        if n is None:
            raise ProtocolViolation("noise: unbounded read")
        # Read the whole count at once: the library's read_exactly gives up after 100 partial reads.
        return await self._transport.read_exactly(n)

    async def write(self, data: bytes) -> None:
        await self._transport.write(data)

    async def close(self) -> None:
        """No-op: the transport is closed by its owner."""

    def get_remote_address(self) -> tuple[str, int] | None:
        return None

    def get_transport_addresses(self) -> list[Multiaddr]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT

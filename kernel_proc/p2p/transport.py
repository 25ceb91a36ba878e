"""TCP and WebSocket, plain and over TLS: dial, listen, and a WebSocket as a byte stream."""

from __future__ import annotations

import ssl

import trio
import wsproto
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from kernel_proc.p2p.addresses import Endpoint
from kernel_proc.p2p.api import BadAddress, DialError
from kernel_proc.p2p.buffered import ByteStream
from kernel_proc.p2p.tls import ServerCertificate, client_handshake

BACKLOG = 128
TwoWay = trio.SocketStream | trio.SSLStream[trio.SocketStream]


async def dial(endpoint: Endpoint, tls: ssl.SSLContext | None = None) -> tuple[ByteStream, trio.SocketStream]:
    """Return a transport to `endpoint` and its TCP stream. Raise DialError or BadAddress. No deadline here.

    A secure WebSocket needs `tls`.

    A single address is dialled immediately (py-libp2p waits 250 ms even for one); several start half a second
    apart.
    """
    if endpoint.port == 0:
        raise BadAddress(f"{endpoint.text()}: cannot dial port 0")
    try:
        if endpoint.kind in ("dns4", "dns6"):
            tcp = await _dial_family(endpoint)
        else:
            tcp = await trio.open_tcp_stream(endpoint.host, endpoint.port, happy_eyeballs_delay=0.5)
    except OSError as error:
        raise DialError(f"{endpoint.text()}: {error.strerror or error}") from None
    if not endpoint.transport:
        return tcp, tcp
    try:
        stream: TwoWay = tcp
        if endpoint.transport == "/wss":
            assert tls is not None
            stream = await client_handshake(tcp, tls, endpoint)
        return await WebSocket.connect(stream, host_header(endpoint)), tcp
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise


async def _dial_family(endpoint: Endpoint) -> trio.SocketStream:
    """Dial all addresses of a name in one family; trio.open_tcp_stream would also try the other family.

    The next address starts when one has failed or half a second has passed. Raise OSError.
    """
    found = await trio.socket.getaddrinfo(
        endpoint.host, endpoint.port, endpoint.family, trio.socket.SOCK_STREAM
    )
    hosts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    errors: list[OSError] = []
    winner: list[trio.SocketStream] = []

    async def attempt(host: str, failed: trio.Event, scope: trio.CancelScope) -> None:
        try:
            tcp = await trio.open_tcp_stream(host, endpoint.port)
        except OSError as error:
            errors.append(error)
            failed.set()
            return
        if winner:
            await trio.aclose_forcefully(tcp)
            return
        winner.append(tcp)
        scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for host in hosts:
                failed = trio.Event()
                nursery.start_soon(attempt, host, failed, nursery.cancel_scope)
                with trio.move_on_after(0.5):
                    await failed.wait()
    except BaseException:
        for tcp in winner:
            await trio.aclose_forcefully(tcp)
        raise
    if winner:
        return winner[0]
    raise errors[-1] if errors else OSError(f"{endpoint.host} has no address")


def host_header(endpoint: Endpoint) -> str:
    """Return host and port in HTTP syntax: IPv6 addresses in brackets (RFC 3986, 3.2.2)."""
    name = endpoint.server_name or endpoint.host
    host = f"[{name}]" if ":" in name else name
    return f"{host}:{endpoint.port}"


async def listen(endpoint: Endpoint) -> list[trio.SocketListener]:
    """Return bound listeners for `endpoint`; port 0 picks a free port. Raise BadAddress or OSError."""
    if endpoint.kind not in ("ip4", "ip6"):
        raise BadAddress(f"{endpoint.text()}: cannot listen on a name, use an IP address")
    return list(await trio.open_tcp_listeners(endpoint.port, host=endpoint.host, backlog=BACKLOG))


async def accept(tcp: trio.SocketStream, on: Endpoint, certificate: ServerCertificate | None) -> ByteStream:
    """Return the transport of an accepted connection. Any exception means that the handshake failed. No
    deadline here."""
    if not on.transport:
        return tcp
    if on.transport == "/ws":
        return await WebSocket.accept(tcp)
    assert certificate is not None
    return await WebSocket.accept(await certificate.handshake(tcp))


class WebSocket:
    """A WebSocket as a byte stream: binary messages in and out, without tasks or message buffers.

    Bytes of a long message are passed on as they arrive: no message is too large, none is buffered.
    """

    READ_SIZE = 65536

    def __init__(self, stream: TwoWay, protocol: wsproto.WSConnection) -> None:
        self._stream = stream
        self._protocol = protocol
        self._closed = False
        # The reading task may send a pong while another task is sending data.
        self._send_lock = trio.Lock()

    @classmethod
    async def accept(cls, stream: TwoWay) -> WebSocket:
        """Perform the server side of the opening handshake. Raise trio.BrokenResourceError if it is
        invalid."""
        self = cls(stream, wsproto.WSConnection(wsproto.ConnectionType.SERVER))
        request = await self._handshake_event()
        if not isinstance(request, Request):
            raise trio.BrokenResourceError("not a WebSocket request")
        await stream.send_all(self._protocol.send(AcceptConnection()))
        return self

    @classmethod
    async def connect(cls, stream: TwoWay, host: str) -> WebSocket:
        """Perform the client side. Raise DialError if the server does not upgrade."""
        self = cls(stream, wsproto.WSConnection(wsproto.ConnectionType.CLIENT))
        try:
            await stream.send_all(self._protocol.send(Request(host=host, target="/")))
            answer = await self._handshake_event()
        except trio.BrokenResourceError as error:
            raise DialError(f"{host}: WebSocket handshake failed: {error}") from None
        if not isinstance(answer, AcceptConnection):
            raise DialError(f"{host}: WebSocket refused")
        return self

    async def _handshake_event(self) -> object:
        while True:
            for event in self._protocol.events():
                return event
            data = await self._stream.receive_some(self.READ_SIZE)
            try:
                self._protocol.receive_data(bytes(data) or None)
            except ProtocolError as error:
                raise trio.BrokenResourceError(str(error)) from None
            if not data:
                raise trio.BrokenResourceError("closed in the WebSocket handshake")

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        """Return the next bytes, b"" at EOF. `max_bytes` is a hint, as for a socket read."""
        while True:
            parts: list[bytes] = []
            try:
                for event in self._protocol.events():
                    if isinstance(event, BytesMessage):
                        parts.append(bytes(event.data))
                    elif isinstance(event, TextMessage):
                        raise trio.BrokenResourceError("text message on a libp2p WebSocket")
                    elif isinstance(event, Ping):
                        await self._send(self._protocol.send(event.response()))
                    elif isinstance(event, CloseConnection):
                        self._closed = True
                        if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                            await self._send(self._protocol.send(event.response()))
            except ProtocolError as error:
                raise trio.BrokenResourceError(str(error)) from None
            if data := b"".join(parts):
                return data
            if self._closed:
                return b""
            received = await self._stream.receive_some(max_bytes)
            if not received:
                return b""
            try:
                self._protocol.receive_data(bytes(received))
            except ProtocolError as error:
                raise trio.BrokenResourceError(str(error)) from None

    async def _send(self, data: bytes) -> None:
        async with self._send_lock:
            await self._stream.send_all(data)

    async def send_all(self, data: bytes) -> None:
        """Send one binary message."""
        async with self._send_lock:
            if self._protocol.state is not ConnectionState.OPEN:
                raise trio.BrokenResourceError("WebSocket is closing")
            await self._stream.send_all(self._protocol.send(BytesMessage(data=data)))

    async def aclose(self) -> None:
        """Close the connection; the WebSocket closing handshake has no meaning for a libp2p peer."""
        await self._stream.aclose()

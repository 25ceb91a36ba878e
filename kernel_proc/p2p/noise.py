"""Noise security channel: py-libp2p's XX handshake, followed by our own transport phase.

The library needs two socket reads per frame and writes one frame per call. Here one socket read yields as
many frames as it contains, and any number of plaintext pieces leave in one write.
Spec: github.com/libp2p/specs/noise.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fcntl import ioctl
from termios import FIONREAD
from typing import Final, cast

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from kernel_proc.p2p._errors import ConnectionEnded, ProtocolViolation
from kernel_proc.p2p._libp2p import (
    ID,
    KeyPair,
    NoiseTransportReadWriter,
    PatternXX,
    SecureSession,
    create_x25519_key_pair,
)
from kernel_proc.p2p.buffered import READ_SIZE, BufferedTransport, ByteStream, HandshakeConnection
from kernel_proc.p2p.scratch import FRAME_ROOM, HEADER_ROOM, Scratch

PROTOCOL: Final = "/noise"
TAG: Final = 16
MAX_FRAME: Final = 65535
MAX_PLAINTEXT: Final = MAX_FRAME - TAG
_NOTHING: Final = bytes(4)


class NoiseSecurity:
    """Create secure channels with one node key. The noise static key is new per process."""

    def __init__(self, key_pair: KeyPair) -> None:
        self._local = ID.from_pubkey(key_pair.public_key)
        self._private = key_pair.private_key
        self._static = create_x25519_key_pair().private_key
        self._scratch = Scratch()

    async def handshake(
        self, transport: BufferedTransport, *, initiator: bool, expected: ID | None = None
    ) -> SecureChannel:
        """Run the XX handshake.

        Raise whatever the library raises for a broken or malicious peer; the caller treats any exception as a
        failed handshake.
        """
        # XX transmits both static keys; the payload binds ours to the node's identity by a signature of the
        # libp2p key (libp2p/specs/noise, Static Key Authentication).
        pattern = PatternXX(self._local, self._private, self._static)
        connection = HandshakeConnection(transport, initiator=initiator)
        if initiator:
            session = await pattern.handshake_outbound(connection, expected)
        else:
            session = await pattern.handshake_inbound(connection)
        secure = cast("SecureSession", session)
        state = cast("NoiseTransportReadWriter", secure.conn).noise_state.noise_protocol
        return SecureChannel(
            transport.stream,
            remote_peer=secure.get_remote_peer(),
            send_key=bytes(state.cipher_state_encrypt.k),
            receive_key=bytes(state.cipher_state_decrypt.k),
            # The peer's first transport messages may have arrived together with its last handshake message.
            rest=transport.take_rest(),
            scratch=self._scratch,
        )


class SecureChannel:
    """The encrypted channel after the handshake. `feed` and `seal` are pure, the rest is a thin shell."""

    def __init__(
        self,
        stream: ByteStream,
        *,
        remote_peer: ID,
        send_key: bytes,
        receive_key: bytes,
        scratch: Scratch,
        rest: bytes = b"",
    ) -> None:
        self.stream = stream
        self._scratch = scratch
        self.remote_peer = remote_peer
        self._send = ChaCha20Poly1305(send_key)
        self._receive = ChaCha20Poly1305(receive_key)
        self._send_nonce = 0
        self._receive_nonce = 0
        self._cipher_buffer = bytearray(rest)
        self._plain_buffer = bytearray()
        self.received_bytes = len(rest)
        """Bytes from the transport since the handshake."""
        self.sent_bytes = 0
        """Bytes sealed for the transport since the handshake."""
        # A WebSocket has frames of its own, which only its lock keeps in order.
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self.can_send_now = self._socket is not None
        self._socket_ended = False

    # -- pure ----------------------------------------------------------

    def feed(self, data: bytes | bytearray) -> list[bytes]:
        """Return the plaintext of each complete frame received so far.

        Raise ProtocolViolation for a frame that does not decrypt.
        """
        buffer = self._cipher_buffer
        if buffer:
            buffer += data
            source: bytes | bytearray = buffer
        else:
            source = data  # usually no copy into the buffer is needed
        with memoryview(source) as view:
            pieces, position = self._open(view, 0, len(source))
            rest = b"" if source is buffer else bytes(view[position:])
        if source is buffer:
            del buffer[:position]
        else:
            buffer += rest
        return pieces

    def _open(self, source: memoryview, position: int, end: int) -> tuple[list[bytes], int]:
        """Return the plaintext of each complete frame in `source[position:end]`, and where the rest is."""
        pieces: list[bytes] = []
        decrypt = self._receive.decrypt
        try:
            while end - position >= 2:
                start = position + 2
                stop = start + (source[position] << 8 | source[position + 1])
                if stop > end:
                    break
                # Noise ChaChaPoly nonce: 4 zero bytes, then the message counter as 8 bytes little-endian
                # (Noise 12.3). The order of messages is implied, so a lost or replayed frame does not
                # decrypt.
                nonce = b"\0\0\0\0" + self._receive_nonce.to_bytes(8, "little")
                self._receive_nonce += 1
                piece = decrypt(nonce, source[start:stop], None)
                if piece:
                    pieces.append(piece)
                position = stop
        except (InvalidTag, ValueError):
            raise ProtocolViolation("noise: decryption failed") from None
        return pieces, position

    def seal(self, pieces: Sequence[bytes | memoryview]) -> bytes:
        """Encrypt `pieces` into frames of at most 65535 bytes (libp2p/specs/noise, Wire format): small
        ones are joined, large ones split."""
        return bytes(self._seal(pieces))

    def _seal(self, pieces: Sequence[bytes | memoryview]) -> memoryview:
        total = sum(map(len, pieces))
        # Two frames in a row hold more than one of the largest size would.
        target = self._scratch.sealed(total + (2 + TAG) * (2 * total // MAX_PLAINTEXT + 2))
        end = 0
        batch: list[bytes | memoryview] = []
        size = 0
        for piece in pieces:
            length = len(piece)
            if size + length > MAX_PLAINTEXT:
                if batch:
                    end = self._seal_into(target, end, batch[0] if len(batch) == 1 else b"".join(batch))
                    batch, size = [], 0
                if length > MAX_PLAINTEXT:
                    view = memoryview(piece)
                    for start in range(0, length, MAX_PLAINTEXT):
                        end = self._seal_into(target, end, view[start : start + MAX_PLAINTEXT])
                    continue
            batch.append(piece)
            size += length
        if batch:
            end = self._seal_into(target, end, batch[0] if len(batch) == 1 else b"".join(batch))
        self.sent_bytes += end
        return target[:end]

    def _seal_into(self, target: memoryview, start: int, plaintext: bytes | memoryview) -> int:
        """Encrypt one frame to `target` at `start`. Return its end."""
        nonce = b"\0\0\0\0" + self._send_nonce.to_bytes(8, "little")
        self._send_nonce += 1
        size = len(plaintext) + TAG
        body, end = start + 2, start + 2 + size
        target[start:body] = size.to_bytes(2, "big")
        self._send.encrypt_into(nonce, plaintext, None, target[body:end])
        return end

    # -- shell ----------------------------------------------------------

    @property
    def descriptor(self) -> int | None:
        """The socket that `receive_now` reads; None if it is closed, or another transport is used."""
        number = -1 if self._socket is None else self._socket.fileno()
        return None if number < 0 else number

    async def receive(self) -> list[bytes]:
        """Wait for the next plaintext pieces; an empty list at EOF. Raise what transports raise."""
        if self._plain_buffer:
            rest = bytes(self._plain_buffer)
            self._plain_buffer.clear()
            return [rest]
        if self._cipher_buffer and (pieces := self.feed(b"")):
            return pieces
        while True:
            if (socket := self._socket) is not None:
                if socket.fileno() < 0:
                    raise trio.ClosedResourceError("the transport was closed")
                await trio.lowlevel.wait_readable(socket)
                if (pieces := self.receive_now()) or self._socket_ended:
                    return pieces
                continue
            data = await self.stream.receive_some(READ_SIZE)
            if not data:
                return []
            self.received_bytes += len(data)
            if pieces := self.feed(data):
                return pieces

    def receive_now(self) -> list[bytes]:
        """Return the plaintext pieces of what the socket has now; an empty list if it has nothing, or another
        transport is used. After `receive` only. Raise ProtocolViolation or OSError."""
        if self._socket is None or self._socket_ended:
            return []
        held = self._cipher_buffer
        buffer = self._scratch.received
        try:
            size = os.readv(self._socket.fileno(), self._scratch.read_into)  # trio's sockets do not block
        except BlockingIOError:
            return []
        begin, end = FRAME_ROOM - len(held), FRAME_ROOM + size
        if held:
            buffer[begin:FRAME_ROOM] = held
        pieces, position = self._open(buffer, begin, end)
        if held or position < end:
            held[:] = buffer[position:end]
        self.received_bytes += size
        self._socket_ended = not size
        return pieces

    def receive_more(self) -> list[bytes]:
        """Return the same of what has come since the last read."""
        # Asking first: a read of an empty socket is an exception, which costs twice as much.
        if self._socket is None or ioctl(self._socket.fileno(), FIONREAD, _NOTHING) == _NOTHING:
            return []
        return self.receive_now()

    def send_some(self, pieces: Sequence[bytes | memoryview]) -> bytes:
        """Seal `pieces`, write what the socket takes without waiting, and return the rest: the next bytes to
        send on the transport.

        Only while no other write is under way. An error counts as nothing taken: sending the rest meets it
        again.
        """
        return self._write_some(self._seal(pieces))

    def send_small(self, head: bytes, body: bytes) -> bytes:
        """Do the same with a single frame. Up to a few KiB, copies cost less than views of shared memory."""
        nonce = b"\0\0\0\0" + self._send_nonce.to_bytes(8, "little")
        self._send_nonce += 1
        frame = self._send.encrypt(nonce, head + body, None)
        sealed = len(frame).to_bytes(2, "big") + frame
        self.sent_bytes += len(sealed)
        return self._write_some(sealed)

    def send_data(self, data: bytes, frames: Sequence[tuple[bytes, int, int]], most: int) -> bytes:
        """Do the same with parts of `data`, each a header and the span of its body, which does not cross a
        multiple of `most`."""
        scratch, end = self._scratch, 0
        scratch.lay_out(data, most)
        plain = scratch.plain
        target = scratch.sealed(len(data) + len(frames) * (2 + HEADER_ROOM + TAG))
        for head, start, stop in frames:
            place = start + (start // most + 1) * HEADER_ROOM
            begin = place - len(head)
            # A body that begins within a laid out one has no room of its own before it.
            covered = bytes(plain[begin:place]) if start % most else b""
            plain[begin:place] = head
            end = self._seal_into(target, end, plain[begin : place + stop - start])
            if covered:
                plain[begin:place] = covered
        self.sent_bytes += end
        return self._write_some(target[:end])

    def _write_some(self, sealed: bytes | memoryview) -> bytes:
        if self._socket is None:
            return bytes(sealed)
        try:
            taken = os.write(self._socket.fileno(), sealed)  # trio's sockets do not block
        except OSError:
            taken = 0
        return b"" if taken == len(sealed) else bytes(sealed[taken:])

    async def read_exactly(self, count: int) -> bytes:
        """Read exactly `count` bytes; only for the muxer negotiation."""
        while len(self._plain_buffer) < count:
            pieces = self.feed(b"") or self.feed(await self._receive_or_end())
            for piece in pieces:
                self._plain_buffer += piece
        result = bytes(self._plain_buffer[:count])
        del self._plain_buffer[:count]
        return result

    async def _receive_or_end(self) -> bytes | bytearray:
        data = await self.stream.receive_some(READ_SIZE)
        if not data:
            raise ConnectionEnded("closed by peer")
        self.received_bytes += len(data)
        return data

    async def write(self, data: bytes) -> None:
        """Write one frame; only for the muxer negotiation, afterwards a single writer seals and sends."""
        await self.stream.send_all(self.seal((data,)))

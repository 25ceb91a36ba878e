"""What both pipelines have in common: the messages, the count at the far end, and the flow control between.

The app acknowledges over a Unix socket of its own, on which it names its content topic first: four bytes
each, how many distinct messages of the round have arrived. The source never has more than a window
outstanding, so that no socket on the way has to drop.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from struct import Struct
from typing import Final

from tests.bench.harness import percentile
from tests.bench.lines import cpu_us, emit

HEAD: Final = Struct(">QQ")
MIN_SIZE: Final = HEAD.size
ACK: Final = Struct(">I")
MAX_TOPIC: Final = 256
_ACK_BUFFER: Final = 64 << 10


def payload_maker(size: int) -> Callable[[int], bytes]:
    """A function (number) → payload of `size` bytes, stamped with the time of the call."""
    if size < MIN_SIZE:
        raise ValueError(f"a payload has at least {MIN_SIZE} bytes")
    filler = os.urandom(size - MIN_SIZE)
    pack, now = HEAD.pack, time.monotonic_ns

    def make(number: int) -> bytes:
        return pack(number, now()) + filler

    return make


def hash_maker() -> Callable[[int], bytes]:
    """A function (number) → 32 bytes that stand for the message hash (hashing is not what is measured)."""
    head = os.urandom(24)

    def make(number: int) -> bytes:
        return head + number.to_bytes(8, "big")

    return make


class Acks:
    """The source's end of an app's acknowledgements. `count` is the newest."""

    def __init__(self, connection: socket.socket) -> None:
        self.descriptor = connection.fileno()
        self._socket = connection
        self.count = 0
        self._rest = b""

    def begin(self) -> None:
        """A new round."""
        self.count = 0

    def look(self, flags: int = socket.MSG_DONTWAIT) -> bool:
        """Read what has come; False: nothing (with flags 0 it waits instead)."""
        try:
            data = self._socket.recv(_ACK_BUFFER, flags)
        except BlockingIOError:
            return False
        if not data:
            raise SystemExit("the app is gone")
        data = self._rest + data
        whole = len(data) - len(data) % ACK.size
        self._rest = data[whole:]
        if whole:
            self.count = ACK.unpack_from(data, whole - ACK.size)[0]
        return True


class Tally:
    """Counts what arrives of one round, acknowledges it, and reports when all is there."""

    def __init__(
        self, acks: socket.socket, number: int, messages: int, ack_every: int, *, timed: bool
    ) -> None:
        self._acks = acks
        self._round = number
        self._messages = messages
        self._ack_every = ack_every
        self._timed = timed
        self._seen = bytearray(messages)
        self._received = 0
        self._duplicates = 0
        self._latencies: list[int] = []
        self._cpu = cpu_us()

    def take(self, payload: bytes) -> None:
        """One message has arrived."""
        number, sent = HEAD.unpack_from(payload)
        if number >> 32 != self._round:
            return
        index = number & 0xFFFFFFFF
        if self._seen[index]:
            self._duplicates += 1
            return
        self._seen[index] = 1
        self._received += 1
        if self._timed:
            self._latencies.append(time.monotonic_ns() - sent)
        if self._received == self._messages:
            self._finish()
        elif self._received % self._ack_every == 0:
            self._acks.send(ACK.pack(self._received))

    def _finish(self) -> None:
        last = time.monotonic_ns()
        self._acks.send(ACK.pack(self._received))
        latency = {}
        if self._timed:
            latency = {f"p{share}_us": percentile(self._latencies, share / 100) / 1000 for share in (50, 99)}
        emit(
            "received",
            received=self._received,
            duplicates=self._duplicates,
            last_ns=last,
            cpu_us=cpu_us() - self._cpu,
            **latency,
        )

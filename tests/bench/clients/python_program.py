"""The program of the bench `clients` for Python; its command line is described in `driver`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence

import zmq

from ipc_schema.frames import encode_request
from logos_client import MessageReceived, MessagingClient
from tests.bench.clients.server import TOPIC
from tests.bench.harness import percentile
from tests.bench.lines import cpu_us, emit

WINDOW = 64


class _Stopwatch:
    def __init__(self) -> None:
        self.cpu = cpu_us()
        self.start = time.monotonic()

    def done(self, delays: Sequence[float] = ()) -> None:
        seconds = time.monotonic() - self.start
        shares = {f"p{share}_us": percentile(delays, share / 100) * 1e6 for share in (50, 99) if delays}
        emit("done", seconds=seconds, cpu_us=cpu_us() - self.cpu, **shares)


async def client(role: str, endpoint: str, count: int, size: int) -> None:
    """The client's side."""
    payload = bytes(size)
    async with MessagingClient.connect(endpoint) as app:
        if role == "receive":
            await app.subscribe(f"/bench/1/{count}/{size}")
            event = await app.next_event(10)
            watch = _Stopwatch()
            for seq in range(2, count + 1):
                event = await app.next_event(10)
                assert isinstance(event, MessageReceived), event
                assert event.seq == seq, event
            watch.done()
        elif role == "send":
            left = iter(range(count))

            async def some() -> None:
                for _ in left:
                    await app.send(TOPIC, payload)

            watch = _Stopwatch()
            await asyncio.gather(*(some() for _ in range(WINDOW)))
            watch.done()
        else:
            watch, delays = _Stopwatch(), []
            for _ in range(count):
                start = time.monotonic()
                await app.send(TOPIC, payload)
                delays.append(time.monotonic() - start)
            watch.done(delays)


def bare(role: str, endpoint: str, count: int, size: int) -> None:
    """The bare loop."""
    body = {"request_id": os.urandom(16), "content_topic": TOPIC}
    request = encode_request(os.urandom(16), "send", body, [bytes(size)])
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.set(zmq.LINGER, 0)
        dealer.connect(endpoint)
        if role == "receive":
            dealer.send_multipart([b"flood", b"%d" % count, b"%d" % size])
            dealer.recv_multipart()
            watch = _Stopwatch()
            for _ in range(count - 1):
                dealer.recv_multipart()
            watch.done()
        elif role == "send":
            watch = _Stopwatch()
            for number in range(count + WINDOW):
                if number >= WINDOW:
                    dealer.recv_multipart()
                if number < count:
                    dealer.send_multipart(request)
            watch.done()
        else:
            watch, delays = _Stopwatch(), []
            for _ in range(count):
                start = time.monotonic()
                dealer.send_multipart(request)
                dealer.recv_multipart()
                delays.append(time.monotonic() - start)
            watch.done(delays)


if __name__ == "__main__":
    role, side, endpoint, count, size = sys.argv[1:]
    if side == "client":
        asyncio.run(client(role, endpoint, int(count), int(size)))
    else:
        bare(role, endpoint, int(count), int(size))

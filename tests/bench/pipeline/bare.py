"""The reference: the same work in bare pyzmq, three processes with nothing in them but a loop over a socket.

    python -m tests.bench.pipeline.bare source EVENTS_ENDPOINT ACK_SOCKET
    python -m tests.bench.pipeline.bare middle EVENTS_ENDPOINT APPS_ENDPOINT
    python -m tests.bench.pipeline.bare app APPS_ENDPOINT ACK_SOCKET

source: XPUB, an event header packed for each message, three direct sends. middle: SUB, header unpacked, hash
looked up in a set, an app header packed, four direct sends on a ROUTER. app: DEALER, header unpacked, count.
The frames are those of the contract; there is no loop library, no validation, no subscription table, no seq
check, no credit, no bound and no second socket. The calls are the backend's own (pyzmq's Python layer above
them costs about as much again), frames are counted instead of asking for RCVMORE, and a large payload goes
through without a copy.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import zmq
from msgpack import Packer, unpackb

from ipc_schema.frames import MAGIC
from tests.bench.lines import cpu_us, emit
from tests.bench.pipeline.wire import Acks, Tally, hash_maker, payload_maker

_TOPIC: Final = b"m/42/0\0"
_MORE: Final = int(zmq.SNDMORE)
_ZERO_COPY_FROM: Final = 64 << 10


def _open(kind: int) -> zmq.Socket[bytes]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    opened = context.socket(kind)
    opened.set(zmq.SNDHWM, 0)  # the window is the bound
    opened.set(zmq.RCVHWM, 0)
    opened.set(zmq.LINGER, 0)
    return opened


def _calls(opened: zmq.Socket[bytes]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    backend = zmq.backend.Socket
    return functools.partial(backend.send, opened), functools.partial(backend.recv, opened)


def source(events: str, ack_path: str) -> None:
    """Publish on command, at most a window ahead of the app."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(ack_path)
    listener.listen()
    publisher = _open(zmq.XPUB)
    publisher.bind(events)
    emit("ready")
    acks = Acks(listener.accept()[0])
    publisher.recv()  # the subscription
    send, _ = _calls(publisher)
    pack, digest = Packer().pack, hash_maker()
    instance, epoch, seq = os.urandom(16), os.urandom(8), 0
    emit("subscribed")
    for line in sys.stdin:
        command = json.loads(line)
        number, messages, window = command["round"], command["messages"], command["window"]
        topic, rate = command["topic"], command.get("rate")
        make = payload_maker(command["size"])
        acks.begin()
        cpu, start = cpu_us(), time.monotonic_ns()
        due = time.monotonic()
        for index in range(messages):
            if rate:
                due += 1 / rate
                time.sleep(max(0.0, due - time.monotonic()))
            while index - acks.count >= window:
                acks.look(0)
            full = number << 32 | index
            payload = make(full)
            seq += 1
            now = time.time_ns()
            header = pack((1, 1, instance, epoch, seq, now, topic, digest(full), now, b"", False, 0, b"", 0))
            send(_TOPIC, _MORE)
            send(header, _MORE)
            send(payload, 0)
        while acks.count < messages:
            acks.look(0)
        emit("published", start_ns=start, cpu_us=cpu_us() - cpu)


def middle(events: str, apps: str) -> None:
    """Forward what is new to the one app."""
    router = _open(zmq.ROUTER)
    router.bind(apps)
    emit("ready")
    identity, _ = router.recv_multipart()
    subscriber = _open(zmq.SUB)
    subscriber.subscribe(_TOPIC)
    subscriber.connect(events)
    send, _ = _calls(router)
    _, receive = _calls(subscriber)
    pack = Packer().pack
    seen: set[bytes] = set()
    stream, seq, size = os.urandom(16), 0, 0
    while True:
        receive(0)
        header = unpackb(receive(0), use_list=False)
        if size < _ZERO_COPY_FROM:
            payload = receive(0)
            size = len(payload)
            copy = True
        else:
            payload = receive(0, False)
            size = len(payload.buffer)
            copy = False
        digest = header[7]
        if digest in seen:
            continue
        seen.add(digest)
        seq += 1
        head = pack((1, stream, seq, 1, time.time_ns(), *header[6:12]))
        send(identity, _MORE)
        send(MAGIC, _MORE)
        send(head, _MORE)
        send(payload, 0, copy)


def app(apps: str, ack_path: str) -> None:
    """Count what arrives."""
    acks = socket.socket(socket.AF_UNIX)
    acks.connect(ack_path)
    dealer = _open(zmq.DEALER)
    dealer.connect(apps)
    dealer.send(b"hello")
    tallies: list[Tally] = []

    def obey() -> None:
        for line in sys.stdin:
            command = json.loads(line)
            tally = Tally(
                acks, command["round"], command["messages"], command["ack_every"], timed=command["timed"]
            )
            tallies[:] = [tally]
            emit("expecting")
        os._exit(0)

    threading.Thread(target=obey, daemon=True).start()
    _, receive = _calls(dealer)
    emit("ready")
    while True:
        receive(0)
        header = unpackb(receive(0), use_list=False)
        payload = receive(0)
        if header[3] == 1:
            tallies[0].take(payload)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    role, first, second = sys.argv[1:4]
    if role == "middle":
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    {"source": source, "middle": middle, "app": app}[role](first, second)


if __name__ == "__main__":
    main()

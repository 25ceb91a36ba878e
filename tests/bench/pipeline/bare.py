"""The reference: the same work in bare pyzmq, three processes with nothing in them but a loop over a socket.

    python -m tests.bench.pipeline.bare source EVENTS_ENDPOINT ACK_SOCKET
    python -m tests.bench.pipeline.bare middle EVENTS_ENDPOINT APPS_ENDPOINT whole|blind [JOURNAL]
    python -m tests.bench.pipeline.bare app APPS_ENDPOINT ACK_SOCKET whole|blind

source: XPUB, an event header encoded for each message, three direct sends. middle: SUB, header decoded, hash
looked up in a set, an app header encoded, four direct sends on a ROUTER. app: DEALER, header decoded, count.

Frames and header codec are those of the contract. Around them is only what a drain loop needs: poll, then
read without blocking until nothing is left. There is no event loop library, no second socket, no subscription
table, no seq check, no credit, no bound; flags are plain integers. `whole` reads messages as pyzmq offers it
(`recv_multipart`). `blind` takes the number of frames for granted and never asks where a message ends: the
fastest that pyzmq can be driven, and no way to read from anybody who might send something else.

With JOURNAL, a path, middle stores what it has read until nothing is left as one SQLite transaction before
it sends it, with the journal's settings and durability, and deletes what an app would have acknowledged.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import zmq

from ipc_schema.frames import MAGIC
from ipc_schema.kernel.events import SOURCE_RELAY, MessageEvent, MessageHeaderEncoder, decode_header
from ipc_schema.mapi.event_codec import AppEventEncoder, decode_app_event, fields_packer
from ipc_schema.mapi.events import AppEventKind, MessageReceived
from ipc_schema.message import WakuMessage
from tests.bench.lines import cpu_us, emit
from tests.bench.pipeline.wire import Acks, Tally, hash_maker, payload_maker

_TOPIC: Final = b"m/42/0\0"
_MORE: Final = int(zmq.SNDMORE)
_NOBLOCK: Final = int(zmq.NOBLOCK)
GROUP: Final = 128
_RECEIVED: Final = int(AppEventKind.MESSAGE_RECEIVED)


def _open(kind: int) -> zmq.Socket[bytes]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    opened = context.socket(kind)
    opened.set(zmq.SNDHWM, 0)  # the window is the bound
    opened.set(zmq.RCVHWM, 0)
    opened.set(zmq.LINGER, 0)
    return opened


def _reader(opened: zmq.Socket[bytes], how: str) -> Callable[[], Sequence[bytes]]:
    """Reads one message of three frames without blocking."""
    receive, receive_multipart = opened.recv, opened.recv_multipart

    def blind() -> Sequence[bytes]:
        return receive(_NOBLOCK), receive(_NOBLOCK), receive(_NOBLOCK)

    def whole() -> Sequence[bytes]:
        return receive_multipart(_NOBLOCK)

    return {"blind": blind, "whole": whole}[how]


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
    send, digest, seq = publisher.send, hash_maker(), 0
    encode = MessageHeaderEncoder(os.urandom(16), os.urandom(8)).encode
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
            message = WakuMessage(payload, topic, timestamp=now)
            send(_TOPIC, _MORE)
            send(encode(seq, now, message, digest(full), SOURCE_RELAY), _MORE)
            send(payload)
        while acks.count < messages:
            acks.look(0)
        emit("published", start_ns=start, cpu_us=cpu_us() - cpu)


def middle(events: str, apps: str, how: str, journal: str = "") -> None:
    """Forward what is new to the one app."""
    router = _open(zmq.ROUTER)
    router.bind(apps)
    emit("ready")
    identity, _ = router.recv_multipart()
    subscriber = _open(zmq.SUB)
    subscriber.subscribe(_TOPIC)
    subscriber.connect(events)
    receive = _reader(subscriber, how)
    send = router.send
    encode = AppEventEncoder(os.urandom(16)).encode
    pack_fields = fields_packer()
    store = _journal(journal) if journal else None
    seen: set[bytes] = set()
    seq = 0

    def forward(header: bytes, payload: bytes) -> None:
        send(identity, _MORE)
        send(MAGIC, _MORE)
        send(header, _MORE)
        send(payload)

    poller = zmq.Poller()
    poller.register(subscriber, zmq.POLLIN)
    while True:
        poller.poll()
        read: list[tuple[int, bytes, bytes]] = []
        with suppress(zmq.Again):
            while len(read) < GROUP:
                _, header, payload = receive()
                event = decode_header(header)
                assert type(event) is MessageEvent
                digest = event[5]
                if digest in seen:
                    continue
                seen.add(digest)
                seq += 1
                header = encode(seq, _RECEIVED, time.time_ns(), pack_fields(event[4:10]))
                if store is None:
                    forward(header, payload)
                else:
                    read.append((seq, header, payload))
        if store is not None and read:
            store(read)
            for _, header, payload in read:
                forward(header, payload)


def _journal(path: str) -> Callable[[list[tuple[int, bytes, bytes]]], None]:
    """A table of events, and what stores some in it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE journal (seq INTEGER PRIMARY KEY, header BLOB, payload BLOB)")

    def store(rows: list[tuple[int, bytes, bytes]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO journal VALUES (?, ?, ?)", rows)
        connection.execute("DELETE FROM journal WHERE seq < ?", (rows[-1][0] - GROUP,))
        connection.execute("COMMIT")

    return store


def app(apps: str, ack_path: str, how: str) -> None:
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
    receive = _reader(dealer, how)
    poller = zmq.Poller()
    poller.register(dealer, zmq.POLLIN)
    emit("ready")
    while True:
        poller.poll()
        with suppress(zmq.Again):
            while True:
                _, header, payload = receive()
                if type(decode_app_event(header)) is MessageReceived:
                    tallies[0].take(payload)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    role, *arguments = sys.argv[1:]
    if role == "middle":
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    roles: dict[str, Callable[..., None]] = {"source": source, "middle": middle, "app": app}
    roles[role](*arguments)


if __name__ == "__main__":
    main()

"""Doors: who comes in, how many, and what becomes of those who fill the memory."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import zmq

from logos_sockets import Door, MemoryWatch, open_publisher, open_router
from logos_sockets.door import BACKLOG, RESERVE, TICK
from tests.unit.logos_client.support import short_directory

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)


class House:
    """A ROUTER with its door, stepped by hand, and clients that speak no ZMTP."""

    def __init__(self, directory: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.path = directory / "apps"
        self.clients: list[socket.socket] = []
        self.router = open_router(self.context, linger_ms=0)
        self.free = 10_000
        self.now = 0.0
        self.door: Door | None = None

    def open(self, *, limit: int = 64, allowed: frozenset[int] | None = None) -> Door:
        self.door = Door(self.router, "apps", limit=limit, allowed_uids=allowed, free=lambda: self.free)
        assert self.door.open(f"ipc://{self.path}", group=False) == f"ipc://{self.path}"
        return self.door

    def client(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        self.clients.append(client)
        client.setblocking(False)
        client.connect(str(self.path))
        return client

    def step(self) -> None:
        assert self.door is not None
        self.now += 0.01
        self.door.step(self.now)

    def until(self, connections: int) -> None:
        """Step until so many are connected, and see that it stays so."""
        assert self.door is not None
        door = self.door
        self.until_true(lambda: door.connections == connections)

    def until_true(self, condition: Callable[[], bool]) -> None:
        """Step until it holds."""
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, self.door
            self.step()
            time.sleep(0.001)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        if self.door is not None:
            self.door.close()
        self.context.destroy(linger=0)


@pytest.fixture
def house() -> Iterator[House]:
    with short_directory() as directory:
        house = House(Path(directory))
        yield house
        house.close()


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def is_closed(client: socket.socket) -> bool:
    """Wait until the server has said something: its greeting, or the end."""
    client.settimeout(20)
    try:
        while client.recv(256):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_client_waits_until_the_door_is_looked_after(house: House) -> None:
    door = house.open()
    assert stat.S_IMODE(house.path.stat().st_mode) == 0o700
    client = house.client()
    assert door.fileno is not None
    house.until(1)
    client.sendall(GREETING)
    client.settimeout(20)
    assert client.recv(1) == GREETING[:1]
    before = house.path.stat().st_ino
    house.client()
    house.until(2)
    assert house.path.stat().st_ino != before
    door.close()
    assert not house.path.exists()
    assert list(house.path.parent.iterdir()) == []


def test_a_group_reaches_the_socket(house: House) -> None:
    house.door = Door(house.router, "apps", limit=8)
    house.door.open(f"ipc://{house.path}", group=True)
    assert stat.S_IMODE(house.path.stat().st_mode) == 0o770
    house.client()
    house.until(1)
    assert stat.S_IMODE(house.path.stat().st_mode) == 0o770


def test_one_step_lets_in_no_more_than_the_backlog_holds(house: House) -> None:
    """However many connect at once, and however long the door was not stepped."""
    door = house.open(limit=4 * BACKLOG)
    for _ in range(BACKLOG + 1):
        house.client()
    with pytest.raises(BlockingIOError):
        house.client()
    house.step()
    for _ in range(BACKLOG + 1):  # these wait in front of the next listener
        house.client()
    end = time.monotonic() + 20
    while door.counters.accepted < BACKLOG + 1:
        assert time.monotonic() < end
        door._read_monitor(house.now)
        time.sleep(0.001)
    assert door.connections == BACKLOG + 1
    house.until(2 * (BACKLOG + 1))


class Late:
    """A ZeroMQ socket whose thread only accepts when released, as on a busy machine."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._descriptor = -1
        self.due: list[tuple[int, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def setsockopt(self, option: int, value: int) -> None:
        if option == zmq.USE_FD:
            self._descriptor = value
        else:
            self._socket.setsockopt(option, value)

    def bind(self, endpoint: str) -> None:
        self.due.append((self._descriptor, endpoint))

    def accept(self) -> None:
        for descriptor, endpoint in self.due:
            self._socket.setsockopt(zmq.USE_FD, descriptor)
            self._socket.bind(endpoint)
        self._socket.setsockopt(zmq.USE_FD, -1)
        self.due.clear()


def test_no_more_come_while_libzmq_has_not_accepted_the_last_ones(house: House) -> None:
    """They would take descriptors that were counted as free."""
    late = Late(house.router)
    door = house.door = Door(cast("zmq.Socket[bytes]", late), "apps", limit=4 * BACKLOG, free=lambda: 10_000)
    door.open(f"ipc://{house.path}")
    taken = 0
    for _ in range(5):
        with suppress(BlockingIOError):
            for _ in range(BACKLOG + 1):
                house.client()
                taken += 1
        house.step()
    assert len(late.due) == 1
    assert taken == 2 * (BACKLOG + 1), "one listener at libzmq, one that waits"
    assert door.fileno is None, "a loop that watched it would spin"
    assert door.pause < TICK, "a client that is turned away tries again only later"
    late.accept()
    house.until_true(lambda: door.connections >= BACKLOG + 1)
    house.step()
    assert door.pause == TICK
    late.accept()
    house.until(2 * (BACKLOG + 1))


def test_the_limit_holds_and_places_are_given_again(house: House) -> None:
    door = house.open(limit=40)
    taken = 0
    for _ in range(8):
        batch: list[socket.socket] = []
        with suppress(BlockingIOError):
            batch.extend(house.client() for _ in range(BACKLOG + 1))
        taken += len(batch)
        house.until_true(partial(lambda n: door.counters.accepted + door.counters.refused >= n, taken))
    assert door.counters.refused > 0
    house.until_true(lambda: door.connections <= 40)
    for client in house.clients:
        client.close()
    house.clients.clear()
    house.until(0)
    house.client()
    house.until(1)


def test_clients_that_come_one_by_one_and_stay(house: House) -> None:
    """Each keeps a listener of its own. With the 256th, a socket called `apps` had no name for the next one,
    and its process looked for one for ever."""
    house.open(limit=1000)
    for number in range(260):
        house.client()
        house.until(number + 1)


def test_one_process_does_not_get_all_places(house: House) -> None:
    door = house.open(limit=40)
    for _ in range(31):
        house.client()
        house.step()
    house.until_true(lambda: door.counters.refused > 0 and door.connections <= 30)
    assert door.connections == 30


def test_no_client_is_admitted_when_descriptors_run_out(house: House) -> None:
    door = house.open()
    house.free = 2 * (BACKLOG + 1) + RESERVE
    client = house.client()
    house.step()
    assert is_closed(client)
    assert (door.counters.refused, door.connections) == (1, 0)
    assert door.fileno is None  # not watched: a queue that stays full would spin
    house.free += 1
    house.client()
    house.until(1)
    assert door.fileno is not None


def test_other_users_are_turned_away_before_they_are_heard(house: House) -> None:
    door = house.open(allowed=frozenset({os.geteuid() + 1}))
    client = house.client()
    house.step()
    assert is_closed(client)
    house.until_true(lambda: door.counters.denied > 0)
    assert door.connections == 0


def test_a_disk_without_room_for_a_socket_file_keeps_the_door_open(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = house.open()

    def full(*_: object, **__: object) -> socket.socket:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("logos_sockets.door.listening_socket", full)
        house.client()
        house.until(1)
        house.now += 10
        house.client()  # into the listener that stands open
        house.until(2)
    house.step()
    house.client()
    house.until(3)
    assert door.fileno is not None


def test_unused_listeners_are_given_back(house: House) -> None:
    house.open()
    before = open_files()
    for _ in range(5):
        house.client().close()
        house.clients.clear()
        house.step()
        house.until(0)
        house.now += 10
        house.step()
    house.until_true(lambda: open_files() <= before)


@pytest.mark.parametrize("publisher", [False, True])
def test_who_never_finishes_a_message_is_closed(house: House, publisher: bool) -> None:
    if publisher:
        house.router.close(0)
        house.router = open_publisher(house.context, 150_000, linger_ms=0)
    door = house.open()
    good, flood = house.client(), house.client()
    house.until(2)
    size = 100 << 20
    watch = MemoryWatch([door], lambda: size)
    watch.step(0.0)
    kind = b"SUB" if publisher else b"DEALER"
    flood.setblocking(True)

    def send() -> None:
        ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
        flood.sendall(GREETING + b"\x04" + bytes([len(ready)]) + ready)
        answer = b""
        while b"READY" not in answer:
            answer += flood.recv(256)
        greeted.set()
        with suppress(ConnectionError):
            while True:
                flood.sendall((b"\x01\xff" + bytes(255)) * 100)

    greeted = threading.Event()
    sender = threading.Thread(target=send)
    sender.start()
    assert greeted.wait(20)  # else it may be closed while it shakes hands
    now = 0.0
    end = time.monotonic() + 20
    while door.counters.flooding == 0:
        assert time.monotonic() < end
        size += 100 << 20
        now += 0.25
        watch.step(now)
    sender.join()
    house.until(1)
    good.setblocking(False)
    with suppress(BlockingIOError):
        assert good.recv(100)  # the greeting: it is connected
    assert door.counters.flooding == 1


def shake_hands(client: socket.socket, kind: bytes) -> None:
    """Speak ZMTP up to the first message."""
    client.settimeout(20)
    ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    client.sendall(GREETING + b"\x04" + bytes([len(ready)]) + ready)
    answer = b""
    while b"READY" not in answer:
        answer += client.recv(256)


@pytest.mark.parametrize("publisher", [False, True])
def test_a_trickle_that_never_becomes_a_message_is_closed(house: House, publisher: bool) -> None:
    """Slow enough that memory never grows fast; one that finishes its messages may go on.

    A client that is only silent has to connect again; a subscriber is left alone.
    """
    if publisher:
        house.router.close(0)
        house.router = open_publisher(house.context, 150_000, linger_ms=0)
    door = house.open()
    trickle, honest, silent = house.client(), house.client(), house.client()
    house.until(3)
    kind = b"SUB" if publisher else b"DEALER"
    for client in (trickle, honest):
        shake_hands(client, kind)
    small = b"\x00\x02\x01x" if publisher else b"\x00\x01x"  # a subscription; one frame

    def send(client: socket.socket, frames: bytes) -> None:
        with suppress(OSError):
            while True:
                client.sendall(frames)

    senders = [
        threading.Thread(target=send, args=(trickle, (b"\x01\x09" + bytes(9)) * 4096)),
        threading.Thread(target=send, args=(honest, small)),
    ]
    for sender in senders:
        sender.start()
    size, now, end = 100 << 20, 0.0, time.monotonic() + 20
    watch = MemoryWatch([door], lambda: size)
    watch.step(now)
    try:
        while door.counters.flooding == 0:
            assert time.monotonic() < end
            assert house.router.poll(20_000)
            for _ in range(1000):
                try:
                    frame = house.router.recv(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                if door.heard is not None:
                    door.heard.add(frame.get(zmq.SRCFD))
            size += 1 << 20
            now += 0.25
            watch.step(now)
        house.until(2 if publisher else 1)
        assert door.counters.flooding == (1 if publisher else 2)
        assert is_closed(trickle)
    finally:
        for client in (trickle, honest, silent):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for sender in senders:
            sender.join()


def test_beyond_bearing_a_subscriber_that_finishes_nothing_is_closed(house: House) -> None:
    """However well it hides."""
    house.router.close(0)
    house.router = open_publisher(house.context, 150_000, linger_ms=0)
    door = house.open()
    for _ in range(3):
        house.client()
    house.until(3)
    speaks = door.accepted.descriptors()[0]
    size = 100 << 20
    watch = MemoryWatch([door], lambda: size)
    for number in range(1200):
        size += 1 << 20
        if door.heard is not None:
            door.heard.add(speaks)
        watch.step(number * 0.25)
    house.until(1)
    assert door.accepted.descriptors() == [speaks]
    assert door.counters.flooding == 2


def test_memory_that_grows_fast_for_other_reasons_costs_no_client_anything(house: House) -> None:
    door = house.open()
    house.client()
    house.until(1)
    sizes = iter(range(0, 10 << 30, 100 << 20))
    watch = MemoryWatch([door], lambda: next(sizes))
    for number in range(50):
        watch.step(number * 0.25)
    assert door.connections == 1
    assert door.counters.flooding == 0


def test_tcp_is_bounded_too(house: House) -> None:
    door = house.door = Door(house.router, "apps", limit=20, free=lambda: 10_000)
    endpoint = door.open("tcp://127.0.0.1:*")
    port = int(endpoint.rpartition(":")[2])
    for _ in range(25):
        house.clients.append(socket.create_connection(("127.0.0.1", port)))
    house.until_true(lambda: door.counters.accepted == 25 and door.connections <= 20)
    assert door.counters.refused == 5

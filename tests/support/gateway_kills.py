"""Gateway, Messaging API and kernel killed (-9) one after the other, under REST sends and SSE reading.

What must hold: every accepted send has one final fate, every event of the named app comes, and it comes again
only with the same id. `make gateway-kills ROUNDS=30` runs it for longer than the test does.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ipc_schema.paths import gateway_address_file
from logos_deploy.node.restarts import MAX_RESTARTS, RESTART_WINDOW
from tests.integration.logos_node import LogosUp, wait_for
from tests.support.kernel_process import KernelProcess

TOPIC: Final = "/gateway-kills/1/load/plain"
APP: Final = "/apps/v1/killed"
NETWORK: Final = ("cluster-id=7", "num-shards-in-network=1")
FINAL: Final = ("message_sent", "message_error", "message_unconfirmed", "message_cancelled")
SENDERS: Final = 4
RATE: Final = 200.0
ORDER: Final = ("gateway", "mapi", "kernel")
EACH: Final = 200
"""Events that are read between two kills."""
PATIENCE: Final = 120.0
PACE: Final = RESTART_WINDOW / (MAX_RESTARTS - 2)
"""Seconds between two kills of one process, with some to spare: if it dies too often, the supervisor gives it
up."""


class Ledger:
    """What was accepted, and every event that came, by its id."""

    def __init__(self) -> None:
        self.accepted: dict[str, str] = {}
        """Request id → text of the message."""
        self.events: dict[str, dict[str, Any]] = {}
        self.repeats = 0
        self.faults: list[str] = []
        self._lock = threading.Lock()

    def accept(self, request_id: str, text: str) -> None:
        with self._lock:
            if self.accepted.setdefault(request_id, text) != text:
                self.faults.append(f"two sends have the request id {request_id}")

    def event(self, event_id: str, event: dict[str, Any]) -> None:
        with self._lock:
            known = self.events.setdefault(event_id, event)
            if known is not event:
                self.repeats += 1
                if known != event:
                    self.faults.append(f"{event_id} came as {known}, then as {event}")

    def fates(self) -> dict[str, list[str]]:
        """Request id → its final events."""
        found: dict[str, list[str]] = {}
        for event in list(self.events.values()):
            if event["kind"] in FINAL:
                found.setdefault(event["requestId"], []).append(event["kind"])
        return found

    def texts(self) -> list[str]:
        received = (one for one in list(self.events.values()) if one["kind"] == "message_received")
        return [base64.b64decode(one["payload"]).decode() for one in received]

    def complete(self) -> bool:
        return set(self.fates()) >= set(self.accepted) and set(self.texts()) >= set(self.accepted.values())

    def check(self) -> None:
        """Raise AssertionError for what was lost, doubled or changed."""
        assert self.faults == []
        fates, texts = self.fates(), self.texts()
        assert {one: kinds for one, kinds in fates.items() if kinds != ["message_sent"]} == {}
        assert set(self.accepted) <= set(fates)
        assert set(self.accepted.values()) <= set(texts)
        assert len(texts) == len(set(texts)), "a message has two ids"
        streams: dict[str, set[int]] = {}
        for event_id in self.events:
            stream, _, seq = event_id.partition(":")
            streams.setdefault(stream, set()).add(int(seq))
        assert len(streams) == 1, "the stream began again"
        (numbers,) = streams.values()
        assert numbers == set(range(min(numbers), max(numbers) + 1)), "events are missing in the stream"


class _Node:
    """A supervised node; the gateway's port is another one after each kill."""

    def __init__(self, up: LogosUp) -> None:
        self.up = up

    def _gateway(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(gateway_address_file(self.up.data_dir / "run").read_text())
        return found

    def connection(self) -> http.client.HTTPConnection:
        """To where the gateway serves now. Raises OSError while it does not."""
        url = urlsplit(self._gateway()["rest"])
        assert url.hostname is not None
        return http.client.HTTPConnection(url.hostname, url.port, timeout=20)

    def _pid(self, what: str) -> int | None:
        found = self._gateway() if what == "gateway" else self.up.status()[what]
        pid: int | None = None if found is None else found["pid"]
        return pid

    def kill(self, what: str) -> None:
        """SIGKILL. That its successor does its work is seen by the events."""
        deadline = time.monotonic() + PATIENCE
        while (pid := self._pid(what)) is None:
            assert time.monotonic() < deadline, f"{what} is not there"
        os.kill(pid, signal.SIGKILL)


def _send(node: _Node, ledger: Ledger, number: int, stop: threading.Event) -> None:
    """Send at a steady pace, each under its own key, repeated until it is accepted."""
    count = 0
    while not stop.is_set():
        # It is away: its successor needs the processor more than we do.
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(node.connection()) as connection,
        ):
            while not stop.is_set():
                due = time.monotonic() + SENDERS / RATE
                text = f"{number}-{count}"
                body = {"contentTopic": TOPIC, "payload": base64.b64encode(text.encode()).decode()}
                head = {"Content-Type": "application/json", "Idempotency-Key": text}
                connection.request("POST", f"{APP}/sends", json.dumps(body), head)
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status == 202:
                    ledger.accept(answer["requestId"], text)
                    count += 1
                elif not answer["retriable"]:
                    ledger.faults.append(f"{text}: {answer}")
                    return
                stop.wait(max(0.0, due - time.monotonic()))
        stop.wait(0.05)


def _read(node: _Node, ledger: Ledger, stop: threading.Event) -> None:
    """Follow the app's events, acknowledged by reading, from the last one seen on."""
    last = ""
    while not stop.is_set():
        # Cut off by a kill, perhaps within an event.
        with (
            contextlib.suppress(OSError, http.client.HTTPException, ValueError),
            contextlib.closing(node.connection()) as connection,
        ):
            headers = {"Last-Event-ID": last} if last else {}
            connection.request("GET", f"{APP}/events?ack=auto", headers=headers)
            with connection.getresponse() as response:
                event_id = ""
                while response.status == 200 and not stop.is_set() and (line := response.readline()):
                    field, _, value = line.decode().rstrip("\n").partition(": ")
                    if field == "id":
                        event_id = value
                    elif field == "data" and event_id:
                        ledger.event(event_id, json.loads(value))
                        last, event_id = event_id, ""
        stop.wait(0.05)


@contextlib.contextmanager
def _traffic(node: _Node, ledger: Ledger, sending: threading.Event) -> Iterator[None]:
    reading = threading.Event()
    senders = [
        threading.Thread(target=_send, args=(node, ledger, number, sending)) for number in range(SENDERS)
    ]
    threads = [*senders, threading.Thread(target=_read, args=(node, ledger, reading))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        sending.set()
        reading.set()
        for thread in threads:
            thread.join()


def run(directory: Path, rounds: int) -> Ledger:
    """The ledger of so many rounds of kills. Raises AssertionError when it does not hold."""
    ledger, sending = Ledger(), threading.Event()
    flags = [f"--{one}" for one in NETWORK]
    with KernelProcess(directory / "far", "--store=true", *flags) as far:
        up = LogosUp(directory / "n", *NETWORK, "rest=true", "rest-port=0", f"staticnode={far.address()}")
        try:
            node = _Node(up)
            up.wait_said("the node is ready: apps connect to")
            _subscribe(node)
            with _traffic(node, ledger, sending):
                _kill_in_turn(node, ledger, rounds)
                wanted = len(ledger.events) + EACH
                wait_for(lambda: len(ledger.events) >= wanted, "events", PATIENCE)
                sending.set()
                with contextlib.suppress(AssertionError):  # `check` says what is missing
                    wait_for(ledger.complete, "a fate for each", PATIENCE)
            ledger.check()
        finally:
            up.close()
    return ledger


def _kill_in_turn(node: _Node, ledger: Ledger, rounds: int) -> None:
    pace = PACE if rounds >= MAX_RESTARTS else 0.0
    killed = dict.fromkeys(ORDER, -pace)
    for what in ORDER * rounds:
        wanted, due = len(ledger.events) + EACH, killed[what] + pace
        wait_for(
            lambda: len(ledger.events) >= wanted and time.monotonic() > due,  # noqa: B023
            f"events before {what} is killed",
            PATIENCE,
        )
        killed[what] = time.monotonic()
        node.kill(what)


def _subscribe(node: _Node) -> None:
    def subscribed() -> bool:
        try:
            with contextlib.closing(node.connection()) as connection:
                connection.request("POST", f"{APP}/subscriptions", json.dumps({"topics": [TOPIC]}))
                response = connection.getresponse()
                return (response.status, response.read()) == (200, b'{"errors":{}}')
        except OSError:
            return False

    wait_for(subscribed, "the app has subscribed", PATIENCE)


def main() -> None:
    """Run it for as many rounds as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="gk-", dir="/tmp") as place:
        began = time.monotonic()
        ledger = run(Path(place), rounds)
    shown = {
        "rounds": rounds,
        "accepted": len(ledger.accepted),
        "events": len(ledger.events),
        "repeats": ledger.repeats,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(shown))


if __name__ == "__main__":
    main()

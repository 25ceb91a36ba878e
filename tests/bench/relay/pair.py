"""Two processes of a side at work, and a publisher in front of many receivers."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any, Final

from tests.bench.harness import BenchError, Child, Round, percentile
from tests.bench.relay.sides import Side

WINDOW_MESSAGES: Final = 1024
WINDOW_BYTES: Final = 4 << 20
SETTLE_SECONDS: Final = 1.5
"""The mesh is pruned to its size with the first heartbeat after the last peer has come."""


def start(stack: ExitStack, side: Side, role: str) -> Child:
    """Start a process of a side."""
    return stack.enter_context(Child(f"{side.key} {role}", [*side.command, "--role", role], cwd=side.cwd))


class NodePair:
    """A publisher and a receiver that mesh with each other. All sides of the bench obey the same commands
    (tests/bench/js/relay_node.mjs lists them)."""

    def __init__(self, stack: ExitStack, side: Side) -> None:
        self._receiver = start(stack, side, "receiver")
        self._publisher = start(stack, side, "publisher")
        self._rounds = 0
        ready = self._receiver.event("ready")
        self._publisher.event("ready")
        self._publisher.ask(
            "connected", cmd="connect", address=ready["addresses"][0], ackPort=ready["ackPort"]
        )

    def run(self, size: int, messages: int) -> Round:
        """Publish as fast as possible: messages/s, and CPU of both processes per message."""
        window = max(1, min(WINDOW_MESSAGES, WINDOW_BYTES // size))
        self._expect(messages, max(1, window // 8))
        self._publisher.send(cmd="publish", round=self._rounds, messages=messages, size=size, window=window)
        received = self._received(messages)
        published = self._publisher.event("published")
        seconds = (received["last_ns"] - published["start_ns"]) / 1e9
        return Round(messages / seconds, _cpu(published, received, messages))

    def pace(self, size: int, messages: int, rate: int) -> Round:
        """Publish at a rate: p50 and p99 from the call of publish to the receiver's listener, µs."""
        self._expect(messages, max(1, messages // 8), stamps=True)
        self._publisher.send(cmd="pace", round=self._rounds, messages=messages, size=size, rate=rate)
        received = self._received(messages)
        paced = self._publisher.event("paced")
        waits = [(end - begin) / 1000 for begin, end in zip(paced["stamps"], received["stamps"], strict=True)]
        return Round(
            percentile(waits, 0.5), _cpu(paced, received, messages), {"p99": percentile(waits, 0.99)}
        )

    def _expect(self, messages: int, ack_every: int, *, stamps: bool = False) -> None:
        self._rounds += 1
        self._receiver.ask(
            "expecting",
            cmd="expect",
            round=self._rounds,
            messages=messages,
            ackEvery=ack_every,
            stamps=stamps,
        )

    def _received(self, messages: int) -> dict[str, Any]:
        received = self._receiver.event("received")
        if received["lost"] or received["duplicates"] or received["received"] != messages:
            received.pop("stamps", None)
            raise BenchError(f"{messages} messages were sent, {self._receiver.name} says {received}")
        return received


class Fan(NodePair):
    """A publisher, and a sink: one process of many hosts that dial it. A message counts as received when all
    hosts have it."""

    def __init__(self, stack: ExitStack, side: Side, sink: Side, hosts: int) -> None:
        self._publisher = start(stack, side, "publisher")
        self._receiver = start(stack, sink, "sink")
        self._rounds = 0
        ready = self._receiver.event("ready")
        address = self._publisher.event("ready")["addresses"][0]
        self._receiver.ask("dialled", cmd="dial", address=address, hosts=hosts)
        self._publisher.ask("attended", cmd="attend", ackPort=ready["ackPort"], peers=hosts)
        time.sleep(SETTLE_SECONDS)


def _cpu(publisher: dict[str, Any], receiver: dict[str, Any], messages: int) -> dict[str, float]:
    cpu = {"publisher": publisher["cpu_us"] / messages, "receiver": receiver["cpu_us"] / messages}
    return cpu | {"both": sum(cpu.values())}

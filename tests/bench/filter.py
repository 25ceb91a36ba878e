"""The bench `filter`: pushes/s to 1, 10, 100 and 1,000 subscribers, a tenth of which hang.

One process is the service, on a host of its own; the subscribers, each a host and a connection of its own,
share two more. What hangs has opened its push stream and reads nothing. The reference is the same number of
reading subscribers without those that hang: what they cost the others is what the ratio tells.

    python -m tests.bench.filter server --hung M | subscribers --readers N --hung M
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from struct import Struct
from typing import Any, Final

import trio

from ipc_schema.kernel.events import SOURCE_RELAY
from ipc_schema.message import WakuMessage, message_hash
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Stream
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.protocols.filter.codec import (
    PUSH_PROTOCOL,
    SUBSCRIBE_PROTOCOL,
    FilterRequest,
    RequestType,
    decode_push,
    decode_response,
    encode_request,
)
from kernel_proc.protocols.filter.push_link import PushParams
from kernel_proc.protocols.filter.service import FilterService
from kernel_proc.protocols.framing import MessageReader
from kernel_proc.protocols.requests import call
from tests.bench.harness import BenchError, Case, Child, Options, Round, alternate, percentile, result
from tests.bench.lines import commands, cpu_us, emit

BENCH: Final = "filter"
SUBSCRIBERS: Final = {1: 10_000, 10: 3_000, 100: 400, 1000: 40}
"""Number of them → messages of a run."""
PAYLOAD: Final = 1024
FILL: Final = 100 * 1024
"""Payload of the messages that fill the streams of those that hang: three of them exceed the window."""
SPACED: Final = 15
"""Messages sent alone, for the time from the first byte of work to the last subscriber."""
PROCESSES: Final = 2
AHEAD: Final = 64
"""Frames that may wait for a subscriber before the next message; its queue holds 256."""
MAX_MESSAGE: Final = 153_600

SHARD: Final = "/waku/2/rs/42/0"
CONTENT: Final = "/bench/1/filter/proto"
LIMITS: Final = HostLimits(
    max_connections=4000, max_inbound=4000, max_per_ip=0, max_half_open_per_ip=0, max_half_open=256
)
_NUMBER: Final = Struct(">Q")


# --- the driver ---


class _Setup:
    """A service and its subscribers, all subscribed."""

    def __init__(self, stack: ExitStack, name: str, readers: int, hung: int) -> None:
        def start(what: str, *arguments: str) -> Child:
            return stack.enter_context(Child.python(f"{name} {what}", "tests.bench.filter", what, *arguments))

        self.readers = readers
        self._server = start("server", f"--hung={hung}")
        address = self._server.event("ready")["address"]
        self._groups = []
        for index in range(min(PROCESSES, readers)):
            share = [(total + index) // PROCESSES if readers > 1 else total for total in (readers, hung)]
            group = start("subscribers", f"--readers={share[0]}", f"--hung={share[1]}")
            group.event("ready")
            self._groups.append(group)
        for group in self._groups:
            group.send(cmd="connect", address=address)
        for group in self._groups:
            group.event("connected", 300.0)
        self._number = 0
        self._run(3, FILL)

    def run(self, messages: int) -> Round:
        """Pushes/s to those that read, then the time of single fan-outs."""
        begun, ended, cpu, sent = self._run(messages, PAYLOAD)
        delays = []
        for _ in range(SPACED):
            first, last, _, _ = self._run(1, PAYLOAD)
            delays.append((last - first) / 1e6)
        pushes = messages * self.readers
        extra = {
            "fanout_ms_p50": percentile(delays, 0.5),
            "fanout_ms_max": max(delays),
            "sync_us_per_message": sent,
        }
        return Round(pushes * 1e9 / (ended - begun), {"service": cpu / pushes}, extra)

    def _run(self, messages: int, size: int) -> tuple[int, int, float, float]:
        for group in self._groups:
            group.ask("expecting", cmd="expect", first=self._number, messages=messages)
        self._server.send(cmd="push", first=self._number, messages=messages, size=size)
        self._number += messages
        pushed = self._server.event("pushed", 120.0)
        last = max(group.event("received", 120.0)["last_ns"] for group in self._groups)
        return pushed["start_ns"], last, pushed["cpu_us"], pushed["sync_us"]


def filter_bench(options: Options) -> Iterator[dict[str, Any]]:
    """Pushes/s by number of subscribers."""
    for count, messages in SUBSCRIBERS.items():
        name = f"{count} subscribers" if count > 1 else "1 subscriber"
        if options.wants(name):
            yield _line(name, count, _rounds(options, count, max(5, options.count(messages))))


def _rounds(options: Options, count: int, messages: int) -> list[list[Round]]:
    hung = count // 10
    with ExitStack() as stack:
        ours = _Setup(stack, "ours", count - hung, hung)
        reference = _Setup(stack, "reference", count - hung, 0)
        return alternate(options.runs, partial(ours.run, messages), partial(reference.run, messages))


def _line(name: str, count: int, rounds: list[list[Round]]) -> dict[str, Any]:
    case = Case(
        BENCH,
        name,
        "pushes/s",
        "the same without those that hang",
        more={"hung": count // 10, "payload": PAYLOAD},
    )
    return result(case, *rounds)


# --- the service's process ---


async def _serve(hung: int) -> None:
    host = Libp2pHost(key=NodeKey.generate(), listen=["/ip4/127.0.0.1/tcp/0"], limits=LIMITS)
    # Those that hang must stay: for once a subscriber is not forgotten for it.
    service = FilterService(host, Registry(), params=PushParams(unreachable=3600.0))
    service.requests.mount()
    async with trio.open_nursery() as nursery:
        await nursery.start(host.serve)
        nursery.start_soon(service.run)
        emit("ready", address=host.listen_addresses[0])
        async for command in commands():
            await _push(service, hung, command["first"], command["messages"], command["size"])
        nursery.cancel_scope.cancel()


def _longest(service: FilterService, hung: int) -> int:
    """The longest queue of those that read: an unread queue is longer than any other, or full."""
    waiting = sorted(link.queued for link in service._links.values())
    return waiting[-1 - hung] if len(waiting) > hung else 0


async def _push(service: FilterService, hung: int, first: int, messages: int, size: int) -> None:
    """Give messages to the service, never further ahead of the readers than their queues hold."""
    sync, cpu, start = 0, cpu_us(), time.monotonic_ns()
    for number in range(first, first + messages):
        message = WakuMessage(_NUMBER.pack(number) + bytes(size - _NUMBER.size), CONTENT, timestamp=number)
        digest = message_hash(SHARD, message)
        before = time.perf_counter_ns()
        service.on_message(SHARD, message, digest, SOURCE_RELAY)
        sync += time.perf_counter_ns() - before
        await trio.lowlevel.checkpoint()
        while _longest(service, hung) >= AHEAD:
            await trio.sleep(0.001)
    while _longest(service, hung):
        await trio.sleep(0.001)
    emit("pushed", start_ns=start, cpu_us=cpu_us() - cpu, sync_us=sync / 1000 / messages)


# --- the subscribers' processes ---


class _Group:
    """Subscribers of one process, and how much they have all together."""

    def __init__(self) -> None:
        self.first = self.messages = self.missing = 0
        self.readers = 0

    def expect(self, first: int, messages: int) -> None:
        self.first, self.messages = first, messages
        self.missing = messages * self.readers
        emit("expecting")

    def take(self, number: int, expected: int) -> None:
        if number != expected:
            raise RuntimeError(f"message {number} came, {expected} was due")
        self.missing -= 1
        if not self.missing:
            emit("received", last_ns=time.monotonic_ns())

    async def read(self, stream: Stream) -> None:
        """The push handler of a subscriber that reads."""
        reader = MessageReader(stream, 2 * MAX_MESSAGE)
        expected = self.first
        while (body := await reader.read()) is not None:
            self.take(_NUMBER.unpack_from(decode_push(body).message.payload)[0], expected)
            expected += 1


async def _hang(_stream: Stream) -> None:
    await trio.sleep_forever()


async def _subscribe(readers: int, hung: int) -> None:
    group = _Group()
    group.readers = readers
    slots = trio.Semaphore(8)

    async def connect(address: str, *, reads: bool) -> None:
        async with slots:
            host = Libp2pHost(key=NodeKey.generate(), limits=LIMITS)
            host.set_stream_handler(PUSH_PROTOCOL, group.read if reads else _hang)
            await nursery.start(host.serve)
            peer = await host.connect(address, deadline=60.0)
            body = await call(
                host,
                peer,
                (SUBSCRIBE_PROTOCOL,),
                encode_request(FilterRequest("bench", RequestType.SUBSCRIBE, SHARD, (CONTENT,))),
                decode=bytes,
                max_response=1024,
                deadline=60.0,
            )
            if not decode_response(body).ok:
                raise BenchError(f"refused: {decode_response(body)}")

    emit("ready")
    async with trio.open_nursery() as nursery:
        async for command in commands():
            match command["cmd"]:
                case "connect":
                    async with trio.open_nursery() as connecting:
                        for index in range(readers + hung):
                            connecting.start_soon(partial(connect, command["address"], reads=index < readers))
                    emit("connected")
                case "expect":
                    group.expect(command["first"], command["messages"])
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("server", "subscribers"))
    parser.add_argument("--readers", type=int, default=0)
    parser.add_argument("--hung", type=int, default=0)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if arguments.role == "server":
        trio.run(_serve, arguments.hung)
    else:
        trio.run(_subscribe, arguments.readers, arguments.hung)


if __name__ == "__main__":
    main()

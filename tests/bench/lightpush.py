"""The bench `lightpush`: requests/s that a kernel publishes for light clients, one by one and 32 at a time.

The service is a real kernel with one more kernel in its mesh; the clients are eight hosts in a process of
their own, taking turns, since a kernel takes at most 1,000 streams a second from one peer. A request is one
stream, a message of 1 KiB and an answer, which must tell that it was published to one peer; at the end of a
run the far kernel must have every message.

The reference is the same clients and requests against a host of ours that answers at once: the price of the
streams alone, so that the ratio tells what decoding, validating and relaying take of it.

    python -m tests.bench.lightpush echo | client
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from random import Random
from typing import Any, Final

import trio

from ipc_schema.message import WakuMessage, encode_message
from ipc_schema.topics import shard_topic
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.protocols.lightpush_codec import (
    PROTOCOL,
    PushRequest,
    PushResponse,
    PushStatus,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from kernel_proc.protocols.metadata import MetadataProtocol
from kernel_proc.protocols.requests import RequestService, ServiceLimits, call
from tests.bench.harness import (
    BenchError,
    Case,
    Child,
    CpuMeter,
    Options,
    Round,
    alternate,
    percentile,
    result,
)
from tests.bench.kernels import metric, until
from tests.bench.lines import commands, cpu_us, emit
from tests.support.kernel_process import KernelProcess, short_directory

BENCH: Final = "lightpush"
REFERENCE: Final = "the same requests to a host that answers at once"
REQUESTS: Final = {1: 2_000, 32: 6_000}
"""Requests in flight → requests of a run."""
PEERS: Final = 8
PAYLOAD: Final = 1024
CONTENT: Final = "/bench/1/lightpush/proto"
TOPIC: Final = shard_topic(0, 0)
DEADLINE: Final = 20.0
RUN_SECONDS: Final = 180.0
FREE: Final = HostLimits(max_per_ip=0, max_half_open_per_ip=0, max_stream_rate=1_000_000)
"""The reference is not to be held back by what protects a node."""
_NO_RATE_LIMIT: Final = ("--shard=0", "--ip-colocation-limit=0", "--rate-limit=lightpush:0/1s")


# --- the driver ---


class _Setup:
    """A service kernel with a far one in its mesh, the reference, and the clients."""

    def __init__(self, stack: ExitStack) -> None:
        def start(what: str) -> Child:
            return stack.enter_context(Child.python(what, "tests.bench.lightpush", what))

        place = stack.enter_context(short_directory())
        service = stack.enter_context(KernelProcess(place / "s", *_NO_RATE_LIMIT))
        self._service = service.address()
        dial = f"--staticnode={self._service}"
        far = stack.enter_context(KernelProcess(place / "f", "--shard=0", dial))
        self._far = far.dealer()
        until(lambda: self._far.ok("relay.mesh", {})["topics"].get(TOPIC), "a mesh of both kernels")
        echo = start("echo")
        self._echo = echo.event("ready")["address"]
        self._clients = start("client")
        self._clients.event("ready")
        self._clients.ask("connected", cmd="connect", addresses=[self._service, self._echo])
        assert service.process is not None
        assert far.process is not None
        self._pids = {"service": service.process.pid, "relay peer": far.process.pid}
        self._echo_pid = {"service": echo.pid}
        self._pushed = 0

    def push(self, requests: int, window: int) -> Round:
        """One run against the kernel; the far kernel has all of it in the end."""
        done = self._run(self._service, self._pids, requests, window)
        self._pushed += requests
        until(lambda: self._relayed() >= self._pushed, f"{self._pushed} messages at the far kernel")
        if (count := self._relayed()) != self._pushed:
            raise BenchError(f"{self._pushed} messages were pushed, {count} came to the far kernel")
        return done

    def echo(self, requests: int, window: int) -> Round:
        """One run against the reference."""
        return self._run(self._echo, self._echo_pid, requests, window)

    def _relayed(self) -> int:
        return metric(self._far, "node_messages", type="relay")

    def _run(self, address: str, pids: dict[str, int], requests: int, window: int) -> Round:
        meter = CpuMeter(pids)
        self._clients.send(cmd="ask", address=address, requests=requests, window=window)
        done = self._clients.event("done", RUN_SECONDS)
        cpu = meter.per_message(requests) | {"clients": done["cpu_us"]}
        return Round(requests / done["seconds"], cpu, {key: done[key] for key in ("p50_ms", "p99_ms")})


def lightpush(options: Options) -> Iterator[dict[str, Any]]:
    """Requests/s by number of requests in flight."""
    with ExitStack() as stack:
        setup = _Setup(stack)
        for window, requests in REQUESTS.items():
            name = "serial" if window == 1 else f"{window} in flight"
            if not options.wants(name):
                continue
            count = options.count(requests)
            for side in (setup.push, setup.echo):
                side(max(20, count // 10), window)  # not measured
            rounds = alternate(
                options.runs, partial(setup.push, count, window), partial(setup.echo, count, window)
            )
            more = {"requests": count, "peers": PEERS, "payload": PAYLOAD}
            yield result(Case(BENCH, name, "requests/s", REFERENCE, more=more), *rounds)


# --- the reference's process ---


async def _echo() -> None:
    async def answer(_peer: str, body: bytes) -> bytes:
        return encode_response(PushResponse(decode_request(body).request_id, PushStatus.SUCCESS, None, 1))

    host = Libp2pHost(key=NodeKey.generate(), listen=["/ip4/127.0.0.1/tcp/0"], limits=FREE)
    limits = ServiceLimits(max_request=1 << 20, at_once=64)
    RequestService(host, PROTOCOL, answer, service="echo", rejected=b"", limits=limits).mount()
    async with host.run():
        emit("ready", address=host.listen_addresses[0])
        async for _ in commands():
            pass


# --- the clients' process ---


class _Clients:
    """Hosts that are connected to both sides; request number i is asked by host i modulo their number."""

    def __init__(self, hosts: list[Libp2pHost]) -> None:
        self._hosts = hosts
        self._peers: dict[str, str] = {}
        self._payload = Random(1).randbytes(PAYLOAD)
        self._id = 0

    async def connect(self, addresses: list[str]) -> None:
        for address in addresses:
            for host in self._hosts:
                self._peers[address] = await host.connect(address)
        emit("connected")

    async def ask(self, address: str, requests: int, window: int) -> None:
        """So many requests, `window` of them under way. Raises BenchError on any answer but success."""
        peer = self._peers[address]
        numbers = iter(range(requests))
        times: list[float] = []

        async def work() -> None:
            for number in numbers:
                begun = time.perf_counter()
                await self._push(self._hosts[number % len(self._hosts)], peer)
                times.append((time.perf_counter() - begun) * 1000)

        cpu, started = cpu_us(), time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(window):
                nursery.start_soon(work)
        emit(
            "done",
            seconds=time.perf_counter() - started,
            cpu_us=(cpu_us() - cpu) / requests,
            p50_ms=percentile(times, 0.5),
            p99_ms=percentile(times, 0.99),
        )

    async def _push(self, host: Libp2pHost, peer: str) -> None:
        self._id += 1
        request_id = f"{self._id:020}"
        message = encode_message(WakuMessage(self._payload, CONTENT, timestamp=time.time_ns()))
        body = await call(
            host,
            peer,
            (PROTOCOL,),
            encode_request(PushRequest(request_id, message, TOPIC)),
            decode=bytes,
            max_response=4096,
            deadline=DEADLINE,
        )
        response = decode_response(body)
        if response != PushResponse(request_id, PushStatus.SUCCESS, response.description, 1):
            raise BenchError(f"request {request_id} was answered with {response}")


async def _ask() -> None:
    async with trio.open_nursery() as nursery:
        hosts = [Libp2pHost(key=NodeKey.generate()) for _ in range(PEERS)]
        for host in hosts:
            # A kernel disconnects peers that do not answer it.
            MetadataProtocol(host, cluster=0, shards=tuple)
            await nursery.start(host.serve)
        clients = _Clients(hosts)
        emit("ready")
        async for command in commands():
            match command["cmd"]:
                case "connect":
                    await clients.connect(command["addresses"])
                case "ask":
                    await clients.ask(command["address"], command["requests"], command["window"])
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("echo", "client"))
    trio.run(_echo if parser.parse_args().role == "echo" else _ask)


if __name__ == "__main__":
    main()

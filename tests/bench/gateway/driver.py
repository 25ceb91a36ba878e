"""The bench `gateway`: what HTTP costs in front of a node.

The node is real: kernel, Messaging API, gateway, and a second node that takes its messages. The reference is
FastAPI on uvicorn that answers at once, with as many requests under way. What the node behind the gateway can
do at most is measured in turn with both: `node_alone` is the rate at which a client of the ZeroMQ contract
has the same messages accepted, as many under way, and `of_node_alone` what part of it is left over HTTP.
`cpu_ratio` compares what the gateway's own process does in a second of CPU with the reference's;
`cpu_total_us` is that of all processes together, and `cores` how many of them they kept busy.

`latency` is from the REST send on one node to the server-sent event on the other; `idle readers` is the same
beside 1,000 event streams and 200 WebSockets on which nothing comes, and the memory that they take.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from logos_client import KernelClient, MessagingClient
from tests.bench.gateway.idle import SOCKETS, STREAMS, idle_readers, resident_kib
from tests.bench.gateway.load import CONNECTIONS, post_all, read_frames, read_sse
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
from tests.bench.kernels import until
from tests.support.gateway_process import GatewayProcess
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess

BENCH: Final = "gateway"
REFERENCE: Final = "FastAPI on uvicorn, answering at once"
CONTENT: Final = "/bench/1/gateway/proto"
ALONE: Final = "/bench/1/alone/proto"
SIZE: Final = 1024
POSTS: Final = 3000
EVENTS: Final = 30_000
PACED: Final = 400
PACE: Final = 0.01
P50_TARGET_MS: Final = 8.0
RATIO: Final = 0.5

_numbers = itertools.count()


class _Net(NamedTuple):
    """Two nodes, a gateway of the first, and the reference."""

    a: GatewayProcess
    kernel: KernelProcess
    mapi: MapiProcess
    pids: dict[str, int]
    floor: Child
    floor_url: str
    run_dir: Path
    """Of the first node."""
    far_dir: Path
    """Of the second node, which has a gateway where its readers are measured."""


@contextmanager
def _network(directory: Path) -> Iterator[_Net]:
    with ExitStack() as stack:
        far = stack.enter_context(KernelProcess(directory / "b", "--shard=0"))
        near = stack.enter_context(
            KernelProcess(directory / "a", "--shard=0", f"--staticnode={far.address()}")
        )
        mapi = stack.enter_context(MapiProcess(directory / "a", "--outbox-max-messages=100000"))
        far_mapi = stack.enter_context(MapiProcess(directory / "b"))
        a = stack.enter_context(GatewayProcess(directory / "a", "--rest-admin"))
        floor = Child.python("floor", "tests.bench.gateway.floor")
        stack.callback(floor.close)
        url = floor.event("ready")["url"]
        a.wait_for("/admin/v1/peers/mesh/on/0", lambda answer: len(answer.json["peers"]) == 1)
        assert near.process is not None
        assert far.process is not None
        pids = {
            "gateway": a.process.pid,
            "mapi": mapi.pid,
            "kernel": near.process.pid,
            "far_kernel": far.process.pid,
            "far_mapi": far_mapi.pid,
            "client": os.getpid(),
        }
        yield _Net(a, near, mapi, pids, floor, url, directory / "a" / "run", directory / "b")


def gateway(options: Options) -> Iterator[dict[str, Any]]:
    """The lines of all cases."""
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as place, _network(Path(place)) as net:
        posts, events = options.count(POSTS), options.count(EVENTS)
        sides: dict[str, tuple[Callable[[], Round], Callable[[], Round]]] = {
            "REST send, 1 KiB": _posting(net, "/apps/v1/bench/sends", posts, 202, _send_alone),
            "relay publish, 1 KiB": _posting(net, "/relay/v1/auto/messages", posts, 200, _publish_alone),
            "SSE delivery, 1 KiB": _reading(net, "events", read_sse, events),
            "WebSocket delivery, 1 KiB": _reading(net, "socket", read_frames, events),
        }
        for name, (ours, reference) in sides.items():
            if options.wants(name):
                case = Case(BENCH, name, "1/s", REFERENCE, f"ratio >= {RATIO}", _reached)
                ours(), reference()  # warm
                line = result(case, *alternate(options.runs, ours, reference))
                spent = line["reference_cpu_us"]["floor"] / line["cpu_us"]["gateway"]
                yield {**line, "cpu_ratio": round(spent, 3)}
        if options.wants("latency") or options.wants("idle readers"):
            with GatewayProcess(net.far_dir) as far:
                if options.wants("latency"):
                    yield _latency(net, far, options.count(PACED))
                if options.wants("idle readers"):
                    yield _idle(net, far, options.count(PACED))


def _reached(line: dict[str, Any]) -> bool:
    return bool(line["ratio"] >= RATIO)


async def _all(count: int, call: Callable[[int], Awaitable[object]]) -> float:
    """Make so many calls, as many under way as over HTTP; calls a second."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await call(number)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))
    return count / (time.perf_counter() - started)


async def _send_alone(net: _Net, payloads: list[bytes]) -> float:
    async with MessagingClient.connect(net.run_dir, name="alone") as client:
        # On a topic of its own: else it would be sent, and store, what the gateway's app sends after this.
        return await _all(len(payloads), lambda number: client.send(ALONE, payloads[number]))


async def _publish_alone(net: _Net, payloads: list[bytes]) -> float:
    async with KernelClient.connect(net.run_dir, kind="tool") as kernel:
        return await _all(len(payloads), lambda number: kernel.publish(CONTENT, payloads[number]))


def _posting(
    net: _Net,
    path: str,
    count: int,
    status: int,
    alone: Callable[[_Net, list[bytes]], Coroutine[Any, Any, float]],
) -> tuple[Callable[[], Round], Callable[[], Round]]:
    net.a.request("GET", "/apps/v1/bench/status")  # the app is connected

    def ours() -> Round:
        meter = CpuMeter(net.pids)
        rate = post_all(net.a.urls["rest"], path, CONTENT, count, SIZE, status)
        cpu = meter.per_message(count)
        most = asyncio.run(alone(net, [os.urandom(16) + b"." * (SIZE - 16) for _ in range(count)]))
        return Round(rate, cpu, {**_used(rate, cpu), "node_alone": most, "of_node_alone": rate / most})

    def reference() -> Round:
        meter = CpuMeter({"floor": net.floor.pid, "client": os.getpid()})
        rate = post_all(net.floor_url, path, CONTENT, count, SIZE, status)
        cpu = meter.per_message(count)
        return Round(rate, cpu, _used(rate, cpu))

    return ours, reference


def _reading(
    net: _Net, end: str, read: Callable[[str, str, int], float], count: int
) -> tuple[Callable[[], Round], Callable[[], Round]]:
    def ours() -> Round:
        # An app of this round's own, with its journal full: more than the gateway holds in memory.
        path, topic = f"/apps/v1/read-{next(_numbers)}", f"/bench/1/read-{next(_numbers)}/proto"
        answer = net.a.request("POST", f"{path}/subscriptions", {"topics": [topic]})
        assert answer.json == {"errors": {}}, answer
        _fill(net.kernel, topic, count)
        _wait_backlog(net, path, count)
        meter = CpuMeter(net.pids)
        rate = read(net.a.urls["rest"], f"{path}/{end}?ack=auto&credit={1 << 39}", count)
        cpu = meter.per_message(count)
        return Round(rate, cpu, _used(rate, cpu))

    def reference() -> Round:
        meter = CpuMeter({"floor": net.floor.pid, "client": os.getpid()})
        rate = read(net.floor_url, f"/apps/v1/x/{end}?count={count}", count)
        cpu = meter.per_message(count)
        return Round(rate, cpu, _used(rate, cpu))

    return ours, reference


def _used(rate: float, cpu: Mapping[str, float]) -> dict[str, float]:
    """What all processes together use: µs of CPU for each message, and cores."""
    total = sum(cpu.values())
    return {"cpu_total_us": total, "cores": rate * total / 1e6}


def _fill(kernel: KernelProcess, topic: str, count: int) -> None:
    """Publish from the node's own kernel, some requests under way at a time."""
    dealer = kernel.dealer(f"fill-{next(_numbers)}")
    under_way = 0
    for number in range(count):
        payload = b"%16d" % number + os.urandom(8) + b"." * (SIZE - 24)
        dealer.send("relay.publish", {"content_topic": topic, "timestamp": time.time_ns()}, (payload,))
        under_way += 1
        if under_way == 64:
            dealer.receive()
            under_way -= 1
    for _ in range(under_way):
        dealer.receive()
    dealer.close()


def _wait_backlog(net: _Net, path: str, count: int) -> None:
    name = path.rpartition("/")[2]

    def full() -> bool:
        found = {row["name"]: row for row in asyncio.run(net.mapi.ask("apps"))["apps"]}
        behind = found[name]["last"] - max(found[name]["acked"], found[name]["dropped"])
        return bool(behind >= count)

    until(full, f"the journal of {name} is full")


LATENCY: Final = "/bench/1/latency/proto"


def _subscribe_both(net: _Net, far: GatewayProcess) -> None:
    for one in (far, net.a):
        one.request("POST", "/apps/v1/latency/subscriptions", {"topics": [LATENCY]})


def _idle(net: _Net, far: GatewayProcess, count: int) -> dict[str, Any]:
    _subscribe_both(net, far)

    async def measure() -> tuple[list[float], list[float], int]:
        alone = await _paced(net, far, LATENCY, count)
        before = resident_kib(far.process.pid)
        async with idle_readers(far.urls["rest"], STREAMS, SOCKETS):
            used = resident_kib(far.process.pid) - before
            return alone, await _paced(net, far, LATENCY, count), used

    alone, beside, used = asyncio.run(measure())
    return {
        "bench": BENCH,
        "case": f"idle readers: {STREAMS} event streams and {SOCKETS} WebSockets",
        "unit": "ms",
        "ours": round(percentile(beside, 0.5), 2),
        "p99_ms": round(percentile(beside, 0.99), 2),
        "reference": round(percentile(alone, 0.5), 2),
        "reference_p99_ms": round(percentile(alone, 0.99), 2),
        "reference_name": "without them",
        "kib_each": round(used / (STREAMS + SOCKETS), 1),
    }


def _latency(net: _Net, far: GatewayProcess, count: int) -> dict[str, Any]:
    _subscribe_both(net, far)
    found = asyncio.run(_paced(net, far, LATENCY, count))
    return {
        "bench": BENCH,
        "case": "latency REST send to SSE of the other node",
        "unit": "ms",
        "ours": round(percentile(found, 0.5), 2),
        "p99_ms": round(percentile(found, 0.99), 2),
        "samples": len(found),
        "target": f"p50 <= {P50_TARGET_MS:g} ms",
        "reached": percentile(found, 0.5) <= P50_TARGET_MS,
    }


async def _paced(net: _Net, far: GatewayProcess, topic: str, count: int) -> list[float]:
    sent: dict[str, float] = {}
    latencies: list[float] = []
    host, port = far.urls["rest"].rpartition("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /apps/v1/latency/events?ack=auto HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b": connected\n")

    async def hear() -> None:
        while len(latencies) < count:
            line = await reader.readline()
            if line.startswith(b"data: "):
                payload = json.loads(line[6:]).get("payload", "")
                if payload in sent:
                    latencies.append((time.perf_counter() - sent.pop(payload)) * 1000)

    hearing = asyncio.create_task(hear())
    host, port = net.a.urls["rest"].rpartition("/")[2].split(":")
    answers, requests = await asyncio.open_connection(host, int(port))
    for _ in range(count):
        due = time.perf_counter() + PACE
        payload = base64.b64encode(os.urandom(16) + b"." * (SIZE - 16)).decode()
        body = json.dumps({"contentTopic": topic, "payload": payload}).encode()
        sent[payload] = time.perf_counter()
        requests.write(
            b"POST /apps/v1/latency/sends HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        head = await answers.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 202"):
            raise BenchError(head.decode())
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        await answers.readexactly(length)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await asyncio.wait_for(hearing, 30)
    writer.close()
    requests.close()
    return latencies

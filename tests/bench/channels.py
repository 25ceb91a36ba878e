"""The bench `channels`: what a reliable channel costs beside plain sends. Two nodes, a named app on each.

`1 KiB, burst`: messages a second until the other app has the last one; `1 KiB, paced`: from the send to the
other app's event, at 50 a second. The reference is plain sends of the same apps on the same topic, in turn.
`core, N known`: µs of CPU to send and receive one message, without a network, when the channel knows N. The
reference is the same with 100: it is to stay flat.
`1,000 open channels`: KiB of the Messaging API's memory for each.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from logos_client.events import ChannelMessageReceived, MessageReceived
from logos_client.messaging import MessagingClient
from mapi_proc.channels.channel import ChannelCore, ChannelSettings
from mapi_proc.channels.events import Received, Transmit
from tests.bench.disk import DISK, refuse_memory
from tests.bench.harness import BenchError, Case, Options, Round, percentile, result
from tests.support.nodes import TOPIC, Node, node_pair, wait_status

BENCH: Final = "channels"
SIZE: Final = 1024
BURST: Final = 1000
OUTSTANDING: Final = 32
PACED: Final = 100
PACE: Final = 0.02
PATIENCE: Final = 60.0
KNOWN: Final = (100, 10_000, 100_000)
MEASURED: Final = 2_000
"""As many as between two rebuildings of the Bloom filter."""
MANY: Final = 1_000

FAST: Final = ("--channel-sync-interval=1s",)


def channels(options: Options) -> Iterator[dict[str, Any]]:
    """The lines of all cases."""
    if options.wants("core"):
        yield from _core_lines(options)
    names = ("1 KiB, burst", "1 KiB, paced", "open channels")
    if not any(options.wants(name) for name in names):
        return
    refuse_memory(DISK)
    with (
        tempfile.TemporaryDirectory(prefix="bench-channels-", dir=DISK) as place,
        node_pair(Path(place), mapi_options=FAST) as nodes,
    ):
        yield from asyncio.run(_node_lines(nodes, options))


# --- over a network -----------------------------------------------------------------------------------------


class _Pair:
    """Two apps; each message's number leads its payload."""

    def __init__(self, sender: MessagingClient, receiver: MessagingClient) -> None:
        self.sender = sender
        self.receiver = receiver
        self._next = 0

    async def send(self, *, channel: bool) -> tuple[int, float]:
        """Send one message; its number, and when."""
        self._next += 1
        number, began = self._next, time.perf_counter()
        payload = number.to_bytes(8, "big") + bytes(SIZE - 8)
        if channel:
            await self.sender.send_to_channel("bench", payload, timeout=PATIENCE)
        else:
            await self.sender.send(TOPIC, payload, timeout=PATIENCE)
        return number, began

    async def hear(self, count: int, *, channel: bool) -> dict[int, float]:
        """When each of the next `count` messages came."""
        kind = ChannelMessageReceived if channel else MessageReceived
        heard: dict[int, float] = {}
        while len(heard) < count:
            event = await self.receiver.next_event(PATIENCE)
            if isinstance(event, kind) and len(event.payload) == SIZE:
                heard[int.from_bytes(event.payload[:8], "big")] = time.perf_counter()
        return heard

    async def burst(self, count: int, *, channel: bool) -> Round:
        """Messages a second."""
        room = asyncio.Semaphore(OUTSTANDING)

        async def one() -> None:
            async with room:
                await self.send(channel=channel)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            heard = group.create_task(self.hear(count, channel=channel))
            for _ in range(count):
                group.create_task(one())
        return Round(count / (max(heard.result().values()) - began), {})

    async def paced(self, count: int, *, channel: bool) -> Round:
        """ms from send to event, the median."""
        begun: dict[int, float] = {}
        async with asyncio.TaskGroup() as group:
            heard = group.create_task(self.hear(count, channel=channel))
            for _ in range(count):
                number, at = await self.send(channel=channel)
                begun[number] = at
                await asyncio.sleep(PACE)
        waits = [(heard.result()[number] - at) * 1000 for number, at in begun.items()]
        return Round(percentile(waits, 0.5), {}, {"p99": percentile(waits, 0.99)})


async def _node_lines(nodes: tuple[Node, Node], options: Options) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for node in nodes:
        await node.mapi.ready()
    async with (
        MessagingClient.connect(nodes[0].run, name="a") as a,
        MessagingClient.connect(nodes[1].run, name="b") as b,
    ):
        for app in (a, b):
            await app.subscribe(TOPIC)
            await app.create_channel("bench", "/bench/1/channel/proto")
        for app in (a, b):
            await wait_status(app)
        pair = _Pair(a, b)
        await pair.paced(20, channel=True)  # warm
        for name, unit, work, count in (
            ("1 KiB, burst", "msg/s", pair.burst, BURST),
            ("1 KiB, paced", "ms", pair.paced, PACED),
        ):
            if options.wants(name):
                rounds: tuple[list[Round], list[Round]] = ([], [])
                for _ in range(options.runs):
                    for side, channel in zip(rounds, (True, False), strict=True):
                        side.append(await work(options.count(count), channel=channel))
                        await _all_acknowledged(a)
                lines.append(result(Case(BENCH, name, unit, "plain sends"), *rounds))
        if options.wants("open channels"):
            lines.append(await _memory(nodes[0], a, options))
    return lines


async def _all_acknowledged(app: MessagingClient) -> None:
    """What is still to be acknowledged would be sent again in the next run."""
    end = time.monotonic() + PATIENCE
    while (await app.channel_status("bench")).unacknowledged:
        if time.monotonic() > end:
            raise BenchError("sends of the channel were not acknowledged")
        await asyncio.sleep(0.1)


async def _memory(node: Node, app: MessagingClient, options: Options) -> dict[str, Any]:
    many = min(options.count(MANY), MANY) - 1  # it has one already
    before = _resident_kib(node.mapi.pid)
    for number in range(many):
        await app.create_channel(f"channel {number}", f"/bench/1/channel-{number}/proto")
        await app.send_to_channel(f"channel {number}", b"hello")
    grown = (_resident_kib(node.mapi.pid) - before) / many
    case = Case(
        BENCH, f"{many + 1:,} open channels", "KiB each", "none", more={"total_mib": grown * many / 1024}
    )
    return result(case, [Round(grown, {})], [Round(0.0, {})])


def _resident_kib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise BenchError(f"process {pid} has no resident memory")


# --- the core alone -----------------------------------------------------------------------------------------


def core_costs(points: Sequence[int], measured: int) -> dict[int, float]:
    """µs of CPU to send and receive one message, from when both sides know so many, by that number.

    Simulated time, 10 messages a second.
    """
    alice, bob = (ChannelCore("c", name, ChannelSettings(), Random(name)) for name in ("alice", "bob"))
    wall = 1_700_000_000_000_000_000
    costs = {}
    start = 0
    for point in points:
        began = 0.0
        for number in range(start, point + measured):
            if number == point:
                began = time.process_time()
            now = number / 10
            speaker, hearer = (alice, bob) if number % 2 else (bob, alice)
            payload = number.to_bytes(8, "big") + bytes(SIZE - 8)
            speaker.send(number.to_bytes(16, "big"), payload, False, now, wall + int(now * 1e9))
            outputs, _ = speaker.take()
            for output in outputs:
                if isinstance(output, Transmit) and output.payload is not None:
                    speaker.transmitted(output.message_id, bytes(32), now)
                    hearer.receive(output.payload, bytes(32), now, wall + int(now * 1e9))
            heard, _ = hearer.take()
            if not any(isinstance(one, Received) for one in heard):
                raise BenchError(f"message {number} was not received")
        costs[point] = (time.process_time() - began) / measured * 1e6
        start = point + measured
    return costs


def _core_lines(options: Options) -> Iterator[dict[str, Any]]:
    points = [options.count(known) for known in KNOWN]
    measured = max(20, min(MEASURED, points[1] - points[0]))
    runs = [core_costs(points, measured) for _ in range(options.runs)]
    for point in points[1:]:
        case = Case(
            BENCH,
            f"core, {point:,} known",
            "µs of CPU",
            f"{points[0]} known",
            target="ratio ≤ 1.5",
            reached=lambda line: line["ratio"] <= 1.5,
        )
        yield result(
            case, [Round(run[point], {}) for run in runs], [Round(run[points[0]], {}) for run in runs]
        )

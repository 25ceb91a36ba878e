"""The bench `apps`: many named apps on one Messaging API, each on ten content topics that ten apps share.

    python -m tests.bench.apps RUN_DIRECTORY ACK_SOCKET APPS SLOW     is the apps' process

Kernel (fed with messages instead of a network) → MAPI → apps, all in one process. The reference is the same
with ten apps. Every app has a journal on disk; SLOW of ten apps take one event and never another.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Any, Final

import zmq

from logos_client import MessageReceived, MessagingClient
from logos_process.descriptors import raise_descriptor_limit
from tests.bench.disk import DISK, refuse_memory
from tests.bench.harness import Case, Child, CpuMeter, Options, Round, alternate, result
from tests.bench.lines import emit
from tests.bench.pipeline.wire import ACK
from tests.support.mapi_process import MapiProcess

BENCH: Final = "apps"
APPS: Final = 1_000
FEW: Final = 10
SHARING: Final = 10
"""Apps on one topic, and topics of one app."""
MESSAGES: Final = 2_000
"""Of a run, over all topics that carry any."""
BURST: Final = 20
"""Messages to one topic at a time: what ten apps get together is the same however many there are."""
MOST_BURSTS: Final = 1 << 16
PAYLOAD: Final = 1024
FLAT: Final = 1.25
READY_SECONDS: Final = 5.0
A_CONTEXT: Final = 200
"""Clients of one ZeroMQ context: it has at most 1,023 sockets."""
AT_ONCE: Final = 50
"""Connections made at a time, as the backlog of a listening socket bears."""
_NUMBER: Final = Struct(">Q")
_rounds = itertools.count(1)


def _topic(group: int, number: int) -> str:
    return f"/bench/1/apps-{group}-{number}/proto"


class _Setup:
    """Kernel, Messaging API, and a process of apps."""

    def __init__(self, stack: ExitStack, place: Path, count: int, slow: int) -> None:
        self._stack = stack
        self._count = count
        run, acks = place / "k" / "run", place / "acks"
        run.mkdir(parents=True)
        self._source = stack.enter_context(
            Child.python("kernel", "tests.bench.pipeline.kernel", str(run), str(acks))
        )
        self._source.event("ready")
        # One process gets at most three quarters of the connections, and here it has them all.
        self.mapi = MapiProcess(place / "m", f"--max-apps={2 * count}", kernel_dir=place / "k")
        stack.enter_context(self.mapi)
        asyncio.run(self.mapi.ready())
        before, meter = _resident(self.mapi.pid), CpuMeter({"mapi": self.mapi.pid})
        begun = time.monotonic()
        arguments = (str(self.mapi.run_dir), str(acks), str(count), str(slow))
        self._child = stack.enter_context(Child.python("apps", "tests.bench.apps", *arguments))
        self._child.event("ready", 300.0)
        self.storm = Round((time.monotonic() - begun) * 1000 / count, meter.per_message(count))
        """ms until all apps were connected and subscribed, and µs of CPU, both by the app."""
        self.memory = Round((_resident(self.mapi.pid) - before) / count, {})
        """KiB of the Messaging API for each app."""

    def run(self, messages: int) -> Round:
        """µs of the Messaging API's CPU for a message and app."""
        groups = self._count // SHARING
        bursts = max(1, messages // BURST // groups)
        first = next(_rounds) * MOST_BURSTS  # a number for each burst: no two messages may be equal
        self._child.ask("expecting", first=first, bursts=bursts)
        meter = CpuMeter({"mapi": self.mapi.pid, "apps": self._child.pid})
        for number in range(groups * bursts):
            self._source.send(
                round=first + number,
                messages=BURST,
                size=PAYLOAD,
                window=BURST,
                topic=_topic(number % groups, 0),
                rate=None,
            )
        for _ in range(groups * bursts):
            self._source.event("published", 120.0)
        self._child.event("received", 120.0)
        cpu = meter.per_message(groups * bursts * BURST * SHARING)
        return Round(cpu["mapi"], cpu)

    def restart(self) -> Round:
        """ms from kill -9 and a new start until the Messaging API is ready, with all journals."""
        self.mapi.kill()
        begun = time.monotonic()
        self.mapi.start()
        asyncio.run(self.mapi.ready(120.0))
        ready = (time.monotonic() - begun) * 1000
        self._child.ask("connected", reconnect=True)
        return Round(ready, {}, {"all_back_ms": (time.monotonic() - begun) * 1000})


def apps(options: Options) -> Iterator[dict[str, Any]]:
    """Connect storm, memory, cost of a message without and with slow apps, restart."""
    refuse_memory(DISK)
    many = FEW * max(1, int(APPS * options.scale) // FEW)
    for slow in (0, 1):
        name = f"{many} apps" + (", one in ten slow" if slow else "")
        if not options.wants(name):
            continue
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lb-", dir=DISK)))
            (place / "n").mkdir()
            (place / "1").mkdir()
            theirs = _Setup(stack, place / "1", FEW, slow)
            ours = _Setup(stack, place / "n", many, slow)
            messages = max(many // SHARING * BURST, options.count(MESSAGES))
            for side in (ours, theirs):
                side.run(messages)  # not measured
            rounds = alternate(options.runs, partial(ours.run, messages), partial(theirs.run, messages))
            cost = Case(BENCH, f"{name}: cost", "µs of MAPI per message and app", f"{FEW} apps")
            cost.target, cost.reached = f"ratio ≤ {FLAT}", lambda line: line["ratio"] <= FLAT
            yield result(cost, *rounds)
            storm = Case(BENCH, f"{name}: connect", "ms per app", f"{FEW} apps")
            yield result(storm, [ours.storm], [theirs.storm])
            memory = Case(BENCH, f"{name}: memory", "KiB of MAPI per app", f"{FEW} apps")
            yield result(memory, [ours.memory], [theirs.memory])
            restart = Case(BENCH, f"{name}: restart", "ms to ready", f"{FEW} apps")
            restart.target, restart.reached = "below 5 s", lambda line: line["ours"] < READY_SECONDS * 1000
            yield result(restart, [ours.restart()], [theirs.restart()])


def _resident(pid: int) -> float:
    """KiB resident."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return float(text.partition("VmRSS:")[2].split()[0])


# --- the apps' process ---


class _Group:
    """The readers of one topic; a burst is done when all of them have all of it."""

    def __init__(self, ack_path: str, topic: str, readers: int) -> None:
        self._acks = socket.socket(socket.AF_UNIX)
        self._acks.connect(ack_path)
        self._acks.sendall(topic.encode())
        self._readers = readers
        self._burst = self._stride = self._received = 0
        self.left = 0
        """Bursts that are not done."""

    def expect(self, first: int, stride: int, bursts: int) -> None:
        self._burst, self._stride, self.left, self._received = first, stride, bursts, 0

    def take(self, payload: bytes) -> bool:
        """Count a copy. Return whether it was the last of the round."""
        if _NUMBER.unpack_from(payload)[0] >> 32 != self._burst:
            raise RuntimeError("a copy of another burst: one came twice, or too late")
        self._received += 1
        if self._received < self._readers * BURST:
            return False
        self._burst, self._received = self._burst + self._stride, 0
        self.left -= 1
        self._acks.send(ACK.pack(BURST))
        return self.left == 0


async def _apps(run_directory: str, ack_path: str, count: int, slow: int) -> None:
    groups = [_Group(ack_path, _topic(group, 0), SHARING - slow) for group in range(count // SHARING)]
    done = 0

    async def take(client: MessagingClient, group: _Group) -> None:
        nonlocal done
        async for event in client:
            if type(event) is MessageReceived and group.take(event.payload):
                done += 1
                if done == len(groups):
                    emit("received")

    contexts = [zmq.Context[zmq.Socket[bytes]]() for _ in range(0, count, A_CONTEXT)]
    gate = asyncio.Semaphore(AT_ONCE)
    clients: list[MessagingClient] = []

    async def join(number: int) -> None:
        group = number // SHARING
        async with gate:
            client = await MessagingClient.connect(
                run_directory, name=f"app-{number}", timeout=60, context=contexts[number // A_CONTEXT]
            )
            refused = await client.subscribe([_topic(group, each) for each in range(SHARING)])
        assert not refused, refused
        clients.append(client)
        if number % SHARING < slow:
            await client.next_event(timeout=None)  # and never another: nothing is acknowledged
        else:
            await take(client, groups[group])

    tasks = [asyncio.create_task(join(number)) for number in range(count)]
    while len(clients) < count:
        finished = [task for task in tasks if task.done()]
        for task in finished:
            task.result()
        await asyncio.sleep(0.01)
    emit("ready")
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        if "reconnect" in command:
            while not all(client.connected for client in clients):
                await asyncio.sleep(0.01)
            emit("connected")
            continue
        done = 0
        for number, group in enumerate(groups, command["first"]):
            group.expect(number, len(groups), command["bursts"])
        emit("expecting")
    os._exit(0)  # a thousand clients need not take their leave


if __name__ == "__main__":
    raise_descriptor_limit()
    asyncio.run(_apps(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))

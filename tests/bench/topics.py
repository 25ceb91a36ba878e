"""The bench `topics`: what a message costs the Messaging API by content topics subscribed and by apps.

    python -m tests.bench.topics RUN_DIRECTORY ACK_SOCKET TOPIC APPS TOPICS     is the apps' process

Kernel (fed with messages instead of a network) → MAPI → apps without names, all in one process. The reference
is one app with one topic. Each side has a kernel and a Messaging API of its own, and they take turns.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Any, Final

from logos_client import MessageReceived, MessagingClient
from tests.bench.harness import BenchError, Case, Child, CpuMeter, Options, Round, alternate, result
from tests.bench.lines import emit
from tests.bench.pipeline.wire import ACK
from tests.support.kernel_process import short_directory
from tests.support.mapi_process import MapiProcess

BENCH: Final = "topics"
TOPIC: Final = "/bench/1/topics/proto"
OTHER: Final = "/bench/1/other-{}/proto"
TOPICS: Final = (100, 10_000)
APPS: Final = (10, 100)
DELIVERIES: Final = 20_000
"""Of a run, to all apps together."""
PAYLOAD: Final = 1024
WINDOW: Final = 50
SUBSCRIBED_AT_ONCE: Final = 500
FLAT: Final = 1.25
_NUMBER: Final = Struct(">Q")


class _Setup:
    """Kernel, Messaging API, and a process of apps."""

    def __init__(self, stack: ExitStack, place: Path, apps: int, count: int) -> None:
        self._apps = apps
        run, acks = place / "k" / "run", place / "acks"
        run.mkdir(parents=True)
        self._source = stack.enter_context(
            Child.python("kernel", "tests.bench.pipeline.kernel", str(run), str(acks))
        )
        self._source.event("ready")
        mapi = MapiProcess(place / "m", f"--max-topics-per-app={max(count, 1)}", kernel_dir=place / "k")
        stack.enter_context(mapi)
        asyncio.run(mapi.ready())
        arguments = (str(mapi.run_dir), str(acks), TOPIC, str(apps), str(count))
        self._child = stack.enter_context(Child.python("apps", "tests.bench.topics", *arguments))
        self._child.event("ready")
        self._pids = {"kernel": self._source.pid, "mapi": mapi.pid, "apps": self._child.pid}
        self._round = 0

    def run(self, messages: int) -> Round:
        """µs of the Messaging API's CPU for a message and app; CPU of all for a message."""
        self._round += 1
        self._child.ask("expecting", round=self._round, messages=messages)
        meter = CpuMeter(self._pids)
        start = time.monotonic()
        self._source.send(
            round=self._round, messages=messages, size=PAYLOAD, window=WINDOW, topic=TOPIC, rate=None
        )
        reported = self._child.event("received", 120.0)
        seconds = time.monotonic() - start
        self._source.event("published")
        if reported["received"] != messages * self._apps:
            raise BenchError(f"{messages} messages for each of {self._apps} apps, they say {reported}")
        cpu = meter.per_message(messages)
        return Round(cpu["mapi"] / self._apps, cpu, {"messages_per_s": messages / seconds})


def topics(options: Options) -> Iterator[dict[str, Any]]:
    """A line for each number of topics, then for each number of apps."""
    cases = [(f"{count} topics, 1 app", 1, count) for count in TOPICS]
    cases += [(f"1 topic, {apps} apps", apps, 1) for apps in APPS]
    for name, apps, count in cases:
        if not options.wants(name):
            continue
        with ExitStack() as stack:
            place = stack.enter_context(short_directory())
            many, one = place / "n", place / "1"
            ours, theirs = _Setup(stack, many, apps, count), _Setup(stack, one, 1, 1)
            messages = max(20, options.count(DELIVERIES) // apps)
            alone = max(20, options.count(DELIVERIES))
            ours.run(max(20, messages // 10))  # not measured
            theirs.run(max(20, alone // 10))
            rounds = alternate(options.runs, partial(ours.run, messages), partial(theirs.run, alone))
        case = Case(BENCH, name, "µs of MAPI per message and app", "1 topic, 1 app")
        case.target, case.reached = f"ratio ≤ {FLAT}", lambda line: line["ratio"] <= FLAT
        case.more = {"messages": messages}
        yield result(case, *rounds)


# --- the apps' process ---


class _Count:
    """What all apps have of a round; a message counts when all of them can have it."""

    def __init__(self, acks: socket.socket, apps: int) -> None:
        self._acks = acks
        self._apps = apps
        self._round = self._messages = self._received = 0

    def expect(self, number: int, messages: int) -> None:
        self._round, self._messages, self._received = number, messages, 0
        emit("expecting")

    def take(self, payload: bytes) -> None:
        if _NUMBER.unpack_from(payload)[0] >> 32 != self._round:
            return
        self._received += 1
        whole, rest = divmod(self._received, self._apps)
        if rest == 0 and (whole % (WINDOW // 2) == 0 or whole == self._messages):
            self._acks.send(ACK.pack(whole))
        if self._received == self._apps * self._messages:
            emit("received", received=self._received)


async def _take(client: MessagingClient, count: _Count) -> None:
    async for event in client:
        if type(event) is MessageReceived:
            count.take(event.payload)


async def _apps(run_directory: str, ack_path: str, topic: str, apps: int, topic_count: int) -> None:
    acks = socket.socket(socket.AF_UNIX)
    acks.connect(ack_path)
    acks.sendall(topic.encode())
    count = _Count(acks, apps)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    names = [topic, *(OTHER.format(number) for number in range(1, topic_count))]
    async with AsyncExitStack() as stack:
        tasks = []
        for _ in range(apps):
            client = await stack.enter_async_context(MessagingClient.connect(run_directory, timeout=30))
            for first in range(0, len(names), SUBSCRIBED_AT_ONCE):
                refused = await client.subscribe(names[first : first + SUBSCRIBED_AT_ONCE])
                assert not refused, refused
            tasks.append(asyncio.create_task(_take(client, count)))
        emit("ready")
        while line := await lines.readline():
            command = json.loads(line)
            count.expect(command["round"], command["messages"])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    acks.close()


if __name__ == "__main__":
    asyncio.run(_apps(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))

"""Apps in every language with a client, on two nodes: a chat while MAPI and kernel of both are killed."""

from __future__ import annotations

import asyncio
import select
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from conformance.adapter import Adapter
from conformance.ours import OURS, Unavailable
from ipc_schema.paths import mapi_endpoints
from tests.integration.test_conformance_live import ask
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import Node, telling

pytestmark = [pytest.mark.compiled_client, pytest.mark.integration]

TOPIC = "/five-languages/1/chat/plain"
SECONDS = 90.0
ROUNDS = ("nothing", "mapi", "kernel", "both")


class App:
    """One language's client under test, and the messages it got, by their place in its stream."""

    def __init__(self, language: str, node: Node) -> None:
        self.language = language
        self.adapter = Adapter(OURS[language](), None)
        self.got: dict[tuple[str, int], str] = {}
        self._next: int | None = None
        ask(self.adapter, "connect", endpoint=mapi_endpoints(node.run).apps, name=language)
        assert ask(self.adapter, "subscribe", topics=[TOPIC]) == {}

    def take(self) -> None:
        """Take what is there, and ask for the next event."""
        self.adapter.receive()
        if self._next in self.adapter.answers:
            answer = self.adapter.answers.pop(self._next)
            self._next = None
            assert answer["ok"], (self.language, answer)
            self._keep(answer["result"])
        if self._next is None:
            self._next = self.adapter.begin("next", {"timeout_ms": int(SECONDS * 1000)})

    def _keep(self, event: dict[str, Any]) -> None:
        if event["event"] == "link_restored":
            assert event["resumed"], (self.language, event)
        assert event["event"] != "events_dropped", (self.language, event)
        if event["event"] == "message_received":
            # A repeat after a kill has the same place; anything else under it would be a fault.
            place = event["stream_id"], int(event["seq"])
            assert self.got.setdefault(place, event["payload"]) == event["payload"]


@contextmanager
def two_nodes(directory: Path) -> Iterator[tuple[Node, Node]]:
    """Nodes that dial the same store: it keeps what a killed kernel misses, and its address stays."""
    with KernelProcess(directory / "s", "--store=true", "--shard=0") as store:
        dial = f"--staticnode={store.address()}"
        with (
            KernelProcess(directory / "a", dial) as first,
            KernelProcess(directory / "b", dial) as second,
            MapiProcess(directory / "a") as mapi_a,
            MapiProcess(directory / "b") as mapi_b,
            telling(store.log, first.log, second.log, mapi_a.log, mapi_b.log),
        ):
            nodes = Node(directory / "a", first, mapi_a), Node(directory / "b", second, mapi_b)
            asyncio.run(_ready(nodes))
            yield nodes


async def _ready(nodes: tuple[Node, Node]) -> None:
    for node in nodes:
        await node.mapi.ready()


def test_apps_in_five_languages_get_each_message_once_through_kills() -> None:
    with ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        nodes = stack.enter_context(two_nodes(directory))
        apps: list[App] = []
        missing: list[str] = []
        for number, language in enumerate(OURS):
            try:
                app = App(language, nodes[number % 2])
            except Unavailable as why:  # in continuous integration this is a failure
                missing.append(f"{language} ({why})")
                continue
            stack.callback(app.adapter.close)
            apps.append(app)
        wanted: list[str] = []
        for name in ROUNDS:
            # What is sent while they are dead is under way when they are back.
            _kill(nodes, name)
            sends = [(app, f"{name} from {app.language}".encode().hex()) for app in apps]
            numbers = [
                app.adapter.begin(
                    "send", {"topic": TOPIC, "payload": text, "timeout_ms": int(SECONDS * 1000)}
                )
                for app, text in sends
            ]
            _start(nodes, name)
            wanted += [text for _, text in sends]
            _until_all_have(apps, wanted)
            for (app, _), number in zip(sends, numbers, strict=True):
                assert app.adapter.answers.pop(number)["ok"]
        for app in apps:
            assert Counter(app.got.values()) == Counter(wanted), app.language
            assert len({stream for stream, _ in app.got}) == 1
    if missing:
        pytest.skip(f"passed without {', '.join(missing)}")


def _kill(nodes: tuple[Node, Node], name: str) -> None:
    for node in nodes:
        if name in ("mapi", "both"):
            node.mapi.kill()
        if name in ("kernel", "both"):
            node.kernel.stop(signal.SIGKILL)


def _start(nodes: tuple[Node, Node], name: str) -> None:
    for node in nodes:
        if name in ("kernel", "both"):
            node.kernel.start()
        if name in ("mapi", "both"):
            node.mapi.start()


def _until_all_have(apps: list[App], wanted: list[str]) -> None:
    end = time.monotonic() + SECONDS
    while not all(set(wanted) <= set(app.got.values()) for app in apps):
        lacking = {app.language: sorted(set(wanted) - set(app.got.values())) for app in apps}
        assert time.monotonic() < end, lacking
        for app in apps:
            app.take()
        select.select([app.adapter.fd for app in apps], [], [], 0.5)

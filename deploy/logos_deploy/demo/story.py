"""The script of the demonstration, step by step.

No step waits by the clock: each waits for what it needs, with a deadline.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from shutil import rmtree
from typing import Final

from logos_client.exceptions import LogosError
from logos_deploy.demo.app import DemoApp, DemoError
from logos_deploy.demo.http import show_http
from logos_deploy.demo.ledger import Entry, Ledger
from logos_deploy.demo.node import DemoNode, free_ports
from logos_deploy.node.supervisor import SupervisorError
from logos_deploy.text import count, duration, size

TOPIC: Final = "/logos-demo/1/chat/plain"
_WHOLE: Final = 90.0
_SETTLE: Final = 30.0
_SIZES: Final = (8, 256, 1024, 14 * 1024, 64 * 1024)
"""Sizes of the messages in both directions; the largest that fits is added when it is known."""

Say = Callable[[str], None]


async def play(say: Say, complain: Say, *, keep: bool = False) -> bool:
    """The whole demonstration; True when all went as it must. However it ends, nothing is left of it, but
    with `keep` the directory of both nodes."""
    loop = asyncio.get_running_loop()
    start = loop.time()

    def step(text: str) -> None:
        say(f"[{loop.time() - start:5.1f} s] {text}")

    nodes: list[DemoNode] = []
    good = False
    with ExitStack() as outer:
        # A short path: socket paths have at most 107 bytes.
        directory = Path(tempfile.mkdtemp(prefix="logos-", dir="/tmp"))
        if not keep:
            outer.callback(rmtree, directory, ignore_errors=True)
        for_all = outer.enter_context(ExitStack())
        try:
            try:
                async with asyncio.timeout(_WHOLE):
                    await _Story(step, say, directory, nodes, for_all).play()
                good = True
            except (DemoError, SupervisorError, LogosError, OSError) as error:
                complain(f"the demonstration failed: {error}")
            except TimeoutError:
                complain(f"the demonstration failed: not done within {_WHOLE:g} s")
            if not good:
                for node in nodes:
                    complain(node.logs())
        finally:
            step("ending both nodes")
            try:
                async with asyncio.TaskGroup() as group:  # not gather: cancelled, it would not wait for all
                    for node in nodes:
                        group.create_task(node.stop())
            except* (SupervisorError, OSError) as failed:
                complain(f"a node did not end as it must: {'; '.join(map(str, failed.exceptions))}")
                good = False
            finally:  # interrupted once more, the nodes are killed
                left = [pid for node in nodes for pid in node.left_running()]
                if left:
                    complain(f"still running: {', '.join(map(str, left))}")
                    good = False
                else:
                    step("nothing is left running")
    if good:
        say(f"done in {duration(loop.time() - start)}")
    return good


class _Story:
    def __init__(
        self, step: Say, say: Say, directory: Path, nodes: list[DemoNode], cleanup: ExitStack
    ) -> None:
        self._step = step
        self._say = say
        self._directory = directory
        self._nodes = nodes
        self._cleanup = cleanup
        self._changed = asyncio.Event()
        self._ledger = Ledger(("alice", "bob"))

    async def play(self) -> None:
        async with AsyncExitStack() as stack:
            self._step(f"two nodes on loopback, in {self._directory}, each under a supervisord of its own")
            first, second = await self._start_nodes()
            alice = await self._open_app("alice", first, stack)
            bob = await self._open_app("bob", second, stack)
            await self._all_ready(alice, bob)
            self._step(f"alice (an app on node {first.name}) and bob (on {second.name}) are connected")
            await self._both_ways(alice, bob)
            self._step(f"the same over HTTP, from the gateway of node {first.name}")
            await show_http(await first.http_url(), lambda line: self._say(f"          {line}"))
            await self._kill_mapi(second, alice, bob)
            await self._kill_kernel(first, alice, bob)
            self._verify()

    # -- setting up ------------------------------------------------------------------------------------------

    async def _start_nodes(self) -> tuple[DemoNode, DemoNode]:
        ports = free_ports(3)
        first = self._node("A", ports[0], http_port=ports[2])
        await first.start()
        await self._show_ready(first)
        second = self._node("B", ports[1], await first.address())
        await second.start()
        await self._show_ready(second)
        return first, second

    def _node(self, name: str, port: int, *peers: str, http_port: int | None = None) -> DemoNode:
        data_dir = self._directory / name.lower()
        data_dir.mkdir(mode=0o700)
        node = DemoNode(name, data_dir, port, peers, http_port=http_port)
        self._nodes.append(node)
        self._cleanup.callback(node.close)
        return node

    async def _show_ready(self, node: DemoNode) -> None:
        processes = await node.ready()
        shown = ", ".join(f"{what} process {health.pid}" for what, health in processes.items())
        self._step(f"node {node.name} is ready: {shown}, {await node.address()}")

    async def _open_app(self, name: str, node: DemoNode, stack: AsyncExitStack) -> DemoApp:
        app = DemoApp(name, TOPIC, self._ledger, self._changed)
        stack.push_async_callback(app.close)
        return await app.open(node.run_dir, _SETTLE)

    async def _all_ready(self, *apps: DemoApp) -> None:
        await apps[0].until(
            lambda: all(app.ready for app in apps), _SETTLE, "both apps have a peer for their topic"
        )

    # -- messages --------------------------------------------------------------------------------------------

    async def _settle(self, app: DemoApp, entries: Sequence[Entry]) -> None:
        what = f"{count(len(entries), 'message')} propagated and received by both apps"
        try:
            await app.until(lambda: self._ledger.settled(entries), _SETTLE, what)
        except DemoError as error:
            raise DemoError(f"{error}: {'; '.join(self._ledger.faults(entries))}") from None
        finally:
            self._say(_indent(self._ledger.time_lines(entries)))

    async def _both_ways(self, alice: DemoApp, bob: DemoApp) -> None:
        largest = min(alice.max_payload, bob.max_payload)
        self._step(f"messages both ways, up to the largest that fits ({size(largest)}: {largest} bytes)")
        entries = []
        for length in (*_SIZES, largest):
            for app in (alice, bob):
                entry = await app.send(os.urandom(length))
                await app.until(
                    lambda entry=entry: self._ledger.settled([entry]),  # type: ignore[misc]
                    _SETTLE,
                    f"{size(length)} from {app.name} reaches both apps",
                )
                entries.append(entry)
        await self._settle(alice, entries)

    async def _few(self, *apps: DemoApp) -> list[Entry]:
        return [await app.send(os.urandom(512 + 128 * index)) for index in range(3) for app in apps]

    # -- kills -----------------------------------------------------------------------------------------------

    async def _kill_mapi(self, node: DemoNode, alice: DemoApp, bob: DemoApp) -> None:
        killed = node.kill("MAPI")
        self._step(f"kill -9 of the MAPI of node {node.name} (process {killed}); alice sends 3 meanwhile")
        entries = await self._few(alice)
        health = await node.back("MAPI", killed)
        self._step(f"it is back as process {health.pid}; bob's stream goes on, nothing of it is lost")
        await self._all_ready(bob, alice)
        await self._settle(bob, entries)
        self._show_notes(alice, bob)
        await self._settle(bob, await self._few(alice, bob))

    async def _kill_kernel(self, node: DemoNode, alice: DemoApp, bob: DemoApp) -> None:
        address = await node.address()
        killed = node.kill("kernel")
        self._step(f"kill -9 of the kernel of node {node.name} (process {killed}); both send 3 meanwhile")
        await bob.until(lambda: bob.cut_off, _SETTLE, "bob is notified that his topic has no peer any more")
        entries = await self._few(alice, bob)
        health = await node.back("kernel", killed)
        if await node.address() != address:
            raise DemoError(f"the kernel of node {node.name} is not at {address} any more")
        self._step(f"it is back as process {health.pid}, at the same address and with the same peer id")
        await self._all_ready(alice, bob)
        await self._settle(alice, entries)
        self._show_notes(alice, bob)
        await self._settle(alice, await self._few(alice, bob))

    def _show_notes(self, *apps: DemoApp) -> None:
        for app in apps:
            for note in app.notes:
                self._say(f"          {note}")
            app.notes.clear()

    # -- the count -------------------------------------------------------------------------------------------

    def _verify(self) -> None:
        faults = self._ledger.faults()
        if faults:
            raise DemoError("; ".join(faults))
        self._step(f"{count(len(self._ledger), 'message')}: each was received by both apps, exactly once")


def _indent(text: str) -> str:
    return "\n".join(f"          {line}" for line in text.splitlines())

"""Whole nodes for tests: a kernel and a Messaging API each, as real processes, and what tests
ask of an app.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

from logos_client.events import Event
from logos_client.exceptions import DeadlineError
from logos_client.messaging import MessagingClient
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess

TOPIC = "/toychat/2/huilong/proto"
E = TypeVar("E")


class Node:
    """A kernel and a Messaging API on one data directory."""

    def __init__(self, directory: Path, kernel: KernelProcess, mapi: MapiProcess) -> None:
        self.directory = directory
        self.kernel = kernel
        self.mapi = mapi

    @property
    def run(self) -> Path:
        """Where clients connect."""
        return self.directory / "run"


@contextmanager
def telling(*logs: Path) -> Iterator[None]:
    """Show the ends of these logs when a test fails: the processes' files are gone by then."""
    try:
        yield
    except BaseException:
        for log in logs:
            print(f"--- {log}\n{log.read_text(errors='replace')[-4000:] if log.exists() else '(none)'}")
        raise


@contextmanager
def node_pair(directory: Path, *, mapi_options: tuple[str, ...] = ()) -> Iterator[tuple[Node, Node]]:
    """Two nodes on loopback, the second dialling the first."""
    with (
        KernelProcess(directory / "a") as first,
        KernelProcess(directory / "b", f"--staticnode={first.address()}") as second,
        MapiProcess(directory / "a", *mapi_options) as mapi_a,
        MapiProcess(directory / "b", *mapi_options) as mapi_b,
        telling(first.log, second.log, mapi_a.log, mapi_b.log),
    ):
        yield Node(directory / "a", first, mapi_a), Node(directory / "b", second, mapi_b)


@contextmanager
def services(directory: Path, *options: Sequence[str]) -> Iterator[list[KernelProcess]]:
    """Kernels on shard 0 that serve edge nodes by filter and lightpush, all connected to each other; one for
    each set of further options.
    """
    with ExitStack() as stack:
        started: list[KernelProcess] = []
        for number, each in enumerate(options):
            dial = [f"--staticnode={other.address()}" for other in started]
            # All of a test comes from one address, and not at the rate that the default limits are made for.
            served = ("--shard=0", "--ip-colocation-limit=0", "--rate-limit=lightpush:0/1s")
            kernel = KernelProcess(directory / f"s{number}", *served, *dial, *each)
            started.append(stack.enter_context(kernel))
        yield started


@contextmanager
def edge_pair(
    directory: Path, served_by: Sequence[KernelProcess], *, mapi_options: tuple[str, ...] = ()
) -> Iterator[tuple[Node, Node]]:
    """Two edge nodes: neither relays, both dial the same service nodes."""
    kernel_options = ["--relay=false", *(f"--staticnode={kernel.address()}" for kernel in served_by)]
    with (
        KernelProcess(directory / "a", *kernel_options) as first,
        KernelProcess(directory / "b", *kernel_options) as second,
        MapiProcess(directory / "a", "--mode=edge", *mapi_options) as mapi_a,
        MapiProcess(directory / "b", "--mode=edge", *mapi_options) as mapi_b,
    ):
        yield Node(directory / "a", first, mapi_a), Node(directory / "b", second, mapi_b)


@contextmanager
def node_with_sender(directory: Path, *, mapi_options: tuple[str, ...] = ()) -> Iterator[tuple[Node, Path]]:
    """A node, and a kernel that is its only peer and stays on shard 0: whence a test publishes. The node's
    own kernel dials, so it finds its peer again after a restart. Gives the node and the sender's run
    directory.
    """
    with (
        KernelProcess(directory / "s", "--shard=0") as sender,
        KernelProcess(directory / "n", f"--staticnode={sender.address()}") as kernel,
        MapiProcess(directory / "n", *mapi_options) as mapi,
        telling(sender.log, kernel.log, mapi.log),
    ):
        yield Node(directory / "n", kernel, mapi), directory / "s" / "run"


@contextmanager
def single_node(
    directory: Path, *, kernel_options: tuple[str, ...] = (), mapi_options: tuple[str, ...] = ()
) -> Iterator[Node]:
    """A node without peers. What is published at its kernel reaches its apps all the same."""
    with (
        KernelProcess(directory / "n", *kernel_options) as kernel,
        MapiProcess(directory / "n", *mapi_options) as mapi,
        telling(kernel.log, mapi.log),
    ):
        yield Node(directory / "n", kernel, mapi)


@asynccontextmanager
async def connected_pair(
    nodes: tuple[Node, Node], *names: str | None, topic: str = TOPIC
) -> AsyncIterator[tuple[MessagingClient, MessagingClient]]:
    """An app on each node, subscribed, with a mesh between the two."""
    first, second = names or (None, None)
    for node in nodes:
        await node.mapi.ready()
    async with (
        MessagingClient.connect(nodes[0].run, name=first) as a,
        MessagingClient.connect(nodes[1].run, name=second) as b,
    ):
        for app in (a, b):
            assert await app.subscribe(topic) == {}
        for app in (a, b):
            await wait_status(app, topic)
        yield a, b


async def wait_status(app: MessagingClient, topic: str = TOPIC, timeout: float = 30.0) -> None:
    """Until the topic's shard has a mesh peer. Asks the status, so that no event is eaten."""
    until = time.monotonic() + timeout
    while True:
        status = await app.status()
        if status.topics.get(topic) in ("MINIMALLY_HEALTHY", "SUFFICIENTLY_HEALTHY"):
            return
        assert time.monotonic() < until, f"no mesh on {topic}: {status}"
        await wait_event(app, 0.1)


_kept: WeakKeyDictionary[MessagingClient, list[Event]] = WeakKeyDictionary()


async def wait_event(app: MessagingClient, timeout: float) -> None:
    """Receive an event, and keep it for the next `wait`."""
    with suppress(DeadlineError):
        _kept.setdefault(app, []).append(await app.next_event(timeout))


async def wait_for(
    app: MessagingClient, kind: type[E], matches: Callable[[E], bool] = lambda _e: True, timeout: float = 20.0
) -> E:
    """The next event of a kind that matches; others are passed over."""
    until = time.monotonic() + timeout
    kept = _kept.get(app, [])
    while True:
        event = kept.pop(0) if kept else await app.next_event(max(0.0, until - time.monotonic()))
        if isinstance(event, kind) and matches(event):
            return event


async def collect(app: MessagingClient, kind: type[E], count: int, timeout: float = 30.0) -> list[E]:
    """The next `count` events of a kind."""
    until = time.monotonic() + timeout
    return [await wait_for(app, kind, timeout=until - time.monotonic()) for _ in range(count)]


async def drain(app: MessagingClient, seconds: float) -> list[Event]:
    """Everything that comes until nothing has come for `seconds`: for asserting that something
    does not come.
    """
    events = _kept.pop(app, [])
    while True:
        try:
            events.append(await app.next_event(seconds))
        except DeadlineError:
            return events

"""Stores that were away when messages passed: what one lacks comes from the other, and where none was there
the apps hear of it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from logos_client.events import MessageReceived, MessagesMissed
from logos_client.messaging import MessagingClient
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import TOPIC, collect, telling, wait_for, wait_status

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COUNT = 10


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def publish(kernel: KernelProcess, payload: bytes) -> None:
    """Publish at a store: its own archive takes it, with or without peers."""
    dealer = kernel.dealer()
    dealer.ask("relay.publish", {"content_topic": TOPIC}, payload)
    dealer.close()


class Network:
    """Stores, the first of which is restarted with the node's kernel; and a node that dials all of them."""

    def __init__(self, stores: list[KernelProcess], kernel: KernelProcess, mapi: MapiProcess) -> None:
        self.stores = stores
        self.kernel = kernel
        self.mapi = mapi

    def fall(self) -> None:
        """The node's kernel and the first store are killed together."""
        self.kernel.stop(9)
        self.stores[0].stop(9)

    def rise(self) -> None:
        self.stores[0].start()
        self.kernel.start()


@contextmanager
def network(directory: Path, stores: int, constants: Mapping[str, float] | None = None) -> Iterator[Network]:
    """`stores` archives that are connected to each other, and the last of which publishes."""
    ports = [free_port() for _ in range(stores)]
    started: list[KernelProcess] = []
    common = ("--shard=0", "--store=true", "--ip-colocation-limit=0")
    try:
        for number, port in enumerate(ports):
            dial = [f"--staticnode={other.address()}" for other in started]
            store = KernelProcess(directory / f"s{number}", *common, *dial, f"--tcp-port={port}")
            started.append(store)
            store.start()
        dial = [f"--staticnode={store.address()}" for store in started]
        with (
            KernelProcess(directory / "n", "--ip-colocation-limit=0", *dial) as kernel,
            MapiProcess(directory / "n", constants=constants) as mapi,
            telling(kernel.log, mapi.log, *(store.log for store in started)),
        ):
            yield Network(started, kernel, mapi)
    finally:
        for store in started:
            store.__exit__(None, None, None)


@asyncio_test(120)
async def test_what_a_store_missed_that_fell_with_the_kernel_comes_from_the_other(tmp_path: Path) -> None:
    with network(tmp_path, 2) as net:
        await net.mapi.ready()
        async with MessagingClient.connect(net.mapi.run_dir, name="app") as app:
            assert await app.subscribe(TOPIC) == {}
            await wait_status(app)
            publish(net.stores[1], b"before")
            await wait_for(app, MessageReceived)
            net.fall()
            for number in range(COUNT):
                publish(net.stores[1], b"missed-%d" % number)
            await asyncio.to_thread(net.rise)
            got = await collect(app, MessageReceived, COUNT)
            assert {one.payload for one in got} == {b"missed-%d" % n for n in range(COUNT)}


@asyncio_test(120)
async def test_where_the_only_store_was_away_too_the_app_hears_of_the_gap(tmp_path: Path) -> None:
    quick = {"mapi_proc.receive.catchup:DOUBT_NOTIFY_S": 3.0}
    with network(tmp_path, 1, quick) as net:
        await net.mapi.ready()
        async with MessagingClient.connect(net.mapi.run_dir, name="app") as app:
            assert await app.subscribe(TOPIC) == {}
            await wait_status(app)
            publish(net.stores[0], b"before")
            before = (await wait_for(app, MessageReceived)).timestamp
            net.fall()
            await asyncio.to_thread(net.rise)
            missed = await wait_for(app, MessagesMissed, timeout=60)
            assert missed.from_ns <= before + 5_000_000_000
            assert missed.to_ns > missed.from_ns

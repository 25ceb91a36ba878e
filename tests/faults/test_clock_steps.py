"""A host whose wall clock is wrong for a while: nothing that passes later is lost for it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipc_schema.kernel.events import stream_topic
from logos_client.events import MessageReceived
from logos_client.messaging import MessagingClient
from tests.chaos.shim import HostFaults, build
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import TOPIC, collect, telling, wait_for, wait_status

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the clock's shim"),
]

HOUR_NS = 3600 * 10**9


def publish(kernel: KernelProcess, payload: bytes) -> None:
    """Publish at the store, whose own archive takes it in any case."""
    dealer = kernel.dealer()
    dealer.ask("relay.publish", {"content_topic": TOPIC}, payload)
    dealer.close()


def covered(kernel: KernelProcess) -> None:
    """Until the kernel has said so for two beats, by which time its reader has asked since when."""
    subscriber = kernel.subscriber(stream_topic(0, 0))
    beats = 0
    while beats < 3:
        beats = beats + 1 if subscriber.heartbeat().covered else 0


@contextmanager
def on_host(host: HostFaults) -> Iterator[None]:
    """What is started here runs on that host."""
    before = dict(os.environ)
    os.environ.update(host.environment)
    try:
        yield
    finally:
        for name in host.environment:
            del os.environ[name]
        os.environ.update(before)


@pytest.mark.parametrize("ahead", [HOUR_NS, -HOUR_NS])
@asyncio_test(90)
async def test_a_gap_after_a_clock_was_set_right_is_caught_up(tmp_path: Path, ahead: int) -> None:
    library = build(tmp_path)
    assert library is not None
    host = HostFaults(tmp_path / "host", library)
    store = KernelProcess(tmp_path / "s", "--shard=0", "--store=true")
    with store:
        kernel = KernelProcess(tmp_path / "n", f"--staticnode={store.address()}")
        mapi = MapiProcess(tmp_path / "n")
        try:
            with on_host(host):
                kernel.start()
                mapi.start()
            with telling(store.log, kernel.log, mapi.log):
                await mapi.ready()
                async with MessagingClient.connect(mapi.run_dir, name="app") as app:
                    assert await app.subscribe(TOPIC) == {}
                    await wait_status(app)
                    for step, payload in ((0, b"right"), (ahead, b"wrong"), (0, b"right again")):
                        host.set_clock(step)
                        if step:  # the stream's position begins by the wrong clock
                            assert await app.unsubscribe(TOPIC) == {}
                            assert await app.subscribe(TOPIC) == {}
                            await asyncio.to_thread(covered, kernel)
                        publish(store, payload)
                        assert (await wait_for(app, MessageReceived)).payload == payload
                    kernel.stop(9)
                    for number in range(5):
                        publish(store, b"missed-%d" % number)
                    with on_host(host):
                        await asyncio.to_thread(kernel.start)
                    got = await collect(app, MessageReceived, 5)
                    assert {one.payload for one in got} == {b"missed-%d" % n for n in range(5)}
        finally:
            mapi.__exit__(None, None, None)
            kernel.__exit__(None, None, None)

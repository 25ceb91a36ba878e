"""The bridge on a host whose wall clock is wrong for a while."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import nats
import pytest

from tests.chaos.shim import HostFaults, build
from tests.faults.test_clock_steps import HOUR_NS, covered, on_host, publish
from tests.integration.test_bridge_recovery import stored
from tests.support.aio import asyncio_test
from tests.support.bridge_process import BridgeProcess
from tests.support.kernel_process import KernelProcess
from tests.support.nats_server import NatsServer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the clock's shim"),
]

QUICK = {"logos_bridge.store_fill:_ARCHIVED_NS": 1e9, "logos_bridge.store_fill:_RETRY": 0.5}


@pytest.mark.parametrize("down", [False, True], ids=["running", "down"])
@asyncio_test(90)
async def test_what_passes_after_its_clock_was_set_right_is_fetched(tmp_path: Path, *, down: bool) -> None:
    """An hour ahead, set right while the bridge runs or is down; then the kernel misses messages."""
    library = build(tmp_path)
    assert library is not None
    host = HostFaults(tmp_path / "host", library)
    with NatsServer() as server, KernelProcess(tmp_path / "s", "--shard=0", "--store=true") as store:
        server.wait_ready()
        kernel = KernelProcess(tmp_path / "n", f"--staticnode={store.address()}")
        arguments = (f"--nats-url={server.url}", "--mapi=false", "--bridge-shard=0")
        bridge = BridgeProcess(tmp_path / "n", *arguments, constants=QUICK)
        client = await nats.connect(server.url)
        js = client.jetstream()
        try:
            with on_host(host):
                host.set_clock(HOUR_NS)
                kernel.start()
                bridge.start()
                bridge.wait_ready()
                await asyncio.to_thread(covered, kernel)
                publish(store, b"by the wrong clock")
                assert await stored(js, 1) == [b"by the wrong clock"]
                bridge.wait_for(lambda status: status["out"]["0"]["seq"] == 1)
                if down:
                    bridge.close()
                host.set_clock(0)
                kernel.stop(9)
                for number in range(5):
                    publish(store, b"missed-%d" % number)
                await asyncio.sleep(6)  # too old to come by gossip (five heartbeats)
                kernel.start()
                if down:
                    bridge.start()
                missed = [b"missed-%d" % number for number in range(5)]
                assert sorted(await stored(js, 6)) == [b"by the wrong clock", *missed], bridge.log()
        finally:
            await client.close()
            bridge.close()
            kernel.__exit__(None, None, None)

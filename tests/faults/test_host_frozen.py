"""A peer process that is stopped (SIGSTOP) is evicted in time, a live or slow one is not."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from kernel_proc.p2p.api import Stream, StreamClosed
from kernel_proc.p2p.limits import HostLimits
from tests.support.aio import trio_test
from tests.unit.kernel_proc.p2p.support import ROOMY, host

ROOT = Path(__file__).parents[2]
QUICK = dataclasses.replace(ROOMY, ping_interval=0.4, ping_timeout=3.0, write_timeout=1.0)

PEER = """
import sys, trio
from kernel_proc.p2p import upgrade
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey

if sys.argv[1] == "mplex":
    from kernel_proc.p2p.mplex import PROTOCOL, Mplex
    upgrade.MUXERS = {PROTOCOL: Mplex}

async def sink(stream):
    while await stream.read():
        pass

async def main():
    node = Libp2pHost(key=NodeKey.generate(), listen=["/ip4/127.0.0.1/tcp/0"])
    node.set_stream_handler("/sink", sink)
    async with node.run():
        print(node.listen_addresses[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@contextmanager
def peer_process(muxer: str = "yamux") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process with a host; its address."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", PEER, muxer], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("muxer", ["yamux", "mplex"])
@trio_test()
async def test_a_frozen_peer_is_evicted(muxer: str) -> None:
    with peer_process(muxer) as (process, address):
        async with host(limits=QUICK) as (node, events):
            peer_id = await node.connect(address)
            await events.wait_for("identified")
            await trio.sleep(2.0)  # several rounds of keepalive
            assert node.is_connected(peer_id)
            process.send_signal(signal.SIGSTOP)
            await events.wait_for("disconnected")
            assert events.reasons == ["no sign of life"]
            assert node.counters()["frozen_evicted"] == 1


@trio_test()
async def test_a_peer_frozen_under_load_is_evicted_and_the_writer_freed() -> None:
    failures: list[str] = []

    async def pour(stream: Stream) -> None:
        try:
            while True:
                await stream.write(bytes(60_000))
        except StreamClosed as error:
            failures.append(str(error))

    with peer_process() as (process, address):
        async with host(limits=QUICK) as (node, events), trio.open_nursery() as nursery:
            peer_id = await node.connect(address)
            nursery.start_soon(pour, await node.open_stream(peer_id, ["/sink"]))
            await trio.sleep(0.3)
            process.send_signal(signal.SIGSTOP)
            await events.wait_for("disconnected")
        assert len(failures) == 1


def test_the_defaults_evict_within_twenty_seconds() -> None:
    limits = HostLimits()
    tick = 1.0
    assert limits.ping_interval + limits.ping_timeout + 3 * tick < 20
    assert limits.write_timeout + 2 * tick < 20


@trio_test()
async def test_our_own_sleep_is_not_held_against_the_peer() -> None:
    with peer_process() as (_process, address):
        async with host(limits=QUICK) as (node, events):
            peer_id = await node.connect(address)
            await events.wait_for("identified")
            (connection,) = node._connections.all()
            muxer = connection.muxer
            now = trio.current_time()
            muxer.last_received = now - 1
            muxer.tick(now)  # asks
            muxer.tick(now + 3600)  # we slept for an hour with the question open
            await trio.sleep(1.0)
            assert node.is_connected(peer_id)

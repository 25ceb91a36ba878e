"""Kernels that know one node each, by its record, by a list in the DNS or by its address, find each other,
form a mesh, and then need no particular node for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from ipc_schema.kernel.events import stream_topic
from tests.support.dns_server import dns_server
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.networks import GONE, Entrance, complaints, start_in_pairs, wait_for_mesh

pytestmark = pytest.mark.integration

SIZE = 12
LIMIT = 60.0
TOPIC = "/test/1/discovery/proto"
COMMON = (
    "--cluster-id=42",
    "--shard=0",
    "--discv5-discovery",
    "--discv5-udp-port=0",
    "--ip-colocation-limit=0",
    "--log-level=WARN",
)


def delivered(sender: KernelProcess, receivers: Sequence[KernelProcess], payload: bytes) -> float:
    """Publish, wait until all have it; the seconds that took."""
    readers = [kernel.subscriber(stream_topic(42, 0)) for kernel in receivers]
    for reader in readers:
        reader.heartbeat()
    dealer, began = sender.dealer(), time.monotonic()
    assert dealer.ok("relay.publish", {"content_topic": TOPIC}, payload)["peers"]
    for reader in readers:
        while reader.message(20)[1] != payload:
            pass
        reader.close()
    dealer.close()
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_one_bootstrap_is_enough_and_then_not_needed() -> None:
    with short_directory() as directory, ExitStack() as stack:
        bootstrap = stack.enter_context(KernelProcess(directory / "k0", *COMMON))
        with dns_server() as server:
            entrance = Entrance(bootstrap, server)
            rest = [
                KernelProcess(directory / f"k{number}", *COMMON, *entrance.options(number))
                for number in range(1, SIZE)
            ]
            start_in_pairs(stack, rest)
            took = wait_for_mesh([bootstrap, *rest], LIMIT)
            print(f"{SIZE} kernels: healthy mesh {took:.1f} s after the last was ready")
            print(f"delivered to all in {1000 * delivered(rest[-1], [bootstrap, *rest[:-1]], b'1'):.0f} ms")

        bootstrap.stop(9)
        moved = rest[::2]  # of each way some, and some of each stay
        before = [kernel.address() for kernel in moved]
        for kernel in moved:
            kernel.stop()
        start_in_pairs(stack, moved)
        took = wait_for_mesh(rest, LIMIT)
        assert not set(before) & {kernel.address() for kernel in moved}, "automatic ports are others now"
        print(f"without bootstrap and DNS, half moved: healthy {took:.1f} s after the last was ready")
        others = [kernel for kernel in rest if kernel is not moved[0]]
        print(f"delivered to all in {1000 * delivered(moved[0], others, b'2'):.0f} ms")
        for kernel in (bootstrap, *rest):
            assert not complaints(kernel.log, GONE)

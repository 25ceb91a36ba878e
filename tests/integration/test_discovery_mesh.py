"""Kernels that know one node each find each other, form a mesh, and need nobody in particular for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from ipc_schema.kernel.events import stream_topic
from tests.support.kernel_process import KernelProcess, eventually, short_directory

pytestmark = pytest.mark.integration

TOPIC = "/test/1/discovery/proto"
COMMON = (
    "--shard=0",
    "--discv5-discovery",
    "--discv5-udp-port=0",
    "--ip-colocation-limit=0",
    "--cluster-id=42",
)


def healthy(kernel: KernelProcess) -> bool:
    dealer = kernel.dealer()
    shard = dealer.ok("node.health")["shards"][0]
    dealer.close()
    return bool(shard["health"] == "SUFFICIENTLY_HEALTHY")


def wait_for_mesh(kernels: Sequence[KernelProcess], seconds: float) -> float:
    began = time.monotonic()
    for kernel in kernels:
        eventually(lambda kernel=kernel: healthy(kernel), began + seconds - time.monotonic())
    return time.monotonic() - began


def delivered(sender: KernelProcess, receivers: Sequence[KernelProcess], payload: bytes) -> None:
    readers = [kernel.subscriber(stream_topic(42, 0)) for kernel in receivers]
    for reader in readers:
        reader.heartbeat()
    dealer = sender.dealer()
    assert dealer.ok("relay.publish", {"content_topic": TOPIC}, payload)["peers"]
    for reader in readers:
        while reader.message(20)[1] != payload:
            pass
        reader.close()


def network(directory: Path, count: int, stack: ExitStack) -> list[KernelProcess]:
    """The first is the only node that the others know."""
    first = stack.enter_context(KernelProcess(directory / "k0", *COMMON))
    entry = first.info("MyENR", "MyMultiaddresses")
    options = (
        f"--entry-node={entry['MyENR']}",
        f"--discv5-bootstrap-node={entry['MyENR']}",
    )
    rest = [
        KernelProcess(directory / f"k{number}", *COMMON, options[number % 2]) for number in range(1, count)
    ]
    for kernel in rest:
        stack.enter_context(_launched(kernel))
    for kernel in rest:
        kernel.wait_ready()
    return [first, *rest]


def _launched(kernel: KernelProcess) -> ExitStack:
    stack = ExitStack()
    kernel.launch()
    stack.callback(kernel.__exit__, None, None, None)
    return stack


@pytest.mark.timeout(200)
def test_one_bootstrap_is_enough_and_then_not_needed() -> None:
    with short_directory() as directory, ExitStack() as stack:
        kernels = network(directory, 8, stack)
        print(f"healthy mesh of 8 after {wait_for_mesh(kernels, 60):.1f} s")
        delivered(kernels[-1], kernels[:-1], b"first")

        bootstrap, rest = kernels[0], kernels[1:]
        bootstrap.stop(9)
        for kernel in rest[:4]:
            kernel.stop()
        for kernel in rest[:4]:  # automatic ports: they come back elsewhere
            kernel.launch()
        for kernel in rest[:4]:
            kernel.wait_ready()
        print(f"healthy again after {wait_for_mesh(rest, 60):.1f} s")
        delivered(rest[0], rest[1:], b"second")

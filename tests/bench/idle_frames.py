"""How long an honest peer waits for a kernel beside peers whose frames carry nothing.

    python -m tests.bench.idle_frames [--seconds 8]       prints a JSON line for each kind of hostile peer

The honest peer is another kernel, which queries the first one's store; a third process keeps up hostile
connections, each of which begins again as soon as it is cut off.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any, Final

import trio

from kernel_proc.p2p.mplex import MESSAGE_INITIATOR
from kernel_proc.p2p.mplex import PROTOCOL as MPLEX
from kernel_proc.p2p.varint import encode as varint
from kernel_proc.p2p.yamux import DATA, SYN, WINDOW_UPDATE, header
from kernel_proc.p2p.yamux import PROTOCOL as YAMUX
from tests.bench.harness import ROOT, emit, machine, percentile
from tests.bench.kernels import metric, until
from tests.support.kernel_process import Dealer, KernelProcess, short_directory
from tests.unit.kernel_proc.p2p.support import raw_peer

FLOODS: Final = {
    "empty mplex frames": (MPLEX, (varint(MESSAGE_INITIATOR) + varint(0)) * 2000),
    "window updates of a byte": (YAMUX, header(WINDOW_UPDATE, 0, 1, 1) * 2000),
    "empty yamux data": (YAMUX, header(DATA, 0, 1, 0) * 2000),
}
COUNTS: Final = (10, 64)
PERIOD: Final = 0.02
CUT: Final = "p2p_idle_frames_refused"
AGAIN: Final = 0.05
"""Seconds after which a connection that was refused is tried again."""


async def _flood(address: str, name: str, count: int) -> None:
    """Until killed."""
    muxer, frames = FLOODS[name]

    async def one() -> None:
        while True:
            with suppress(Exception):  # cut off, or refused while the host is full
                async with raw_peer(address, muxer=muxer) as peer:
                    if muxer == YAMUX:
                        await peer.send(header(WINDOW_UPDATE, SYN, 1, 0))
                    while True:
                        await peer.send(frames)
            await trio.sleep(AGAIN)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)


def _query(dealer: Dealer, peer_id: str, seconds: float) -> list[float]:
    """Round trips of store queries in ms."""
    trips: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.monotonic()
        dealer.ok("store.query", {"peer": peer_id, "limit": 1})
        trips.append((time.monotonic() - begin) * 1000)
        time.sleep(PERIOD)
    return trips


def beside(name: str, count: int, seconds: float) -> dict[str, Any]:
    """One case; `count` 0: nothing hostile."""
    with ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        options = ["--ip-colocation-limit=0", "--cluster-id=42", "--shard=0"]
        kernel = stack.enter_context(KernelProcess(directory / "far", *options, "--store=true"))
        dealer = kernel.dealer()
        info = dealer.ok("node.info", {"ids": ["MyMultiaddresses", "MyPeerId"]})["info"]
        address, peer_id = info["MyMultiaddresses"][0], info["MyPeerId"]
        near = stack.enter_context(KernelProcess(directory / "near", *options, f"--staticnode={address}"))
        honest = near.dealer()
        until(lambda: honest.ok("peers.list")["peers"], "the honest peer is connected")
        honest.ok("store.query", {"peer": peer_id, "limit": 1})
        if count:
            command = [sys.executable, "-m", "tests.bench.idle_frames", "--flood", address, name, str(count)]
            flood = subprocess.Popen(command, cwd=ROOT)
            stack.callback(flood.wait)
            stack.callback(flood.kill)
            until(lambda: metric(dealer, CUT), "the first one is cut off")
        trips = _query(honest, peer_id, seconds)
        cut = metric(dealer, CUT)
    return {
        "case": f"{count} connections of {name}" if count else "alone",
        "queries": len(trips),
        "p50_ms": round(percentile(trips, 0.5), 2),
        "p99_ms": round(percentile(trips, 0.99), 2),
        "cut_off": cut,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.idle_frames")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each case (8)")
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.flood:
        trio.run(_flood, given.flood[0], given.flood[1], int(given.flood[2]))
    emit(machine())
    emit(beside("", 0, given.seconds))
    for name in FLOODS:
        for count in COUNTS:
            emit(beside(name, count, given.seconds))


if __name__ == "__main__":
    main()

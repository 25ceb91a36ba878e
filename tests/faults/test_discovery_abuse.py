"""Hostile sources of peers against a running kernel: it stays small, and good peers come in beside them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
import trio

from kernel_proc.discovery.enr import Enr
from tests.support.aio import trio_test
from tests.support.dns_server import SignedList, dns_server
from tests.support.kernel_process import Dealer, KernelProcess, eventually, kernels, short_directory
from tests.support.strangers import HOST, Bogus, bogus_record, strangers

pytestmark = pytest.mark.integration

T = TypeVar("T")
CLUSTER = 48
COMMON = (f"--cluster-id={CLUSTER}", "--shard=0", "--ip-colocation-limit=0")
DISCV5 = ("--discv5-discovery", "--discv5-udp-port=0")
CAPACITY = 400
BOGUS = 10_000
GROWTH = 64 * 1024
"""KiB that the kernel may grow by, whatever peers tell it."""
TABLE = 256 * 24
"""Nodes that a table can have, and replacements."""


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def resident(kernel: KernelProcess) -> int:
    """KiB."""
    assert kernel.process is not None
    status = Path(f"/proc/{kernel.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def metric(dealer: Dealer, name: str) -> float:
    found = dealer.ok("node.metrics")["metrics"]
    return sum(float(value) for key, _, value in found if key.endswith(name))


def connected(dealer: Dealer) -> dict[str, dict[str, Any]]:
    return {peer["peer_id"]: peer for peer in dealer.ok("peers.list")["peers"]}


async def aside(work: Callable[..., T], *arguments: Any) -> T:
    """Blocking work beside the strangers of this process."""
    return await trio.to_thread.run_sync(partial(work, *arguments))


@asynccontextmanager
async def running(directory: Path, *options: str) -> AsyncIterator[KernelProcess]:
    kernel = KernelProcess(directory / "kernel", *COMMON, *options)
    try:
        yield await aside(kernel.start)
    finally:
        with trio.CancelScope(shield=True):
            await aside(kernel.__exit__, None, None, None)


@asynccontextmanager
async def tarpit() -> AsyncIterator[int]:
    """A TCP port that accepts every connection and never answers."""
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)

    async def hold(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, hold, [listener]))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def until(check: Callable[[], bool], seconds: float) -> float:
    """Ask in a thread until it holds; the seconds that took. AssertionError after `seconds`."""
    began = time.monotonic()
    await aside(eventually, check, seconds)
    return time.monotonic() - began


class Watch:
    """What the kernel is like while it is lied to."""

    def __init__(self, kernel: KernelProcess) -> None:
        self._kernel = kernel
        self.dealer = kernel.dealer()
        self.before = self.most = resident(kernel)

    def look(self) -> None:
        """It answers; note its size."""
        self.dealer.ok("node.health")
        self.most = max(self.most, resident(self._kernel))


@pytest.mark.timeout(240)
@trio_test(deadline=220)
async def test_ten_thousand_bogus_peers_neither_grow_it_nor_starve_good_ones(directory: Path) -> None:
    options = (*DISCV5, f"--peer-store-capacity={CAPACITY}")
    async with strangers(8, CLUSTER) as everybody, tarpit() as port:
        good, bad = everybody[:3], everybody[3:]
        # Some refuse and some never answer, which takes longer.
        bogus = Bogus(CLUSTER, [port, port, 1])
        async with running(directory, *options, f"--entry-node={good[0].record.text}") as kernel:
            watch = await aside(Watch, kernel)
            dealer = watch.dealer
            await until(lambda: good[0].peer_id in connected(dealer), 20)
            for one in bad:
                one.lie(bogus)
                one.exchanged = lambda: [bogus.one().raw for _ in range(60)]
            enrs = [one.record.text for one in bad]
            await aside(dealer.ok, "discovery.bootnodes", {"enrs": enrs, "add": True})
            await until(lambda: {one.peer_id for one in bad} <= connected(dealer).keys(), 30)

            for round_ in range(BOGUS // 60 + 1):
                peer = bad[round_ % len(bad)].address
                await aside(dealer.ok, "peer_exchange.request", {"count": 60, "peer": peer})
                await aside(watch.look)
            exchanged = bogus.given
            assert exchanged >= BOGUS
            assert metric(dealer, "px_peers_received_total") >= BOGUS

            # Two more good ones: one for discv5, one that only peer exchange names. They never dial.
            good[1].discv5.add_record(good[0].record)
            good[0].exchanged = lambda: [good[2].record.raw]
            wanted = {one.peer_id for one in good}
            took = await until(lambda: wanted <= connected(dealer).keys(), 90)
            await until(lambda: bogus.given - exchanged > 500, 60)
            await aside(watch.look)
            status = await aside(dealer.ok, "discovery.status")
            assert status["known"] <= CAPACITY
            nodes = status["discv5"]["nodes"]
            assert nodes <= TABLE
            found = await aside(connected, dealer)
            assert {found[peer]["direction"] for peer in wanted} == {"outbound"}
            assert found[good[0].peer_id]["connected_ms"] > 1000 * took, "and who was there stays"
            grown = watch.most - watch.before
            print(f"{exchanged} records by peer exchange, {bogus.given - exchanged} by discv5 since:")
            print(f"{grown >> 10} MiB more than {watch.before >> 10}")
            print(f"two good peers found after {took:.1f} s; {status['known']} known, {nodes} in the table")
            assert grown < GROWTH
            # What it remembers of all this does not slow down the next start either.
            assert await aside(kernel.stop) == 0
            assert (kernel.directory / "peers.json").stat().st_size < 1500 * CAPACITY
        async with running(directory, *options) as again:
            dealer = await aside(again.dealer)
            took = await until(lambda: wanted <= connected(dealer).keys(), 30)
            print(f"all three good ones again {took:.1f} s after a restart without bootstrap was ready")


def oversized(domain: str, count: int) -> SignedList:
    """More entries than anybody needs: the kernel reads some hundreds."""
    nodes, random = SignedList(domain, b"\x01" * 32), Random(5)
    records = [bogus_record(random, CLUSTER, 1, 1).text for _ in range(count)]
    nodes.root(nodes.branch(records, width=10))
    return nodes


def bottomless(domain: str, depth: int) -> SignedList:
    """A branch below a branch below a branch."""
    nodes = SignedList(domain, b"\x02" * 32)
    name = nodes.branch([])
    for _ in range(depth):
        name = nodes.entry(f"enrtree-branch:{name}")
    nodes.root(name)
    return nodes


def test_hostile_lists_in_the_dns_cost_little_and_keep_no_good_one_away(directory: Path) -> None:
    good = SignedList("good.example.org")
    stolen = SignedList("forged.example.org", b"\x03" * 32)
    other_key = SignedList("forged.example.org", b"\x04" * 32)
    swapped = SignedList("swapped.example.org", b"\x05" * 32)
    one, two = SignedList("one.example.org", b"\x06" * 32), SignedList("two.example.org", b"\x08" * 32)
    one.root(one.branch([]), one.branch([two.url, one.url]))
    two.root(two.branch([]), two.branch([one.url, two.url]))
    lure = bogus_record(Random(9), CLUSTER, 1, 1)
    other_key.root(other_key.branch([lure.text]))
    swapped.root(swapped.branch([lure.text]))
    late = SignedList("late.example.org", b"\x0a" * 32)
    big, deep = oversized("big.example.org", 3000), bottomless("deep.example.org", 40)
    with kernels(directory, COMMON, COMMON) as friends:
        texts = [kernel.info("MyENR")["MyENR"] for kernel in friends]
        good.root(good.branch(texts), seq=7)
        hostile = (stolen, swapped, one, two, big, deep)
        with dns_server(good, other_key, swapped, one, two, big, deep) as server:
            # An entry that is not what its name says, in place of the one that is.
            leaf = next(name for name, text in swapped.zone.items() if text == lure.text)
            server.zone[leaf.lower()] = bogus_record(Random(10), CLUSTER, 1, 1).text
            urls = [f"--dns-discovery-url={each.url}" for each in (good, *hostile, late)]
            options = (*COMMON, f"--dns-addrs-name-server={server.address}", *urls)
            with KernelProcess(directory / "victim", *options) as victim:
                dealer, before = victim.dealer(), resident(victim)
                wanted = {Enr.from_text(text).peer_id for text in texts}
                eventually(lambda: wanted <= connected(dealer).keys(), 20)

                def lists() -> dict[str, dict[str, Any]]:
                    found = dealer.ok("discovery.status")["lists"]
                    return {str(each["url"]).rpartition("@")[2]: each for each in found}

                eventually(lambda: all(each["read_ms"] or each["error"] for each in lists().values()), 60)
                found = lists()
                assert (found["good.example.org"]["records"], found["good.example.org"]["error"]) == (2, "")
                assert "not signed" in found["forged.example.org"]["error"]
                assert found["swapped.example.org"]["records"] == 0
                assert found["swapped.example.org"]["error"]
                assert (found["one.example.org"]["error"], found["two.example.org"]["error"]) == ("", "")
                assert "500 records" in found["big.example.org"]["error"]
                assert "deeper than" in found["deep.example.org"]["error"]
                asked = [name.rpartition(".example.org")[0].rpartition(".")[2] for name in server.asked]
                assert asked.count("one") + asked.count("two") < 20
                assert asked.count("big") < 1000
                assert asked.count("deep") < 60

                # Yesterday's root of the good list, signed as ever: reached again by a link of another one.
                good.root(good.branch([lure.text]), seq=3)
                server.publish(good)
                late.root(late.branch([]), late.branch([good.url]))
                server.publish(late)
                eventually(lambda: "older than the known one" in lists()["late.example.org"]["error"], 40)
                assert lists()["good.example.org"]["seq"] == 7

                known = {peer["peer_id"] for peer in dealer.ok("peers.known", {"limit": 500})["peers"]}
                assert wanted <= known
                assert lure.peer_id not in known
                assert wanted <= connected(dealer).keys()
                print(f"{len(server.asked)} questions, {(resident(victim) - before) / 1024:.1f} MiB more")
                assert resident(victim) - before < GROWTH

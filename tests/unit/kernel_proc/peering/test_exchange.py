"""Peer exchange requests: when, and to which peers."""

from __future__ import annotations

from collections.abc import Collection

import trio

from kernel_proc.peering.exchange import PeerAsking
from kernel_proc.protocols.peer_exchange import Exchanged, PeerExchangeClient
from kernel_proc.protocols.requests import AllFailed, Attempt, NoAnswer
from tests.support.mock_clock import mock_clock_test


class Exchange(PeerExchangeClient):
    """Answers by the first of `peers` that is not excluded."""

    def __init__(self, *peers: str) -> None:
        self.peers = list(peers)
        self.silent = False
        self.arrived = 0
        self.brings = 0
        self.asked: list[tuple[float, str]] = []
        self.short = True

    async def request(
        self, count: int, *, peer: str | None = None, exclude: Collection[str] = (), deadline: float
    ) -> Exchanged:
        await trio.lowlevel.checkpoint()
        chosen = next((one for one in self.peers if one not in exclude), None)
        if chosen is None:
            raise AllFailed("px", [])
        self.asked.append((trio.current_time(), chosen))
        if self.silent:
            raise AllFailed("px", [Attempt(chosen, NoAnswer())])
        self.arrived += self.brings
        return Exchanged(chosen, ())

    def asking(self) -> PeerAsking:
        return PeerAsking(self, lambda: self.short, lambda: self.arrived)


async def run(exchange: Exchange, seconds: float) -> list[tuple[float, str]]:
    """The requests made: when (seconds from the start) and to which peer."""
    began = trio.current_time()
    with trio.move_on_after(seconds):
        await exchange.asking().run()
    return [(round(at - began, 1), peer) for at, peer in exchange.asked]


@mock_clock_test
async def test_another_one_each_time() -> None:
    exchange = Exchange("a", "b", "c")
    exchange.brings = 5
    asked = await run(exchange, 32)
    assert [peer for _, peer in asked] == ["a", "b", "c", "a", "b", "c", "a"]
    assert [at for at, _ in asked] == [1, 6, 11, 16, 21, 26, 31]


@mock_clock_test
async def test_in_vain_less_and_less() -> None:
    asked = await run(Exchange("a"), 3600)
    assert [at for at, _ in asked[:4]] == [1, 6, 16, 36]
    assert 15 <= len(asked) <= 25


@mock_clock_test
async def test_the_first_one_that_can_be_asked_is_asked_soon() -> None:
    exchange = Exchange()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.asking().run)
        await trio.sleep(60)
        exchange.peers = ["a"]
        began = trio.current_time()
        await trio.sleep(1.1)
        assert exchange.asked[0][0] - began <= 1
        nursery.cancel_scope.cancel()


@mock_clock_test
async def test_unresponsive_peers_are_not_hammered_and_a_node_with_enough_peers_does_not_ask() -> None:
    exchange = Exchange("a")
    exchange.silent = True
    assert len(await run(exchange, 3600)) <= 25
    exchange.asked.clear()
    exchange.short = False
    assert await run(exchange, 600) == []

"""Peer selection: the order of candidates, and trying the next when one fails."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
import trio
import trio.testing

from kernel_proc.p2p.api import PeerIdText
from kernel_proc.protocols.peer_select import MAX_PENALTY, Candidate, PeerRanking, ServicePeerChoice
from kernel_proc.protocols.requests import AllFailed, NoAnswer, RequestRefused
from tests.support.memory_hosts import MemoryHost, MemoryNetwork, memory_network
from tests.support.mock_clock import mock_clock_test


class House:
    def __init__(self) -> None:
        self.now = 1000.0
        self.ranking = PeerRanking(lambda: self.now, Random(1))

    def order(self, *candidates: Candidate | str, shard: int | None = None) -> list[str]:
        found = [Candidate(c) if isinstance(c, str) else c for c in candidates]
        return self.ranking.order(found, "store", shard)


def test_the_unknown_come_in_random_order() -> None:
    house = House()
    first = {house.order("a", "b", "c")[0] for _ in range(100)}
    assert first == {"a", "b", "c"}


def test_peers_that_answered_come_first_by_latency() -> None:
    house = House()
    house.ranking.succeeded("slow", "store", 2.0)
    house.ranking.succeeded("quick", "store", 0.1)
    house.ranking.succeeded("other", "lightpush", 0.01)
    assert house.order("other", "slow", "quick") == ["quick", "slow", "other"]
    house.now += 601
    assert len({tuple(house.order("slow", "quick")) for _ in range(50)}) == 2  # long ago


def test_a_failure_puts_a_peer_behind_all_others_for_a_while_that_doubles() -> None:
    house = House()
    house.ranking.succeeded("a", "store", 0.1)
    house.ranking.failed("a", "store")
    assert house.order("a", "b") == ["b", "a"]
    house.now += 15
    assert house.order("a", "b") == ["a", "b"]
    house.ranking.failed("a", "store")
    house.now += 29
    assert house.order("a", "b") == ["b", "a"]
    house.now += 1
    assert house.order("a", "b") == ["a", "b"]
    for _ in range(100):
        house.ranking.failed("a", "store")
    house.now += MAX_PENALTY
    assert house.order("a", "b") == ["a", "b"]
    house.ranking.failed("b", "store")
    house.ranking.succeeded("b", "store", 0.01)
    assert house.order("a", "b") == ["b", "a"]


def test_if_all_failed_the_earliest_failure_is_asked_first() -> None:
    house = House()
    house.ranking.failed("a", "store")
    house.now += 5
    house.ranking.failed("b", "store")
    assert house.order("b", "a") == ["a", "b"]


def test_the_operators_peer_comes_first_unless_it_fails() -> None:
    house = House()
    house.ranking.succeeded("quick", "store", 0.01)
    mine = Candidate("mine", shards=(5,), configured=True)
    assert house.order("quick", mine, shard=1) == ["mine", "quick"]
    house.ranking.failed("mine", "store")
    assert house.order("quick", mine, shard=1) == ["quick", "mine"]


def test_peers_on_other_shards_are_not_asked() -> None:
    house = House()
    known, other, silent = Candidate("known", {1, 2}), Candidate("other", {3}), Candidate("silent", ())
    unknown = Candidate("unknown")
    order = house.order(other, silent, known, unknown, shard=2)
    assert order[0] == "known"
    assert sorted(order[1:]) == ["silent", "unknown"]
    assert len(house.order(other, silent, known, unknown)) == 4


def test_remembered_outcomes_are_bounded() -> None:
    house = House()
    house.ranking.failed("first", "store")
    for number in range(5000):
        house.ranking.failed(str(number), "store")
    assert len(house.ranking._records) == 2048
    assert house.order("4999", "first") == ["first", "4999"]


# --- on a host ---

PROTOCOL = "/p"


def service_peers(host: MemoryHost, **configured: str) -> ServicePeerChoice:
    ranking = PeerRanking(trio.current_time, Random(1))
    return ServicePeerChoice(host, ranking, lambda _peer: None, {k: [v] for k, v in configured.items()})


async def unused(_stream: object) -> None:
    raise NotImplementedError


def three(network: MemoryNetwork) -> MemoryHost:
    me = network.host("me")
    for peer_id in ("a", "b", "c"):
        network.host(peer_id).set_stream_handler(PROTOCOL, unused)
    network.host("bystander")
    return me


class OneASecond:
    """An attempt at peers that serve one request a second, as go-waku does."""

    def __init__(self) -> None:
        self.served: dict[str, list[float]] = {}
        self.refused = 0
        self._last: dict[str, float] = {}

    async def __call__(self, peer_id: PeerIdText, seconds: float) -> str:
        now = trio.current_time()
        if now - self._last.get(peer_id, -9.0) < 1:
            self.refused += 1
            raise RequestRefused(429, "too many requests")
        self._last[peer_id] = now
        self.served.setdefault(peer_id, []).append(now)
        return peer_id


@mock_clock_test
async def test_a_peer_that_is_asked_too_often_is_asked_again_in_its_pace() -> None:
    async with memory_network() as network:
        me = network.host("me")
        network.host("a").set_stream_handler(PROTOCOL, unused)
        peers, service = service_peers(me), OneASecond()
        begun = trio.current_time()
        for _ in range(8):
            deadline = trio.current_time() + 10
            assert await peers.ask("s", [PROTOCOL], service, deadline=deadline) == ("a", "a")
        assert service.refused <= 6
        assert trio.current_time() - begun < 13


@mock_clock_test
async def test_others_are_asked_before_a_peer_that_is_asked_too_often() -> None:
    async with memory_network() as network:
        peers, service = service_peers(three(network)), OneASecond()
        begun = trio.current_time()
        for _ in range(3):
            await peers.ask("s", [PROTOCOL], service, deadline=trio.current_time() + 10)
        assert trio.current_time() == begun
        assert sorted(service.served) == ["a", "b", "c"]


@mock_clock_test
async def test_a_peer_that_always_refuses_eventually_fails_with_its_own_status() -> None:
    async with memory_network() as network:
        me = network.host("me")
        network.host("a").set_stream_handler(PROTOCOL, unused)
        peers = service_peers(me)
        tries: list[float] = []

        async def attempt(peer_id: PeerIdText, seconds: float) -> str:
            tries.append(trio.current_time())
            raise RequestRefused(429, "too many requests")

        for seconds in (60, 3, 0.1):
            tries.clear()
            deadline = trio.current_time() + seconds
            with pytest.raises(AllFailed, match=r"too many requests|rate limited") as failed:
                await peers.ask("s", [PROTOCOL], attempt, deadline=deadline)
            assert [one.error.outcome for one in failed.value.attempts] == [{"status": 429}]
            assert len(tries) <= 6
            assert trio.current_time() <= deadline
            gaps = [later - earlier for earlier, later in pairwise(tries)]
            assert gaps == sorted(gaps)


@mock_clock_test
async def test_a_request_is_rate_limited_if_its_turn_comes_too_late_to_be_answered() -> None:
    async with memory_network() as network:
        network.host("a").set_stream_handler(PROTOCOL, unused)
        peers = service_peers(network.host("me"))
        times: list[float] = []

        async def attempt(peer_id: PeerIdText, seconds: float) -> str:
            times.append(seconds)
            if len(times) == 1:
                raise RequestRefused(429, "too many requests")
            await trio.sleep(min(seconds, 0.5))
            if seconds < 0.5:
                raise NoAnswer("silence")
            return "answer"

        async def ask(seconds: float) -> tuple[str, str]:
            return await peers.ask("s", [PROTOCOL], attempt, deadline=trio.current_time() + seconds)

        for _ in range(2):  # the one that the peer refused, and the next, which was not sent yet
            with pytest.raises(AllFailed) as failed:
                await ask(0.4)
            assert [one.error.outcome for one in failed.value.attempts] == [{"status": 429}]
        assert len(times) == 1
        assert await ask(2) == ("a", "answer")


@mock_clock_test
async def test_a_refusal_that_comes_with_the_deadline_is_reported() -> None:
    async with memory_network() as network:
        network.host("a").set_stream_handler(PROTOCOL, unused)
        peers = service_peers(network.host("me"))

        async def attempt(peer_id: PeerIdText, seconds: float) -> str:
            await trio.sleep(seconds)
            raise RequestRefused(429, "too many requests")

        with pytest.raises(AllFailed) as failed:
            await peers.ask("s", [PROTOCOL], attempt, deadline=trio.current_time() + 5)
        assert [one.error.outcome for one in failed.value.attempts] == [{"status": 429}]


@mock_clock_test
async def test_a_request_without_time_to_ask_says_so() -> None:
    async with memory_network() as network:
        peers = service_peers(three(network))
        for named in (None, "a"):
            with pytest.raises(AllFailed, match="no time left to ask a peer for s"):
                await peers.ask("s", [PROTOCOL], OneASecond(), named=named, deadline=trio.current_time())


@mock_clock_test
async def test_pages_of_one_peer_come_in_its_pace() -> None:
    async with memory_network() as network:
        peers, service = service_peers(network.host("me")), OneASecond()

        async def page() -> str:
            return await service("a", 1)

        for _ in range(4):
            await peers.paced("a", "s", page, deadline=trio.current_time() + 10)
        assert len(service.served["a"]) == 4
        assert service.refused <= 4
        service._last["a"] = trio.current_time() + 100
        with pytest.raises(RequestRefused):
            await peers.paced("a", "s", page, deadline=trio.current_time() + 5)


@mock_clock_test
async def test_one_after_another_until_one_answers() -> None:
    async with memory_network() as network:
        peers = service_peers(three(network))
        asked: list[str] = []

        async def attempt(peer_id: PeerIdText, seconds: float) -> str:
            asked.append(peer_id)
            if len(asked) < 3:
                raise NoAnswer("silence")
            return "answer"

        found = await peers.ask("s", [PROTOCOL], attempt, deadline=trio.current_time() + 10)
        assert found == (asked[2], "answer")
        assert sorted(asked) == ["a", "b", "c"]
        assert peers.choose("s", [PROTOCOL])[0] == asked[2]


@mock_clock_test
async def test_the_time_left_is_shared_with_those_still_to_be_asked() -> None:
    async with memory_network() as network:
        peers = service_peers(three(network))
        given: list[float] = []

        async def attempt(peer_id: PeerIdText, seconds: float) -> None:
            given.append(seconds)
            await trio.sleep(seconds)
            raise NoAnswer("silence")

        begun = trio.current_time()
        with pytest.raises(AllFailed) as failed:
            await peers.ask("s", [PROTOCOL], attempt, deadline=begun + 8, patience=3)
        assert given == [3, 2.5, 2.5]
        assert trio.current_time() == begun + 8
        assert [attempt.peer for attempt in failed.value.attempts] == peers.choose("s", [PROTOCOL])


@mock_clock_test
async def test_many_requests_to_one_peer_take_turns() -> None:
    async with memory_network() as network:
        peers = service_peers(three(network))
        under_way = most = 0

        async def attempt(peer_id: PeerIdText, seconds: float) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await trio.sleep(1)
            under_way -= 1

        begun = trio.current_time()
        failed: list[AllFailed] = []

        async def one(seconds: float) -> None:
            try:
                await peers.ask("s", [PROTOCOL], attempt, named="a", deadline=begun + seconds)
            except AllFailed as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one, 9)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(one, 0.5)
        assert most == 8
        assert trio.current_time() == begun + 3
        assert [str(error) for error in failed] == ["a: 8 requests to this peer are in progress"]
        assert peers._places == {}
        assert peers.choose("s", [PROTOCOL])[0] == "a"  # which does not count against it


@mock_clock_test
async def test_a_final_refusal_is_not_tried_elsewhere() -> None:
    async with memory_network() as network:
        peers = service_peers(three(network))

        async def attempt(peer_id: PeerIdText, seconds: float) -> None:
            raise RequestRefused(400, "nonsense", final=True)

        with pytest.raises(AllFailed, match="nonsense") as failed:
            await peers.ask("s", [PROTOCOL], attempt, deadline=trio.current_time() + 10)
        assert [one.error.outcome for one in failed.value.attempts] == [{"status": 400}]


@mock_clock_test
async def test_named_peers() -> None:
    async with memory_network() as network:
        me = three(network)
        peers = service_peers(me)

        async def attempt(peer_id: PeerIdText, seconds: float) -> str:
            return peer_id.upper()

        async def ask(named: str) -> tuple[str, str]:
            return await peers.ask("s", [PROTOCOL], attempt, named=named, deadline=trio.current_time() + 10)

        assert await ask("b") == ("b", "B")
        network.dialable["/ip4/127.0.0.1/tcp/7/p2p/c"] = "c"
        assert await ask("/ip4/127.0.0.1/tcp/7/p2p/c") == ("c", "C")
        assert me.dialled == []  # it is connected
        me.away.add("c")
        assert await ask("/ip4/127.0.0.1/tcp/7/p2p/c") == ("c", "C")
        assert len(me.dialled) == 1
        for gone in ("stranger", "/ip4/127.0.0.1/tcp/9/p2p/x"):
            with pytest.raises(AllFailed, match=r"not connected|not accessible"):
                await ask(gone)


@mock_clock_test
async def test_a_peer_named_by_its_address_is_judged_as_itself() -> None:
    async with memory_network() as network:
        peers = service_peers(three(network))
        network.dialable["/ip4/127.0.0.1/tcp/7/p2p/c"] = "c"

        async def attempt(peer_id: PeerIdText, seconds: float) -> None:
            raise NoAnswer("silence")

        named = "/ip4/127.0.0.1/tcp/7/p2p/c"
        with pytest.raises(AllFailed, match="silence"):
            await peers.ask("s", [PROTOCOL], attempt, named=named, deadline=trio.current_time() + 10)
        assert peers.choose("s", [PROTOCOL])[-1] == "c"


@mock_clock_test
async def test_no_candidates() -> None:
    async with memory_network() as network:
        peers = service_peers(network.host("me"), s="/ip4/127.0.0.1/tcp/7/p2p/c")

        async def attempt(peer_id: PeerIdText, seconds: float) -> None:
            raise NotImplementedError

        with pytest.raises(AllFailed, match="no connected peer serves s on shard 4") as failed:
            await peers.ask("s", [PROTOCOL], attempt, shard=4, deadline=trio.current_time() + 10)
        assert failed.value.attempts == ()

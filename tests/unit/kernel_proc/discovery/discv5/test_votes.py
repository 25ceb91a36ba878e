"""Our own endpoint, by the majority of independent observers."""

from __future__ import annotations

from dataclasses import replace

from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.votes import Votes
from tests.unit.kernel_proc.discovery.discv5.simulation import public_ip

PARAMS = Params()
HERE, THERE = UdpEndpoint("99.0.0.1", 9000), UdpEndpoint("98.0.0.1", 9000)
SIX = UdpEndpoint("2600::1", 9000)


def voter(number: int, host: str | None = None) -> NodeContact:
    return NodeContact(number.to_bytes(32, "big"), UdpEndpoint(host or public_ip(number), 9000))


def test_enough_voters_and_more_than_half() -> None:
    votes = Votes(PARAMS)
    for number in range(2):
        votes.add(voter(number), HERE, 0.0)
    assert votes.winner(4, 0.0) is None
    votes.add(voter(2), HERE, 0.0)
    assert votes.winner(4, 0.0) == HERE
    for number in range(3, 6):
        votes.add(voter(number), THERE, 0.0)
    assert votes.winner(4, 0.0) is None
    votes.add(voter(6), THERE, 0.0)
    assert votes.winner(4, 0.0) == THERE


def test_one_network_has_one_voice() -> None:
    votes = Votes(PARAMS)
    for number in range(100):
        votes.add(voter(number, f"66.6.6.{number}"), THERE, 0.0)
    assert votes.winner(4, 0.0) is None
    for number in range(3):
        votes.add(voter(number), HERE, 0.0)
    assert votes.winner(4, 0.0) == HERE


def test_votes_age_and_can_change() -> None:
    votes = Votes(PARAMS)
    for number in range(3):
        votes.add(voter(number), HERE, 0.0)
    assert votes.winner(4, PARAMS.vote_window) == HERE
    assert votes.winner(4, PARAMS.vote_window + 1) is None
    for number in range(3):
        votes.add(voter(number), THERE, 10.0)
    assert votes.winner(4, 10.0) == THERE


def test_ip_versions_are_apart() -> None:
    votes = Votes(PARAMS)
    for number in range(3):
        votes.add(voter(number), HERE, 0.0)
        votes.add(voter(number, f"2600:{number}::1"), SIX, 0.0)
    assert (votes.winner(4, 0.0), votes.winner(6, 0.0)) == (HERE, SIX)


def test_this_machine_can_be_exempt() -> None:
    for exempt, expected in ((False, None), (True, HERE)):
        votes = Votes(replace(PARAMS, exempt_loopback=exempt))
        for number in range(3):
            votes.add(voter(number, "127.0.0.1"), HERE, 0.0)
        assert votes.winner(4, 0.0) == expected

"""Peers suggested by others: which are accepted, which are not, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest

from kernel_proc.p2p import peer_ids
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.peer_record import MAX_ENVELOPE, seal
from kernel_proc.peers.known import PeerOrigin
from kernel_proc.peers.offers import IN_ALL, PER_PEER, PERIOD, OfferOutcome, Offers, evaluate
from kernel_proc.peers.store import PeerStore
from kernel_proc.protocols.ratelimit import Allowance
from kernel_proc.relay.rpc import PeerInfo

KEYS = [NodeKey(bytes(31) + bytes([n])) for n in range(1, 20)]
ADDRESS = "/ip4/192.0.2.1/tcp/60000"


def named(key: NodeKey, *listen: str, record_of: NodeKey | None = None) -> PeerInfo:
    """A peer as an honest node names it."""
    return PeerInfo(peer_ids.to_bytes(key.peer_id), seal(record_of or key, listen or (ADDRESS,), 1).envelope)


FORGED = bytes([*named(KEYS[0]).signed_record[:-1], named(KEYS[0]).signed_record[-1] ^ 1])


class Desk:
    """Offers, and what came of them."""

    def __init__(self, *, known: Sequence[str] = (), useful: bool = True, **allowance: float) -> None:
        self.learned: dict[str, tuple[str, ...]] = {}
        self.tellers: set[str] = set()
        self.outcomes: Counter[str] = Counter()
        self.useful = useful
        self.offers = Offers(
            is_known=lambda peer_id: peer_id in known,
            learn=self._learn,
            count=lambda outcome: self.outcomes.update([outcome.value]),
            allowance=Allowance(**{"per_peer": PER_PEER, "in_all": IN_ALL, "period": PERIOD} | allowance),  # type: ignore[arg-type]
        )

    def _learn(self, peer_id: str, listen: Sequence[str], offering: str) -> bool:
        self.learned[peer_id] = tuple(listen)
        self.tellers.add(offering)
        return self.useful


def test_a_good_record_is_learned_with_its_addresses() -> None:
    desk = Desk()
    assert desk.offers.take("offering", [named(KEYS[0], ADDRESS, "/dns4/a.example/tcp/1/ws")], 0.0) == 1
    assert desk.learned == {KEYS[0].peer_id: (ADDRESS, "/dns4/a.example/tcp/1/ws")}
    assert desk.outcomes == {"taken": 1}
    assert desk.tellers == {"offering"}


@pytest.mark.parametrize(
    ("info", "outcome"),
    [
        (PeerInfo(peer_ids.to_bytes(KEYS[0].peer_id), b""), OfferOutcome.UNSIGNED),
        (PeerInfo(bytes(65), b"record"), OfferOutcome.MALFORMED),
        (PeerInfo(b"\x00", b"record"), OfferOutcome.MALFORMED),
        (PeerInfo(b"x", bytes(MAX_ENVELOPE + 1)), OfferOutcome.OVERSIZED),
        (named(KEYS[0], record_of=KEYS[1]), OfferOutcome.OTHER_PEER),
        (named(KEYS[0])._replace(signed_record=FORGED), OfferOutcome.FORGED),
        (named(KEYS[0])._replace(signed_record=FORGED[:-1]), OfferOutcome.MALFORMED),
        (named(KEYS[2]), OfferOutcome.KNOWN),
    ],
)
def test_each_refusal_has_its_reason_and_learns_nothing(info: PeerInfo, outcome: OfferOutcome) -> None:
    desk = Desk(known=[KEYS[2].peer_id])
    assert desk.offers.take("offering", [info], 0.0) == 0
    assert desk.learned == {}
    assert desk.outcomes == {outcome.value: 1}
    assert evaluate(info, lambda peer_id: peer_id == KEYS[2].peer_id, lambda: True) == (None, outcome)


def test_a_record_in_anothers_name_is_nobodys() -> None:
    """Replayed: a good record of one peer, offered as that of another."""
    desk = Desk()
    desk.offers.take("offering", [named(KEYS[0], record_of=KEYS[1])], 0.0)
    assert desk.outcomes == {"other_peer": 1}


def test_peers_useless_to_the_manager_are_counted_separately() -> None:
    desk = Desk(useful=False)
    assert desk.offers.take("offering", [named(KEYS[0])], 0.0) == 0
    assert desk.outcomes == {"useless": 1}


def test_only_so_many_records_of_one_peer_are_looked_at_in_a_period() -> None:
    desk = Desk(per_peer=2)
    offers = [named(key) for key in KEYS[:5]]
    assert desk.offers.take("one", offers, 0.0) == 2
    assert desk.offers.take("one", offers, PERIOD - 1) == 0
    assert desk.offers.take("two", offers, PERIOD - 1) == 2
    assert desk.offers.take("one", offers, PERIOD) == 2
    assert desk.outcomes == {"taken": 6, "too_many": 14}


def test_only_so_many_are_looked_at_in_all() -> None:
    desk = Desk(in_all=3)
    assert sum(desk.offers.take(f"peer {n}", [named(KEYS[0])], 0.0) for n in range(10)) == 3
    assert desk.outcomes == {"taken": 3, "too_many": 7}


def test_cheap_refusals_use_nothing_up() -> None:
    desk = Desk(known=[KEYS[0].peer_id], per_peer=1)
    cheap = [named(KEYS[0]), PeerInfo(b"x", b""), PeerInfo(bytes(65), b"y")] * 10
    assert desk.offers.take("one", cheap, 0.0) == 0
    assert desk.offers.take("one", [named(KEYS[1])], 0.0) == 1


def test_thousands_of_offers_leave_nothing_behind() -> None:
    """Many identities offer junk, and good records of made-up peers at one address: the allowance does not
    grow with them, and the store takes what one address may fill."""
    store = PeerStore(100, per_group=10, rng=Random(1))
    outcomes: Counter[str] = Counter()
    offers = Offers(
        is_known=lambda _peer: False,
        learn=lambda peer_id, listen, teller: store.learn(
            peer_id, listen, PeerOrigin.PRUNE, 1.0, source=teller
        ),
        count=lambda outcome: outcomes.update([outcome.value]),
    )
    good = [named(NodeKey(bytes(30) + n.to_bytes(2, "big"))) for n in range(1, 400)]
    junk = PeerInfo(peer_ids.to_bytes(KEYS[0].peer_id), b"\x0a\x04junk")
    for n in range(3000):
        offers.take(f"liar {n % 500}", [junk, good[n % len(good)]], n / 1000)
    assert len(store) == 10
    assert len(offers._allowance._used) <= IN_ALL
    assert outcomes["taken"] + outcomes["useless"] + outcomes["malformed"] == IN_ALL
    assert outcomes["too_many"] == 6000 - IN_ALL
    assert PER_PEER < IN_ALL

"""Handshakes and sessions between two nodes, on good and bad links, and against attackers."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_proc.discovery.discv5 import packets
from kernel_proc.discovery.discv5.channel import Channel
from kernel_proc.discovery.discv5.crypto import derive_keys, encrypt, sign_proof
from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint
from kernel_proc.discovery.discv5.packets import Handshake, Ordinary, Whoareyou
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.enr import Enr, sign_record
from tests.unit.kernel_proc.discovery.discv5.simulation import identity, record_of

PARAMS = Params()
Datagram = tuple[UdpEndpoint, UdpEndpoint, bytes]
"""From, to, bytes."""


class Party:
    """A channel with an address, that answers every message by `re:` and itself."""

    def __init__(self, number: int, host: str, params: Params = PARAMS, seed: int = 0) -> None:
        self.me = identity(number)
        self.endpoint = UdpEndpoint(host, 9000)
        self.record = record_of(self.me, host)
        self.known: dict[bytes, Enr] = {}
        self.heard: list[bytes] = []
        self.met: list[tuple[NodeContact, Enr]] = []
        self.channel = Channel(self.me, lambda: self.record, self, params, random.Random(number + seed))

    @property
    def contact(self) -> NodeContact:
        return NodeContact(self.me.node_id, self.endpoint)

    def known_record(self, node_id: bytes) -> Enr | None:
        return self.known.get(node_id)

    def message(self, contact: NodeContact, record: Enr, plaintext: bytes, now: float) -> None:
        self.met.append((contact, record))
        self.heard.append(plaintext)
        if not plaintext.startswith(b"re:"):
            self.channel.respond(contact, b"re:" + plaintext)

    def sent(self) -> list[Datagram]:
        out = [(self.endpoint, target, data) for target, data in self.channel.outbox]
        self.channel.outbox.clear()
        return out


def pump(*parties: Party, now: float = 0.0, limit: int = 200) -> list[Datagram]:
    """Deliver until all is quiet; everything that was sent."""
    by_endpoint = {party.endpoint: party for party in parties}
    carried: list[Datagram] = []
    while batch := [datagram for party in parties for datagram in party.sent()]:
        carried += batch
        assert len(carried) < limit, "they talk without end"
        for source, target, data in batch:
            if target in by_endpoint:
                by_endpoint[target].channel.receive(data, source, now)
    return carried


def kinds(carried: list[Datagram], *parties: Party) -> list[str]:
    ids = {party.endpoint: party.me.node_id for party in parties}
    return [type(packets.decode(data, ids[target])).__name__ for _, target, data in carried]


def pair() -> tuple[Party, Party]:
    return Party(1, "20.0.0.1"), Party(2, "30.0.0.1")


def meet(a: Party, b: Party) -> None:
    """Establish a session, initiated by a."""
    request = a.channel.request(b.contact, b.record, b"hello")
    pump(a, b)
    assert b"re:hello" in a.heard
    a.channel.finish(request, answered=True)


def test_the_first_request_takes_a_handshake_the_second_none() -> None:
    a, b = pair()
    first = a.channel.request(b.contact, b.record, b"one")
    assert kinds(pump(a, b), a, b) == ["Ordinary", "Whoareyou", "Handshake", "Ordinary"]
    assert (b.heard, a.heard) == ([b"one"], [b"re:one"])
    assert b.met == [(a.contact, a.record)]
    a.channel.finish(first, answered=True)
    a.channel.request(b.contact, b.record, b"two")
    assert kinds(pump(a, b), a, b) == ["Ordinary", "Ordinary"]
    b.channel.request(a.contact, a.record, b"back")
    assert kinds(pump(a, b), a, b) == ["Ordinary", "Ordinary"]
    assert a.heard[-1] == b"back"


def test_the_record_is_left_out_when_the_other_side_has_it() -> None:
    a, b = pair()
    b.known[a.me.node_id] = a.record
    a.channel.request(b.contact, b.record, b"one")
    handshake = packets.decode(pump(a, b)[2][2], b.me.node_id)
    assert isinstance(handshake, Handshake)
    assert handshake.record == b""
    assert b.heard == [b"one"]


def test_the_newer_record_is_sent() -> None:
    a, b = pair()
    b.known[a.me.node_id] = a.record
    a.record = record_of(a.me, "20.0.0.1", seq=2)
    a.channel.request(b.contact, b.record, b"one")
    pump(a, b)
    assert b.met == [(a.contact, a.record)]


def test_requests_wait_for_one_handshake() -> None:
    a, b = pair()
    for text in (b"one", b"two", b"three"):
        a.channel.request(b.contact, b.record, text)
    carried = kinds(pump(a, b), a, b)
    assert carried.count("Handshake") == 1
    assert sorted(b.heard) == [b"one", b"three", b"two"]
    assert sorted(a.heard) == [b"re:one", b"re:three", b"re:two"]


def test_a_restarted_node_gets_every_request() -> None:
    a, b = pair()
    meet(a, b)
    again = Party(2, "30.0.0.1", seed=5)  # the same node without its memory
    for text in (b"one", b"two", b"three"):
        a.channel.request(again.contact, again.record, text)
    pump(a, again)
    assert sorted(set(again.heard)) == [b"one", b"three", b"two"]
    assert {b"re:one", b"re:two", b"re:three"} <= set(a.heard)


def test_a_node_that_answers_only_the_first_challenge_gets_every_request() -> None:
    """nwaku ignores further packets while a handshake is in progress."""
    a, b = pair()
    meet(a, b)
    again = Party(2, "30.0.0.1", seed=5)
    a.channel.request(again.contact, again.record, b"one")
    a.channel.request(again.contact, again.record, b"two")
    first, _second = a.sent()
    again.channel.receive(first[2], a.endpoint, 0.0)
    pump(a, again)
    assert sorted(again.heard) == [b"one", b"two"]


def test_both_begin_at_once() -> None:
    a, b = pair()
    a.channel.request(b.contact, b.record, b"from a")
    b.channel.request(a.contact, a.record, b"from b")
    pump(a, b)
    assert b"from a" in b.heard
    assert b"from b" in a.heard
    assert b"re:from b" in b.heard
    assert b"re:from a" in a.heard
    before = len(a.heard)
    # Both hold the two pairs of keys that were agreed on, whichever they use: no new handshake is needed.
    for text in (b"1", b"2", b"3"):
        a.channel.request(b.contact, b.record, text)
        b.channel.request(a.contact, a.record, text)
        assert "Whoareyou" not in kinds(pump(a, b), a, b)
    assert len(a.heard) == before + 6


def test_when_the_opening_request_is_lost_the_next_one_opens() -> None:
    a, b = pair()
    lost = a.channel.request(b.contact, b.record, b"lost")
    a.channel.request(b.contact, b.record, b"kept")
    a.sent()  # the knock does not arrive
    a.channel.finish(lost, answered=False)
    pump(a, b)
    assert b.heard == [b"kept"]


def test_a_lost_handshake_does_not_leave_keys_that_only_one_side_has() -> None:
    a, b = pair()
    request = a.channel.request(b.contact, b.record, b"one")
    ((_, _, knock),) = a.sent()
    b.channel.receive(knock, a.endpoint, 0.0)
    ((_, _, challenge),) = b.sent()
    a.channel.receive(challenge, b.endpoint, 0.0)
    a.sent()  # the handshake is lost
    a.channel.finish(request, answered=False)
    assert a.channel.sessions == 0
    a.channel.request(b.contact, b.record, b"two")
    pump(a, b)
    assert b.heard == [b"two"]


def test_a_challenge_is_answered_once_and_only_from_where_the_request_went() -> None:
    a, b = pair()
    a.channel.request(b.contact, b.record, b"one")
    ((_, _, knock),) = a.sent()
    b.channel.receive(knock, a.endpoint, 0.0)
    ((_, _, challenge),) = b.sent()
    a.channel.receive(challenge, UdpEndpoint("66.6.6.6", 9000), 0.0)
    assert a.sent() == []
    a.channel.receive(challenge, b.endpoint, 0.0)
    assert len(a.sent()) == 1
    a.channel.receive(challenge, b.endpoint, 0.0)
    assert a.sent() == []
    assert a.channel.counters["whoareyou_unexpected"] == 2


def test_an_unexpected_challenge_is_ignored() -> None:
    a, b = pair()
    header = packets.whoareyou_header(a.me.node_id, bytes(16), bytes(12), bytes(16), 0)
    a.channel.receive(header.masked, b.endpoint, 0.0)
    assert a.sent() == []


def test_challenges_expire() -> None:
    a, b = pair()
    a.channel.request(b.contact, b.record, b"one")
    b.channel.receive(a.sent()[0][2], a.endpoint, 0.0)
    a.channel.receive(b.sent()[0][2], b.endpoint, 0.0)
    b.channel.receive(a.sent()[0][2], a.endpoint, PARAMS.challenge_timeout + 0.1)
    assert b.heard == []
    assert b.channel.counters["handshakes_refused"] == 1


def test_a_session_is_of_one_endpoint() -> None:
    a, b = pair()
    a.channel.request(b.contact, b.record, b"one")
    pump(a, b)
    a.channel.request(b.contact, b.record, b"two")
    ((_, _, datagram),) = a.sent()
    elsewhere = UdpEndpoint("20.0.0.1", 9001)
    b.channel.receive(datagram, elsewhere, 0.0)
    assert b.heard == [b"one"]
    ((_, target, challenge),) = b.sent()
    assert target == elsewhere
    assert isinstance(packets.decode(challenge, a.me.node_id), Whoareyou)


def test_a_replayed_packet_yields_nothing_new() -> None:
    a, b = pair()
    a.channel.request(b.contact, b.record, b"one")
    carried = pump(a, b)
    handshake = carried[2][2]
    b.channel.receive(handshake, a.endpoint, 0.0)
    b.channel.receive(handshake, UdpEndpoint("66.6.6.6", 1), 0.0)
    assert b.sent() == []
    assert b.heard == [b"one"]


def test_forged_packets_do_not_disturb_a_handshake() -> None:
    """An attacker that can forge the sender's address, but receives nothing, interferes at every step."""
    a, b = pair()
    noise = random.Random(3)

    def forged() -> bytes:
        header = packets.ordinary_header(b.me.node_id, a.me.node_id, noise.randbytes(16), noise.randbytes(12))
        return header.masked + noise.randbytes(40)

    a.channel.request(b.contact, b.record, b"one")
    b.channel.receive(a.sent()[0][2], a.endpoint, 0.0)
    for _ in range(2):
        b.channel.receive(forged(), a.endpoint, 0.0)
    pump(a, b)
    assert b.heard == [b"one"]
    for _ in range(5):
        b.channel.receive(forged(), a.endpoint, 0.0)
    a.channel.request(b.contact, b.record, b"two")
    pump(a, b)
    assert b.heard == [b"one", b"two"]


def impostor(b: Party, attacker: int, claimed: Party, sent: Enr | None) -> None:
    """Answer a challenge in the name of `claimed`, with a key of our own."""
    source = UdpEndpoint("66.6.6.6", 9000)
    me, ephemeral = identity(attacker), identity(attacker + 1)
    knock = packets.ordinary_header(b.me.node_id, claimed.me.node_id, bytes(16), bytes(12))
    b.channel.receive(knock.masked + bytes(40), source, 0.0)
    challenge = packets.decode(b.sent()[0][2], claimed.me.node_id)
    assert isinstance(challenge, Whoareyou)
    keys = derive_keys(
        ephemeral.ecdh(b.me.public_key), claimed.me.node_id, b.me.node_id, challenge.challenge_data
    )
    header = packets.handshake_header(
        b.me.node_id,
        claimed.me.node_id,
        bytes(16),
        bytes(12),
        sign_proof(me, challenge.challenge_data, ephemeral.public_key, b.me.node_id),
        ephemeral.public_key,
        b"" if sent is None else sent.raw,
    )
    sealed = encrypt(keys.initiator, bytes(12), b"I am a", header.associated)
    b.channel.receive(header.masked + sealed, source, 0.0)


def test_a_node_cannot_impersonate_another() -> None:
    a, b = pair()
    impostor(b, 77, a, a.record)  # a's record, not a's key
    impostor(b, 77, a, record_of(identity(77), "66.6.6.6"))  # an own record under a's node id
    impostor(b, 77, a, None)
    b.known[a.me.node_id] = a.record
    impostor(b, 77, a, None)
    assert b.heard == []
    assert b.met == []
    assert b.channel.sessions == 0
    assert b.channel.counters["handshakes_refused"] == 4


def test_an_older_record_does_not_replace_a_newer_one() -> None:
    a, b = pair()
    newer = record_of(a.me, "20.0.0.1", seq=9)
    b.known[a.me.node_id] = newer
    a.channel.request(b.contact, b.record, b"one")
    pump(a, b)
    assert b.met == [(a.contact, newer)]


def test_the_rate_of_one_address_is_limited() -> None:
    params = replace(PARAMS, packets_per_second=10, packets_burst=20)
    b = Party(2, "30.0.0.1", params)
    noise, source = random.Random(3), UdpEndpoint("66.6.6.6", 9000)
    for port in range(1000):
        header = packets.ordinary_header(b.me.node_id, noise.randbytes(32), bytes(16), noise.randbytes(12))
        b.channel.receive(header.masked + bytes(40), UdpEndpoint(source.host, port), 0.0)
    assert len(b.sent()) == 20
    assert b.channel.counters["packets_limited"] == 980
    other = packets.ordinary_header(b.me.node_id, noise.randbytes(32), bytes(16), noise.randbytes(12))
    b.channel.receive(other.masked + bytes(40), UdpEndpoint("66.6.6.7", 1), 0.0)
    assert len(b.sent()) == 1


def test_memory_is_bounded() -> None:
    params = replace(PARAMS, sessions=8, challenges=8, rate_addresses=8)
    b = Party(2, "30.0.0.1", params)
    for number in range(100, 150):
        a = Party(number, f"20.0.{number}.1")
        a.channel.request(b.contact, b.record, b"one")
        pump(a, b)
        knock = packets.ordinary_header(b.me.node_id, identity(number).node_id, bytes(16), bytes(12))
        b.channel.receive(knock.masked + bytes(40), UdpEndpoint("66.6.6.6", number), 0.0)
        b.sent()
    assert len(b.heard) == 50
    assert b.channel.sessions == 8
    assert len(b.channel._challenges) == 8
    assert len(b.channel._per_host) == 8


def test_a_challenge_is_not_larger_than_what_it_answers() -> None:
    """Otherwise a forged sender's address would let us flood a third party."""
    a, b = pair()
    a.channel.request(b.contact, b.record, b"one")
    ((_, _, knock),) = a.sent()
    b.channel.receive(knock, a.endpoint, 0.0)
    assert len(b.sent()[0][2]) == packets.MIN_PACKET <= len(knock)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(0, 60))
def test_in_any_weather_what_arrives_is_right_and_sessions_recover(
    seed: int, steps: list[int], percent: int
) -> None:
    """Datagrams are lost, doubled and re-ordered; afterwards a few requests suffice to talk again."""
    weather = random.Random(seed)
    a, b = pair()
    sent: set[bytes] = set()

    def storm() -> None:
        flying: list[Datagram] = []
        for _ in range(20):
            flying += a.sent() + b.sent()
            if not flying:
                return
            weather.shuffle(flying)
            source, target, data = flying.pop()
            if weather.random() * 100 < percent:
                continue
            if weather.random() < 0.1:
                flying.append((source, target, data))
            (a if target == a.endpoint else b).channel.receive(data, source, 0.0)

    for number, step in enumerate(steps):
        party, other = ((a, b), (b, a), (a, b))[step]
        text = b"%d" % number
        sent.add(text)
        outgoing = party.channel.request(other.contact, other.record, text)
        storm()
        party.channel.finish(outgoing, answered=b"re:" + text in party.heard)
    assert set(a.heard) | set(b.heard) <= sent | {b"re:" + text for text in sent}
    for attempt in range(3):
        pump(a, b)
        final = b"final %d" % attempt
        outgoing = a.channel.request(b.contact, b.record, final)
        pump(a, b)
        a.channel.finish(outgoing, answered=b"re:" + final in a.heard)
    assert b"re:final 2" in a.heard


@given(st.binary(max_size=1300))
def test_any_datagram_is_survived(data: bytes) -> None:
    b = Party(2, "30.0.0.1")
    b.channel.receive(data, UdpEndpoint("66.6.6.6", 1), 0.0)
    assert b.sent() == []


@given(st.data())
def test_any_change_on_the_way_is_survived_and_never_believed(data: st.DataObject) -> None:
    a, b = pair()
    a.channel.request(b.contact, b.record, b"one")
    for _ in range(6):
        for party, other in ((a, b), (b, a)):
            for _source, _target, datagram in party.sent():
                changed = bytearray(datagram)
                changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
                other.channel.receive(bytes(changed), party.endpoint, 0.0)
    assert b.heard == []
    assert a.heard == []


def test_an_ordinary_packet_in_our_own_name_is_refused() -> None:
    a, _ = pair()
    header = packets.ordinary_header(a.me.node_id, a.me.node_id, bytes(16), bytes(12))
    assert isinstance(packets.decode(header.masked + bytes(40), a.me.node_id), Ordinary)
    a.channel.receive(header.masked + bytes(40), UdpEndpoint("66.6.6.6", 1), 0.0)
    assert a.sent() == []


def test_a_record_of_the_largest_size_goes_into_a_handshake() -> None:
    a, b = pair()
    a.record = sign_record(a.me, 1, {b"x": bytes(300 - 121 - 2)})
    while len(a.record.raw) < 300:
        a.record = sign_record(a.me, 1, {b"x": bytes(len(a.record.pairs[b"x"]) + 1)})
    a.channel.request(b.contact, b.record, bytes(700))
    assert all(len(data) <= packets.MAX_PACKET for _, _, data in pump(a, b))
    assert b.heard == [bytes(700)]

"""Networks of engines, in simulated time: they find each other, keep each other, and bear with bad ones."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any

import pytest

from kernel_proc.discovery.discv5 import messages, packets
from kernel_proc.discovery.discv5.dialogue import TooManyRequestsError
from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint
from kernel_proc.discovery.discv5.messages import FindNode, Nodes
from kernel_proc.discovery.discv5.table import log_distance
from kernel_proc.discovery.enr import Enr
from tests.unit.kernel_proc.discovery.discv5.simulation import (
    Network,
    SimulatedNode,
    identity,
    network_of,
    public_ip,
    record_of,
)


def test_a_network_forms_through_one_node() -> None:
    network, nodes = network_of(12)

    def formed() -> bool:
        return all(len(node.known) == 11 for node in nodes)

    assert network.run(20, formed)
    for node in nodes:
        assert {record.node_id for record in node.found} == {n.record.node_id for n in nodes} - {
            node.record.node_id
        }
        assert node.engine.gauges()["requests"] <= 8


def test_it_is_still_there_without_the_node_it_began_with() -> None:
    network, nodes = network_of(12)
    network.run(20)
    network.stop(nodes[0])
    newcomer = network.add(50, bootstrap=[nodes[5].record])
    assert network.run(20, lambda: len(newcomer.known) >= 11)
    network.run(400)
    assert all(nodes[0].record.node_id not in node.known for node in nodes[1:])
    assert all(len(node.known) == 11 for node in nodes[1:])


def test_it_forms_while_a_fifth_of_all_datagrams_is_lost() -> None:
    network, nodes = network_of(10)
    network.lossy = lambda _source, _target: network.random.random() < 0.2
    assert network.run(60, lambda: all(len(node.known) == 9 for node in nodes))


def test_a_boot_node_that_comes_late_is_found() -> None:
    network = Network()
    record = network.add(0).record
    network.stop(network.nodes[UdpEndpoint(public_ip(0), 9000)])
    nodes = [network.add(number, bootstrap=[record]) for number in range(1, 5)]
    network.run(60)
    assert not any(node.known for node in nodes)
    boot = network.add(0)
    assert network.run(15, lambda: len(boot.known) == 4 and all(len(node.known) == 4 for node in nodes))


def test_fabricated_records_do_not_keep_live_nodes_out() -> None:
    network = Network()
    good = network.add(0)
    liars = [network.add(number) for number in range(1, 5)]
    numbers = count(1000)

    def lie(liar: SimulatedNode) -> None:
        def shareable(_contact: NodeContact, distances: Sequence[int]) -> list[Enr]:
            named: list[Enr] = []
            for number in islice(numbers, 256):  # a name that is near by chance is rare, and dear to look for
                record = record_of(identity(number), public_ip(number % 40_000))
                if log_distance(record.node_id, liar.record.node_id) in distances:
                    named.append(record)
                    if len(named) == 16:
                        break
            return named

        liar.engine.shareable = shareable  # type: ignore[method-assign, assignment]

    for liar in liars:
        lie(liar)
    victim = network.add(20, bootstrap=[one.record for one in (good, *liars)])
    network.run(30)
    assert len(victim.engine.table) > 20
    late = network.add(30, bootstrap=[good.record])
    began = network.now
    assert network.run(60, lambda: late.record.node_id in victim.known)
    print(f"found after {network.now - began:.1f} s")
    network.run(30)
    assert {one.record.node_id for one in (good, late)} <= victim.known
    assert victim.engine.counters()["walks"] > 8, "nor do they make a walk last"


def test_where_there_is_nothing_new_a_walk_is_short() -> None:
    network, nodes = network_of(20)
    for node in nodes:
        node.engine.set_walk_pause(60.0, network.now)
    assert network.run(30, lambda: all(len(node.known) == 19 for node in nodes))
    network.run(60)
    before, walks = network.bytes, sum(node.engine.counters()["walks"] for node in nodes)
    asked = network.datagrams
    network.run(600)
    walks = sum(node.engine.counters()["walks"] for node in nodes) - walks
    assert 190 <= walks <= 220
    # Three nodes are asked, not all: a request, and an answer of up to six datagrams; and the pings.
    assert (network.datagrams - asked) / walks < 45
    assert (network.bytes - before) / 600 / 20 < 300, "bytes a second and node"
    newcomer = network.add(50, bootstrap=[nodes[3].record])
    newcomer.engine.set_walk_pause(60.0, network.now)
    assert network.run(20, lambda: len(newcomer.known) == 20)
    assert network.run(90, lambda: all(newcomer.record.node_id in node.known for node in nodes))


def test_a_node_with_a_late_first_record_walks_at_once() -> None:
    network, nodes = network_of(6)
    newcomer = network.add(30)
    newcomer.engine.set_walk_pause(60.0, network.now)
    network.run(100)
    assert not newcomer.known
    newcomer.engine.add_record(nodes[0].record, network.now)
    assert network.run(3, lambda: len(newcomer.known) == 6)


def test_no_node_is_removed_while_our_network_is_down() -> None:
    network, nodes = network_of(8)
    network.run(30)
    me = nodes[3]
    before = me.known
    assert len(before) == 7
    network.lossy = lambda source, target: me.endpoint in (source, target)
    network.run(600)
    assert me.engine.counters()["timeouts"] > 20
    assert me.known >= before
    network.lossy = lambda _source, _target: False
    assert network.run(60, lambda: all(me.record.node_id in node.known for node in nodes if node is not me))


def test_a_node_that_restarts_elsewhere_is_found_there() -> None:
    network, nodes = network_of(8)
    network.run(30)
    network.stop(nodes[3])
    network.now += 1
    again = network.add(3, host="77.0.0.1", bootstrap=[nodes[5].record])
    assert again.record.seq > nodes[3].record.seq

    def known_there() -> bool:
        found = [node.engine.table.get(again.record.node_id) for node in nodes if node is not nodes[3]]
        return all(node is not None and node.verified and node.record == again.record for node in found)

    assert network.run(60, known_there)


def test_a_changed_record_is_known_soon() -> None:
    network, nodes = network_of(10)
    network.run(30)
    nodes[2].local.set_shards(1, [0, 1, 2])

    def known() -> bool:
        found = [node.engine.table.get(nodes[2].record.node_id) for node in nodes if node is not nodes[2]]
        return all(node is not None and node.record == nodes[2].record for node in found)

    nodes[2].engine.tick(network.now)
    assert network.run(5, known)


def test_our_endpoint_is_learned_behind_a_nat() -> None:
    network, nodes = network_of(8)
    outside = UdpEndpoint("88.0.0.1", 40000)
    inside = network.add(40, host="10.0.0.5", bootstrap=[nodes[1].record])
    network.seen_as[inside.endpoint] = outside
    network.nodes[outside] = inside  # and back
    assert network.run(30, lambda: inside.engine.observed(4) == outside)
    assert inside.seen == [outside]
    assert inside.engine.observed(6) is None
    # Its record has an address that is meaningless out there: no node has it in its table.
    assert not any(inside.record.node_id in node.known for node in nodes)


def test_only_wanted_nodes_are_reported_but_all_are_used() -> None:
    network, nodes = network_of(6)
    wanted = {nodes[2].record.node_id, nodes[4].record.node_id}
    engine = nodes[3].engine
    engine._callbacks = replace(engine._callbacks, wanted=lambda record: record.node_id in wanted)
    network.run(20)
    assert {record.node_id for record in nodes[3].found} == wanted
    assert len(nodes[3].known) == 5


def test_walks_slow_down_when_there_is_nothing_new_and_on_demand() -> None:
    network, nodes = network_of(6)
    network.run(30)
    node = nodes[1]
    walks = node.engine.counters()["walks"]
    network.run(60)
    assert 11 <= node.engine.counters()["walks"] - walks <= 13
    node.engine.set_walk_pause(60, network.now)
    walks = node.engine.counters()["walks"]
    network.run(120)
    assert node.engine.counters()["walks"] - walks <= 3


def test_requests_of_the_owner() -> None:
    network, (a, b) = network_of(2)
    got: list[Any] = []
    a.engine.ping(b.record, network.now, got.append)
    network.run(1)
    assert (got[0].record_seq, got[0].observed) == (b.record.seq, a.endpoint)
    a.engine.find_node(b.record, [0], network.now, got.append)
    network.run(1)
    assert got[1] == [b.record]
    with pytest.raises(ValueError, match="is not reachable"):
        a.engine.ping(a.record, network.now)


def test_silence_is_answered_by_none() -> None:
    network, (a, _) = network_of(2)
    got: list[Any] = []
    absent = record_of(identity(99), "55.0.0.1")
    a.engine.ping(absent, network.now, got.append)
    a.engine.find_node(absent, [256], network.now, got.append)
    network.run(1.9)
    assert got == []
    network.run(0.2)
    assert got == [None, None]


def test_requests_are_bounded() -> None:
    network = Network()
    a = network.add(0)
    for _ in range(8):
        a.engine.ping(record_of(identity(99), "55.0.0.1"), network.now)
    with pytest.raises(TooManyRequestsError):
        a.engine.ping(record_of(identity(99), "55.0.0.1"), network.now)
    for number in range(100, 100 + 512 - 8):
        a.engine.ping(record_of(identity(number), "55.0.0.2"), network.now)
    with pytest.raises(TooManyRequestsError):
        a.engine.ping(record_of(identity(999), "55.0.0.1"), network.now)
    assert a.engine.gauges()["requests"] == 512
    network.run(3)
    assert a.engine.gauges()["requests"] == 0


# --- bad nodes --------------------------------------------------------------------------------------------


class Liar(SimulatedNode):
    """A node that answers FINDNODE as it likes."""

    def lie(self, answer: Callable[[NodeContact, bytes, tuple[int, ...]], list[Nodes]]) -> None:
        dialogue = self.engine._dialogue
        dialogue._nodes = lambda contact, request_id, distances: answer(  # type: ignore[method-assign]
            contact, request_id, tuple(distances)
        )


def with_liar(
    answer: Callable[[NodeContact, bytes, tuple[int, ...]], list[Nodes]], honest: int = 5
) -> tuple[Network, list[SimulatedNode], SimulatedNode]:
    network, nodes = network_of(honest)
    liar = network.add(90, host="66.6.6.6", bootstrap=[nodes[0].record])
    Liar.lie(liar, answer)  # type: ignore[arg-type]
    return network, nodes, liar


def test_a_node_that_fabricates_records_is_banned() -> None:
    real = record_of(identity(500), "66.6.6.7")
    forged = real.raw[:-1] + bytes((real.raw[-1] ^ 1,))
    network, nodes, liar = with_liar(lambda _c, request_id, _d: [Nodes(request_id, 1, (forged,))])
    network.run(30)
    assert all(node.engine.counters()["banned"] == 1 for node in nodes)
    assert not any(liar.record.node_id in node.known for node in nodes)


def test_records_of_other_distances_are_not_taken() -> None:
    def anything(_contact: NodeContact, request_id: bytes, distances: tuple[int, ...]) -> list[Nodes]:
        liar_id = identity(90).node_id
        others = [record_of(identity(n), public_ip(n)) for n in range(500, 540)]
        wrong = [r.raw for r in others if log_distance(r.node_id, liar_id) not in distances]
        return [Nodes(request_id, 1, tuple(wrong[:7]))]

    network, nodes, _ = with_liar(anything)
    network.run(30)
    assert sum(node.engine.counters()["records_unfitting"] for node in nodes) > 0
    taken = {record.node_id for node in nodes for record in node.found}
    assert not taken & {identity(n).node_id for n in range(500, 540)}


def test_addresses_of_our_own_machine_or_network_are_not_taken_from_outside() -> None:
    def inside(_contact: NodeContact, request_id: bytes, distances: tuple[int, ...]) -> list[Nodes]:
        liar_id = identity(90).node_id
        records = [
            record_of(identity(n), host)
            for n in range(500, 510)
            for host in ("127.0.0.1", "10.0.0.1", "192.168.0.1", "0.0.0.0")
        ]
        fitting = [r.raw for r in records if log_distance(r.node_id, liar_id) in distances]
        return [Nodes(request_id, 1, tuple(fitting[:7]))]

    network, nodes, _ = with_liar(inside)
    network.run(30)
    assert sum(node.engine.counters()["records_unfitting"] for node in nodes) > 0
    hosts = {n.contact.endpoint.host for node in nodes for n in node.engine.table.nodes()}
    assert not any(host.startswith(("127.", "10.", "192.168.", "0.")) for host in hosts)


def test_endless_answers_end() -> None:
    def endless(_contact: NodeContact, request_id: bytes, distances: tuple[int, ...]) -> list[Nodes]:
        return [Nodes(request_id, 2**63, ()) for _ in range(60)]

    network, nodes, _ = with_liar(endless)
    network.run(30)
    for node in nodes:
        assert node.engine.counters()["responses_unexpected"] > 0
        assert node.engine.gauges()["requests"] <= 8
        assert len(node.known) >= 4


def test_an_answer_of_which_a_part_is_lost_counts_as_what_came() -> None:
    half = [record_of(identity(n), public_ip(n)) for n in range(500, 600)]

    def first_part(_contact: NodeContact, request_id: bytes, distances: tuple[int, ...]) -> list[Nodes]:
        fitting = [r.raw for r in half if log_distance(r.node_id, identity(90).node_id) in distances]
        return [Nodes(request_id, 2, tuple(fitting[:3]))]

    network, nodes, liar = with_liar(first_part)
    got: list[Any] = []
    nodes[1].engine.find_node(liar.record, [256], network.now, got.append)
    network.run(3)
    assert len(got[0]) == 3


def test_bogus_nodes_without_end_neither_fill_the_table_nor_keep_good_ones_out() -> None:
    """One owner of one network names ever new nodes there, and has them come to us as well."""
    bogus = [identity(n) for n in range(10_000, 11_000)]
    count = iter(range(10**9))

    def invent(_contact: NodeContact, request_id: bytes, distances: tuple[int, ...]) -> list[Nodes]:
        liar_id = identity(90).node_id
        records: list[bytes] = []
        while len(records) < 7:
            at = next(count)
            me = bogus[at % len(bogus)]
            if log_distance(me.node_id, liar_id) in distances or at % 50 == 0:
                records.append(record_of(me, f"66.6.6.{at % 250 + 1}", seq=at + 1).raw)
        return [Nodes(request_id, 1, tuple(records))]

    network, nodes, _ = with_liar(invent, honest=10)
    network.run(60)
    late = network.add(60, bootstrap=[nodes[2].record])
    network.run(30)
    for node in [*nodes, late]:
        good = {n.record.node_id for n in [*nodes, late]} - {node.record.node_id}
        assert good <= node.known
        assert len(node.engine.table) + node.engine.table.replacements <= 10 + len(good) + 1
        gauges = node.engine.gauges()
        assert gauges["sessions"] <= 64
        assert gauges["requests"] <= 40
        reported = Counter(record.node_id for record in node.found)
        invented = sum(count for node_id, count in reported.items() if node_id not in good)
        assert invented <= 11 * node.engine.counters()["walks"]


def test_a_flood_of_garbage_changes_nothing() -> None:
    network, nodes = network_of(6)
    network.run(20)
    noise = random.Random(4)
    target = nodes[2]
    before = target.known
    for number in range(5000):
        data = noise.randbytes(noise.randrange(0, 1400))
        if number % 3 == 0:
            header = packets.ordinary_header(
                target.record.node_id, noise.randbytes(32), noise.randbytes(16), noise.randbytes(12)
            )
            data = header.masked + noise.randbytes(60)
        network.send(UdpEndpoint("66.6.6.6", number % 60000 + 1), target.endpoint, data)
    sent = target.engine.counters()["packets_sent"]
    network.run(5)
    assert target.engine.counters()["packets_limited"] > 4000
    assert target.engine.counters()["packets_sent"] - sent < 400
    assert target.known == before


def test_messages_of_the_future_are_counted_and_harmless() -> None:
    network, (a, b) = network_of(2)
    a.engine.ping(b.record, network.now)
    network.run(1)
    contact = NodeContact(b.record.node_id, b.endpoint)
    channel = a.engine._dialogue._channel
    for plaintext in (b"", b"\x07\xc0", b"\x01", b"\xff" * 100, b"\x02\xc1\x80"):
        channel.respond(contact, plaintext)
    for response in (messages.Pong(b"12345678", 1, b.endpoint), Nodes(b"x", 1, ())):
        channel.respond(contact, messages.encode(response))
    channel.respond(contact, messages.encode(FindNode(b"1", tuple(range(257)))))
    network.run(1)
    assert b.engine.counters()["messages_malformed"] == 5
    assert b.engine.counters()["responses_unexpected"] == 2
    got: list[Any] = []
    a.engine.ping(b.record, network.now, got.append)
    network.run(1)
    assert got[0] is not None


def test_a_response_of_the_wrong_kind_or_node_is_ignored() -> None:
    network, (a, b, c) = network_of(3)
    network.run(5)
    got: list[Any] = []
    a.engine.ping(b.record, network.now, got.append)
    request_id = next(iter(a.engine._dialogue._pending))
    here = NodeContact(a.record.node_id, a.endpoint)
    for liar in (b, c):
        wrong = Nodes(request_id, 1, ()) if liar is b else messages.Pong(request_id, 1, a.endpoint)
        liar.engine._dialogue._channel.respond(here, messages.encode(wrong))
    network.lossy = lambda source, target: False
    network.run(3)
    assert got[0].record_seq == b.record.seq
    assert a.engine.counters()["responses_unexpected"] == 2

"""The routing table: places, replacements, limits, and that no sequence of events breaks it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint, group_of
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.table import Added, Table, distance, log_distance, random_id_at
from kernel_proc.discovery.enr import Enr
from tests.unit.kernel_proc.discovery.discv5.simulation import identity, public_ip, record_of

OWN = identity(0).node_id
PARAMS = Params()
IDENTITIES = [identity(number) for number in range(1, 200)]
FAR = [me for me in IDENTITIES if log_distance(me.node_id, OWN) == 256]


def entry(number: int, host: str | None = None, seq: int = 1, *, far: bool = True) -> tuple[Enr, NodeContact]:
    """A node of the farthest bucket (or of any)."""
    me = (FAR if far else IDENTITIES)[number]
    endpoint = UdpEndpoint(host or public_ip(number), 9000)
    return record_of(me, endpoint.host, seq=seq), NodeContact(me.node_id, endpoint)


def filled(count: int = 16, **params: int) -> Table:
    table = Table(OWN, replace(PARAMS, **params))  # type: ignore[arg-type]
    for number in range(count):
        assert table.add(*entry(number), 0.0) in (Added.NEW, Added.REPLACEMENT)
    return table


def test_distances() -> None:
    one, other = bytes(32), bytes(31) + b"\1"
    assert (log_distance(one, one), log_distance(one, other), distance(one, other)) == (0, 1, 1)
    assert log_distance(one, b"\x80" + bytes(31)) == 256
    source = random.Random(1)
    for at in (1, 2, 8, 9, 255, 256):
        assert log_distance(OWN, random_id_at(OWN, at, source)) == at


def test_a_bucket_has_sixteen_places_and_eight_replacements() -> None:
    table = filled(30)
    assert (len(table), table.replacements) == (16, 8)
    assert all(table.get(entry(number)[1].node_id) for number in range(16))


def test_the_newest_replacement_takes_a_free_place() -> None:
    table = filled(20)
    table.remove(entry(3)[1].node_id)
    assert table.get(entry(3)[1].node_id) is None
    assert table.get(entry(19)[1].node_id) is not None
    assert (len(table), table.replacements) == (16, 3)


def test_unproven_nodes_make_way_for_live_ones() -> None:
    table = filled(24)
    for number in range(24, 34):
        assert table.add(*entry(number), 0.0, alive=True) is Added.NEW
    assert (len(table), table.replacements) == (16, 8)
    assert all(table.get(entry(number)[1].node_id) for number in range(24, 34))
    assert table.add(*entry(33), 0.0) is Added.KNOWN
    unchecked = table.unchecked()
    assert unchecked is not None
    assert unchecked.contact == entry(24)[1], "and is looked at first"
    # A bucket of live nodes is full as ever, and names do not flush the replacements.
    for number in range(34, 40):
        table.add(*entry(number), 0.0, alive=True)
    assert table.add(*entry(40), 0.0, alive=True) is Added.REPLACEMENT
    for number in range(41, 60):
        assert table.add(*entry(number), 0.0) in (Added.REPLACEMENT, Added.LIMITED)
    assert (len(table), table.replacements) == (16, 8)
    table.remove(entry(39)[1].node_id)
    assert table.get(entry(40)[1].node_id) is not None
    # A replacement that was merely named moves up when it contacts us.
    waiting = filled(20)
    assert waiting.get(entry(18)[1].node_id) is None
    assert waiting.add(*entry(18), 1.0, alive=True) is Added.KNOWN
    assert waiting.get(entry(18)[1].node_id) is not None
    assert (len(waiting), waiting.replacements) == (16, 4)


def test_we_are_not_in_our_table() -> None:
    table = Table(OWN, PARAMS)
    me = identity(0)
    assert (
        table.add(record_of(me, "20.0.0.1"), NodeContact(OWN, UdpEndpoint("20.0.0.1", 9000)), 0.0)
        is Added.OURSELVES
    )


def test_only_a_newer_record_counts() -> None:
    table = Table(OWN, PARAMS)
    record, contact = entry(1, seq=5)
    assert table.add(record, contact, 0.0) is Added.NEW
    assert table.add(record, contact, 0.0) is Added.KNOWN
    older, _ = entry(1, seq=4)
    assert table.add(older, contact, 0.0) is Added.KNOWN
    table.answered(contact, 1.0)
    newer, _ = entry(1, seq=6)
    assert table.add(newer, contact, 0.0) is Added.UPDATED
    node = table.get(contact.node_id)
    assert node is not None
    assert (node.record.seq, node.verified) == (6, True)


def test_a_node_that_moved_must_be_verified_again() -> None:
    table = Table(OWN, PARAMS)
    record, contact = entry(1)
    table.add(record, contact, 0.0)
    table.answered(contact, 1.0)
    moved, there = entry(1, "99.0.0.1", seq=2)
    assert table.add(moved, there, 2.0) is Added.UPDATED
    node = table.get(contact.node_id)
    assert node is not None
    assert (node.contact, node.verified, node.checked) == (there, False, False)
    table.answered(contact, 3.0)  # late, from where it was
    assert not node.verified


def test_only_verified_nodes_are_shared_most_recently_seen_first() -> None:
    table = filled(5)
    assert table.at_distances([256], 16) == []
    for number in (2, 0, 4):
        table.answered(entry(number)[1], float(number))
    ids = [node.contact.node_id for node in table.at_distances([255, 256, 256], 16)]
    assert ids == [entry(number)[1].node_id for number in (4, 0, 2)]
    assert len(table.at_distances([256], 2)) == 2


def test_silence_costs_an_unverified_node_its_place_at_once_a_verified_one_later() -> None:
    table = filled(2)
    assert table.failed(entry(0)[1])
    table.answered(entry(1)[1], 1.0)
    assert [table.failed(entry(1)[1]) for _ in range(2)] == [False, False]
    table.answered(entry(1)[1], 2.0)  # one answer forgives
    assert [table.failed(entry(1)[1]) for _ in range(3)] == [False, False, True]
    assert len(table) == 0
    assert not table.failed(entry(1)[1])


def test_a_banned_node_comes_back_later() -> None:
    table = filled(1)
    record, contact = entry(0)
    table.ban(contact.node_id, 100.0)
    assert table.add(record, contact, 100.0 + PARAMS.ban_time - 1) is Added.BANNED
    assert table.add(record, contact, 100.0 + PARAMS.ban_time) is Added.NEW


def test_closest() -> None:
    table = Table(OWN, PARAMS)
    for number in range(60):
        table.add(*entry(number, far=False), 0.0)
    target = identity(500).node_id
    found = [node.contact.node_id for node in table.closest(target)[:10]]
    everyone = sorted((n.contact.node_id for n in table.nodes()), key=lambda i: distance(i, target))
    assert found == everyone[:10]


# --- one owner must not get many places -------------------------------------------------------------------


def test_one_address_gets_two_places_in_a_bucket_and_ten_in_the_table() -> None:
    table = Table(OWN, PARAMS)
    answers = Counter(table.add(*entry(number, "66.6.6.6", far=False), 0.0) for number in range(150))
    assert answers[Added.LIMITED] > 130
    assert len(table) + table.replacements <= 10
    per_bucket = Counter(log_distance(OWN, node.contact.node_id) for node in table.nodes())
    assert max(per_bucket.values()) == 2


def test_neighbouring_addresses_count_together() -> None:
    table = Table(OWN, PARAMS)
    for number in range(150):
        table.add(*entry(number, f"66.6.6.{number}", far=False), 0.0)
    assert len(table) + table.replacements <= 10


def test_an_attacker_with_one_network_does_not_put_out_honest_nodes() -> None:
    table = filled(16)
    for number in range(16):
        table.answered(entry(number)[1], 1.0)
    for number in range(20, 80):
        table.add(*entry(number, f"66.6.6.{number}"), 2.0)
    assert {node.contact.node_id for node in table.nodes()} == {entry(n)[1].node_id for n in range(16)}
    assert table.replacements == 2


def test_places_become_free_again() -> None:
    table = Table(OWN, PARAMS)
    for _ in range(3):
        for number in (0, 1):
            assert table.add(*entry(number, "66.6.6.6"), 0.0) is Added.NEW
        assert table.add(*entry(2, "66.6.6.6"), 0.0) is Added.LIMITED
        for number in (0, 1):
            table.remove(entry(number)[1].node_id)


def test_a_node_that_moves_into_a_crowded_network_loses_its_place() -> None:
    table = filled(3)
    for number in (3, 4):
        table.add(*entry(number, "66.6.6.6"), 0.0)
    assert table.add(*entry(0, "66.6.6.7", seq=2), 0.0) is Added.LIMITED
    assert table.get(entry(0)[1].node_id) is None
    assert len(table) == 4


def test_this_machine_can_be_exempt() -> None:
    for exempt, expected in ((False, 2), (True, 16)):
        table = Table(OWN, replace(PARAMS, exempt_loopback=exempt))
        for number in range(20):
            table.add(*entry(number, "127.0.0.1"), 0.0)
        assert len(table) == expected


# --- upkeep -----------------------------------------------------------------------------------------------


def test_the_one_not_seen_longest_is_checked() -> None:
    table = filled(4)
    for number in (3, 1, 0, 2):
        table.answered(entry(number)[1], float(number))
    node = table.to_check(random.Random(1))
    assert node is not None
    assert node.contact == entry(3)[1]
    assert Table(OWN, PARAMS).to_check(random.Random(1)) is None


def test_nodes_never_asked_are_found() -> None:
    table = filled(2)
    table.answered(entry(0)[1], 0.0)
    node = table.unchecked()
    assert node is not None
    assert node.contact == entry(1)[1]
    node.checked = True
    assert table.unchecked() is None


def test_parts_not_looked_into_are_due() -> None:
    table = Table(OWN, PARAMS)
    table.add(*entry(0), 0.0)
    source = random.Random(1)
    seen = []
    while (at := table.to_refresh(1000.0)) is not None:
        seen.append(at)
        table.mark_refreshed(random_id_at(OWN, at, source), 1000.0)
    # With one node at 256, no nodes are expected below 255, and a lookup there does not change that.
    assert sorted(seen) == [255, 256]
    assert table.to_refresh(1000.0 + PARAMS.refresh_interval) in (255, 256)


numbers = st.integers(0, 60)
events = st.one_of(
    st.tuples(st.just("add"), numbers, st.integers(1, 3), st.integers(0, 5)),
    st.tuples(
        st.sampled_from(["answered", "failed", "remove", "ban"]), numbers, st.just(0), st.integers(0, 5)
    ),
)


@settings(max_examples=150)
@given(st.lists(events, max_size=120))
def test_no_sequence_of_events_breaks_the_limits(sequence: list[tuple[str, int, int, int]]) -> None:
    params = replace(PARAMS, bucket_size=4, replacements=2, table_ip_limit=5)
    table = Table(OWN, params)
    for now, (what, number, seq, network) in enumerate(sequence):
        record, contact = entry(number, f"66.6.{network}.{number}", seq, far=False)
        match what:
            case "add":
                table.add(record, contact, float(now))
            case "answered":
                table.answered(contact, float(now))
            case "failed":
                table.failed(contact)
            case "remove":
                table.remove(contact.node_id)
            case "ban":
                table.ban(contact.node_id, float(now))
        groups: Counter[str] = Counter()
        ids: set[bytes] = set()
        for at, bucket in table._buckets.items():
            assert len(bucket.nodes) <= 4
            assert len(bucket.replacements) <= 2
            assert not bucket.replacements or len(bucket.nodes) == 4
            everyone = [*bucket.nodes.values(), *bucket.replacements.values()]
            own = Counter(group_of(node.contact.endpoint.host) for node in everyone)
            assert max(own.values(), default=0) <= 2
            groups += own
            for node in everyone:
                assert log_distance(OWN, node.contact.node_id) == at
                assert node.contact.node_id not in ids
                ids.add(node.contact.node_id)
        assert groups == table._groups
        assert max(groups.values(), default=0) <= 5

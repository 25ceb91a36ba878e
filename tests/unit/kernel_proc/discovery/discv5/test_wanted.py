"""Which nodes are worth dialling."""

from __future__ import annotations

import pytest

from kernel_proc.discovery.discv5.wanted import waku_filter
from kernel_proc.discovery.enr import Enr, sign_record
from kernel_proc.discovery.enr_values import RelayShards, encode_shards
from tests.unit.kernel_proc.discovery.discv5.simulation import identity


def record(
    capabilities: bytes | None = b"\1", cluster: int = 1, shards: tuple[int, ...] | None = (0,)
) -> Enr:
    pairs = {} if capabilities is None else {b"waku2": capabilities}
    if shards is not None:
        key, value = encode_shards(RelayShards.of(cluster, shards))
        pairs[key] = value
    return sign_record(identity(1), 1, pairs)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (record(), True),
        (record(shards=(3, 5)), True),
        (record(shards=(7,)), False),
        (record(cluster=2), False),
        (record(b"\0"), False),
        (record(None), False),
        (record(shards=None), False),
        (record(b"\x40"), True),
    ],
)
def test_a_node_serves_something_on_one_of_our_shards(found: Enr, expected: bool) -> None:
    assert waku_filter(1, lambda: (0, 3))(found) is expected


def test_without_shards_of_our_own_the_cluster_counts() -> None:
    wanted = waku_filter(1, lambda: ())
    assert wanted(record(shards=(9,)))
    assert wanted(record(shards=None))
    assert not wanted(record(cluster=2))
    assert not wanted(record(None))


def test_a_boot_node_is_always_wanted() -> None:
    other = record(None)
    assert waku_filter(1, lambda: (0,), bootstrap=[other])(other)


def test_our_shards_are_those_of_now() -> None:
    mine = {0}
    wanted = waku_filter(1, lambda: mine)
    assert not wanted(record(shards=(5,)))
    mine.add(5)
    assert wanted(record(shards=(5,)))


def test_an_uncertain_bit_order_is_given_the_benefit_of_the_doubt() -> None:
    many = record(shards=tuple(range(8, 80)))
    assert waku_filter(1, lambda: (8,), shard_count=128)(many)
    # In the order of the specification these would be the shards from 944 on: not with 128 shards.
    assert waku_filter(1, lambda: (950,))(many)
    assert not waku_filter(1, lambda: (950,), shard_count=128)(many)

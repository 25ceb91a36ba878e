"""What Waku puts into records: capabilities, shards in every bit order, addresses."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.discovery.enr_values import (
    Capability,
    RelayShards,
    encode_multiaddrs,
    encode_shards,
    read_capabilities,
    read_multiaddrs,
    read_rs,
    read_rsv,
)

ME = Identity(random.Random(7).randbytes(32)).peer_id
RELAY_PEER = Identity(random.Random(8).randbytes(32)).peer_id

shard_sets = st.frozensets(st.integers(0, 1023), max_size=200)


def test_capabilities_are_one_byte() -> None:
    assert read_capabilities(b"\x0f") == (
        Capability.RELAY | Capability.STORE | Capability.FILTER | Capability.LIGHTPUSH
    )
    assert read_capabilities(b"\x00") == Capability(0)
    assert read_capabilities(b"\xff") is not None
    assert read_capabilities(b"") is None
    assert read_capabilities(b"\1\1") is None


# --- rs ---------------------------------------------------------------------------------------------------


def test_rs_example() -> None:
    key, value = encode_shards(RelayShards.of(73, [10, 1]))
    assert (key, value.hex()) == (b"rs", "0049020001000a")
    read = read_rs(value)
    assert read == RelayShards.of(73, [1, 10])
    assert read.may_share(73, [10, 11])
    assert not read.may_share(73, [2])
    assert not read.may_share(74, [10])


@pytest.mark.parametrize("text", ["", "0049", "00490200", "0049010001ff", "0049010400"])
def test_rs_of_another_length_or_beyond_1023_is_not_read(text: str) -> None:
    assert read_rs(bytes.fromhex(text)) is None


@given(st.integers(0, 0xFFFF), shard_sets)
def test_shards_are_read_as_written(cluster: int, shards: frozenset[int]) -> None:
    key, value = encode_shards(RelayShards.of(cluster, shards))
    assert key == (b"rs" if len(shards) < 64 else b"rsv")
    read = read_rs(value) if key == b"rs" else read_rsv(value)
    assert read is not None
    assert (read.cluster, read.shards) == (cluster, shards)
    assert shards <= read.possible


@pytest.mark.parametrize(("cluster", "shards"), [(-1, [1]), (65536, [1]), (1, [-1]), (1, [1024])])
def test_numbers_that_do_not_fit_into_a_record(cluster: int, shards: list[int]) -> None:
    with pytest.raises(ValueError):
        RelayShards.of(cluster, shards)


# --- rsv: three bit orders --------------------------------------------------------------------------------


def as_nwaku(shards: frozenset[int]) -> bytes:
    vector = bytearray(128)
    for n in shards:
        vector[n // 8] |= 1 << (n % 8)
    return bytes(vector)


def as_js_waku(shards: frozenset[int]) -> bytes:
    vector = bytearray(128)
    for n in shards:
        vector[n // 8] |= 1 << (7 - n % 8)
    return bytes(vector)


def as_specification(shards: frozenset[int]) -> bytes:
    return sum(1 << n for n in shards).to_bytes(128, "big")


def test_rsv_example_is_in_the_order_of_nwaku() -> None:
    vector = bytes.fromhex("0204") + bytes(126)
    assert as_nwaku(frozenset({1, 10})) == vector
    read = read_rsv(b"\0\x49" + vector)
    assert read is not None
    assert read.shards == {1, 10}
    many = RelayShards.of(73, range(64))
    assert encode_shards(many) == (b"rsv", b"\0\x49" + b"\xff" * 8 + bytes(120))


@given(shard_sets)
def test_every_order_is_found_among_the_possible(shards: frozenset[int]) -> None:
    for write in (as_nwaku, as_js_waku, as_specification):
        read = read_rsv(b"\0\1" + write(shards))
        assert read is not None
        assert shards <= read.possible


@given(st.frozensets(st.integers(0, 511), max_size=100))
def test_the_bit_order_of_the_specification_is_recognised_in_clusters_of_512(shards: frozenset[int]) -> None:
    read = read_rsv(b"\0\1" + as_specification(shards), shard_count=512)
    assert read is not None
    assert read.shards == read.possible == shards
    read = read_rsv(b"\0\1" + as_nwaku(shards), shard_count=512)
    assert read is not None
    assert read.shards == shards


def test_an_order_that_gives_impossible_shards_is_ruled_out() -> None:
    # 100 shards are 12 bytes and a half: shard 96 written by js-waku would be shard 103 in nwaku's order.
    read = read_rsv(b"\0\1" + as_js_waku(frozenset({96})), shard_count=100)
    assert read is not None
    assert read.shards == read.possible == {96}


def test_when_nothing_fits_everything_stays_possible() -> None:
    read = read_rsv(b"\0\1" + b"\xff" * 128, shard_count=8)
    assert read is not None
    assert read.shards == frozenset(range(1024))


@pytest.mark.parametrize("length", [0, 1, 129, 131])
def test_rsv_has_130_bytes(length: int) -> None:
    assert read_rsv(bytes(length)) is None


# --- multiaddrs -------------------------------------------------------------------------------------------

ADDRESSES = [
    "/dns4/node-01.example.org/tcp/30303",
    "/dns4/node-01.example.org/tcp/8000/wss",
    "/ip6/2001:db8::1/tcp/60000/ws",
    "/ip4/192.0.2.1/udp/4001/quic-v1",
]


def test_addresses_both_ways() -> None:
    value = encode_multiaddrs(ADDRESSES, 300, ME)
    assert read_multiaddrs(value, ME) == tuple(f"{address}/p2p/{ME}" for address in ADDRESSES)


def test_our_own_peer_id_is_not_written() -> None:
    plain = encode_multiaddrs(ADDRESSES, 300, ME)
    assert encode_multiaddrs([f"{address}/p2p/{ME}" for address in ADDRESSES], 300, ME) == plain


def test_circuit_addresses_are_written_without_their_end() -> None:
    address = f"/ip4/192.0.2.1/tcp/60000/p2p/{RELAY_PEER}/p2p-circuit/p2p/{ME}"
    value = encode_multiaddrs([address], 300, ME)
    assert value == encode_multiaddrs([f"/ip4/192.0.2.1/tcp/60000/p2p/{RELAY_PEER}"], 300, ME)
    assert read_multiaddrs(value, ME) == (address,)


def test_the_last_addresses_give_way() -> None:
    first = encode_multiaddrs(ADDRESSES[:1], 300, ME)
    assert encode_multiaddrs(ADDRESSES, len(first), ME) == first
    assert encode_multiaddrs(ADDRESSES, len(first) - 1, ME) == b""


def test_an_error_does_not_depend_on_the_room() -> None:
    for room in (0, 300):
        with pytest.raises(ValueError, match="not a multiaddr"):
            encode_multiaddrs([ADDRESSES[0], "/ip4/x"], room, ME)


def test_malformed_fields_are_void_and_unreadable_addresses_left_out() -> None:
    good = encode_multiaddrs(ADDRESSES[:1], 300, ME)
    assert read_multiaddrs(good + b"\0\0", ME) == ()
    assert read_multiaddrs(good + b"\0\5x", ME) == ()
    assert read_multiaddrs(good + b"\0", ME) == ()
    assert read_multiaddrs(b"\0\2\xff\xff" + good, ME) == read_multiaddrs(good, ME) != ()


@given(st.binary(max_size=300))
def test_any_bytes_give_addresses_or_none(value: bytes) -> None:
    for address in read_multiaddrs(value, ME):
        assert address.endswith(f"/p2p/{ME}")

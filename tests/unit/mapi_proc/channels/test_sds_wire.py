"""SDS on the wire: both numberings, Bloom filters in both forms, hashes and ids, against vectors of
others."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapi_proc.channels.keccak import keccak256
from mapi_proc.channels.sds.bloom import JS, NIM, Bloom, bloom_hashes, bloom_positions, decode_bloom
from mapi_proc.channels.sds.hashes import farm64, murmur32
from mapi_proc.channels.sds.message import (
    HistoryEntry,
    SdsError,
    SdsMessage,
    decode_sds,
    encode_sds,
    message_id,
)
from mapi_proc.channels.sds.message import _decode_any_entry as decode_any_entry
from mapi_proc.channels.sds.message import _decode_entry as decode_entry
from mapi_proc.channels.sds.message import _encode_entry as encode_entry
from mapi_proc.channels.sds.rolling import NARROW, REFERENCE, RollingBloom, Window
from tests.unit.mapi_proc.channels.wire import put_bytes, put_varint

VECTORS = Path(__file__).parent / "vectors"
JS_SDS: dict[str, Any] = json.loads((VECTORS / "js_sds.json").read_text())
FARM: dict[str, str] = json.loads((VECTORS / "farm64.json").read_text())


def ids(count: int) -> list[str]:
    return [sha256(f"{number}".encode()).hexdigest() for number in range(count)]


def test_farm_hash() -> None:
    assert {text: str(farm64(text.encode())) for text in FARM} == FARM
    assert farm64(b"") == 0x9AE16A3B2F90404F


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"", 0), (b"\0\0\0\0", 0x2362F9DE), (b"test", 0xBA6BD213), (b"Hello, world!", 0xC0363E43)],
)
def test_murmur_hash(text: bytes, expected: int) -> None:
    assert murmur32(text) == expected


def test_keccak_is_not_sha3() -> None:
    assert keccak256(b"") == bytes.fromhex("c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470")


def test_message_id_of_the_reference() -> None:
    name = message_id("alice", 1_700_000_000_000_000_000, b"content")
    assert name == keccak256(b"alice1700000000000000000content").hex()


# --- Bloom filters ------------------------------------------------------------------------------------------


def test_js_bloom_positions() -> None:
    for word, positions in JS_SDS["positions"].items():
        assert list(bloom_positions(JS, word, 150_000)) == positions


@pytest.mark.parametrize("vector", JS_SDS["filters"], ids=lambda v: f"{v['count']} ids")
def test_js_bloom_bytes(vector: dict[str, Any]) -> None:
    bloom = Bloom(JS)
    for name in ids(vector["count"]):
        bloom.add(name)
    assert sha256(bloom.encode()).hexdigest() == vector["sha256"]


def test_nim_bloom_bytes() -> None:
    bloom = Bloom(NIM)
    bloom.add("hello")
    words = bytearray(2344 * 8)
    first, step = (_abs64(int(farm64(text))) % 150_000 for text in (b"hello", b"hello b"))
    for number in range(10):
        bit = (first + number * step) % 150_000
        words[bit // 64 * 8 + bit % 64 // 8] |= 1 << bit % 8
    fields = put_varint(2, 10_000) + put_varint(3, 1000) + put_varint(4, 10) + put_varint(5, 150_000)
    assert bloom.encode() == put_bytes(1, bytes(words)) + fields


def _abs64(value: int) -> int:
    return abs(value - (1 << 64) if value >> 63 else value)


@pytest.mark.parametrize("form", [NIM, JS])
def test_a_filter_is_read_as_it_was_written(form: str) -> None:
    bloom = Bloom(form)
    for name in ids(100):
        bloom.add(name)
    read = decode_bloom(form, bloom.encode())
    assert read is not None
    assert all(read.has(*bloom_hashes(form, name)) for name in ids(100))
    others = [name + "!" for name in ids(100)]
    assert not any(read.has(*bloom_hashes(form, name)) for name in others)
    assert read.false_hits() < 1e-12


@pytest.mark.parametrize("form", [NIM, JS])
@given(data=st.binary(max_size=300))
def test_unreadable_filters_count_as_absent(form: str, data: bytes) -> None:
    bloom = decode_bloom(form, data)
    if bloom is not None:
        bloom.has(*bloom_hashes(form, "id"))


def test_a_filter_that_is_too_full_is_rebuilt_from_the_newest() -> None:
    rolling = RollingBloom(NIM, Window(30, 20, 12_000))
    for name in ids(31):
        rolling.add(name)
    read = decode_bloom(NIM, rolling.encode())
    assert read is not None
    assert (read.capacity, read.bits) == (12_000, 180_000)
    have = [read.has(*bloom_hashes(NIM, name)) for name in ids(31)]
    assert have == [False] * 11 + [True] * 20


def test_a_discarded_id_is_not_claimed_any_more() -> None:
    rolling = RollingBloom(JS)
    assert rolling.encode() == b""
    for name in ids(3):
        rolling.add(name)
    rolling.discard(ids(3)[1])
    expected = Bloom(JS)
    for name in (ids(3)[0], ids(3)[2]):
        expected.add(name)
    assert rolling.encode() == expected.encode()


def test_windows() -> None:
    assert REFERENCE == (12_000, 8_000, 12_000)
    assert NARROW.most <= 4_000


# --- messages -----------------------------------------------------------------------------------------------

FULL = SdsMessage(
    JS,
    "message-1",
    "channel",
    "alice",
    1_700_000_000_123,
    (HistoryEntry("before", b"\1\2\3", "bob"), HistoryEntry("plain")),
    b"\x09\x08\x07",
    b"content",
    (HistoryEntry("missed", b"", "carol"),),
)


def test_the_js_form_is_what_js_writes() -> None:
    wire = bytes.fromhex(JS_SDS["message"])
    assert encode_sds(FULL) == wire
    assert decode_sds(wire) == FULL
    sync = SdsMessage(JS, "sync-1", "channel", "alice", 5, (HistoryEntry("before"),))
    assert encode_sds(sync).hex() == JS_SDS["sync"]
    assert decode_sds(bytes.fromhex(JS_SDS["sync"])) == sync


def test_the_nim_form_byte_by_byte() -> None:
    message = SdsMessage(NIM, "id", "ch", "me", 300, (HistoryEntry("a", b"", "x"),), b"\x01", b"c")
    entry = "0a0161" + "1a0178"
    assert encode_sds(message).hex() == (
        "0a026964" + "10ac02" + "1a06" + entry + "22026368" + "2a0163" + "320101" + "3a026d65"
    )
    assert decode_sds(encode_sds(message)) == message


def test_the_nim_form_always_has_what_older_readers_require() -> None:
    # nim-sds before 0.4 refuses a message without fields 1, 2, 4 and 5, and writes 6 too.
    assert (
        encode_sds(SdsMessage(NIM, "id", "ch", "", 0)).hex()
        == "0a026964" + "1000" + "22026368" + "2a00" + "3200"
    )


def test_absent_fields_and_plain_ids_in_the_history_are_read() -> None:
    wire = put_bytes(1, b"id") + put_bytes(4, b"ch") + put_bytes(3, b"plain-old-id")
    assert decode_sds(wire) == SdsMessage(NIM, "id", "ch", "", 0, (HistoryEntry("plain-old-id"),))


@given(st.binary(min_size=1, max_size=60))
def test_short_entries_are_read_like_any_others(entry: bytes) -> None:
    for value in (entry, encode_entry(HistoryEntry("id", entry[:40], "sender"))):
        try:
            slow = decode_any_entry(value)
        except ValueError:
            slow = None
        try:
            fast = decode_entry(value)
        except ValueError:
            fast = None
        assert fast == slow


def test_one_order_for_both_forms() -> None:
    nim = SdsMessage(NIM, "b", "ch", "", 1_700_000_000)
    js = SdsMessage(JS, "a", "ch", "", 1_700_000_000_001)
    assert sorted([js, nim], key=lambda message: message.key) == [nim, js]


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\xff",
        put_bytes(1, b"id"),
        put_bytes(1, b"") + put_bytes(4, b"ch"),
        put_bytes(1, b"\xff") + put_bytes(4, b"ch"),
        put_bytes(1, b"x" * 513) + put_bytes(4, b"ch"),
        put_bytes(1, b"id") + put_bytes(4, b"ch") + put_bytes(7, b"x" * 513),
        put_bytes(1, b"id")
        + put_bytes(4, b"ch")
        + put_bytes(3, put_bytes(1, b"a") + put_bytes(2, b"x" * 513)),
        put_bytes(1, b"id")
        + put_bytes(4, b"ch")
        + put_bytes(3, put_bytes(1, b"a") + put_bytes(3, b"x" * 513)),
        put_bytes(1, b"id") + put_bytes(4, b"ch") + put_bytes(3, b"a") * 1001,
    ],
)
def test_what_is_not_an_sds_message(wire: bytes) -> None:
    with pytest.raises(SdsError):
        decode_sds(wire)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for wire in (data, put_bytes(1, b"id") + put_bytes(4, b"ch") + data):
        try:
            decode_sds(wire)
        except SdsError:
            continue


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
entries = st.lists(st.builds(HistoryEntry, names, st.binary(max_size=32), texts), max_size=4).map(tuple)


@given(
    st.builds(
        SdsMessage,
        st.sampled_from([NIM, JS]),
        names,
        names,
        texts,
        st.integers(0, 2**64 - 1),
        entries,
        st.binary(max_size=20),
        st.binary(max_size=50),
        entries,
    )
)
def test_any_message_is_read_as_it_was_written(message: SdsMessage) -> None:
    assert decode_sds(encode_sds(message)) == message


def test_a_message_of_very_many_fields_is_refused() -> None:
    """It was read to its end, by each channel on the content topic."""
    good = encode_sds(SdsMessage(NIM, "m", "channel", "alice", 1))
    later = put_varint(99, 1)
    assert decode_sds(good + later * 50).message_id == "m"
    for filler in (later, put_bytes(3, put_bytes(1, b"a")), put_bytes(3, b"a")):
        with pytest.raises(SdsError, match="more than 2100 fields"):
            decode_sds(good + filler * 20_000)
    with pytest.raises(SdsError, match="a reference of 40000 bytes"):
        decode_sds(good + put_bytes(3, put_varint(4, 1) * 20_000))

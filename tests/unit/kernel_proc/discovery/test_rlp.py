"""RLP: the canonical form, both ways, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.discovery import rlp

# Vectors of the Ethereum wiki.
VECTORS = [
    (b"dog", "83646f67"),
    ([b"cat", b"dog"], "c88363617483646f67"),
    (b"", "80"),
    ([], "c0"),
    (0, "80"),
    (b"\x00", "00"),
    (15, "0f"),
    (1024, "820400"),
    ([[], [[]], [[], [[]]]], "c7c0c1c0c3c0c1c0"),
    (b"Lorem ipsum dolor sit amet, consectetur adipisicing elit",
     "b8384c6f72656d20697073756d20646f6c6f722073697420616d65742c20636f6e7365637465747572206164697069736963696e6720656c6974"),
]  # fmt: skip

nested = st.recursive(st.binary(max_size=80), lambda inner: st.lists(inner, max_size=5), max_leaves=20)


@pytest.mark.parametrize(("item", "expected"), VECTORS)
def test_encodes_as_the_public_vectors(item: rlp.Encodable, expected: str) -> None:
    assert rlp.encode(item).hex() == expected


def rebuilt(item: rlp.Item) -> rlp.Encodable:
    return [rebuilt(inner) for inner in rlp.items(item.content, 100)] if item.is_list else item.content


@given(st.lists(nested, max_size=8))
def test_reads_what_it_writes(value: list[rlp.Encodable]) -> None:
    raw = rlp.encode(value)
    found = rlp.read_list(raw, 100)
    assert [rebuilt(item) for item in found] == value
    assert rlp.encode_list(item.raw for item in found) == raw


@given(st.binary(max_size=200))
def test_any_bytes_are_read_canonically_or_refused(data: bytes) -> None:
    try:
        found = rlp.read_list(data, 100)
    except rlp.RlpError:
        return
    assert rlp.encode_list(item.raw for item in found) == data


@pytest.mark.parametrize(
    "text",
    [
        "",  # nothing
        "83646f67",  # no list
        "c0c0",  # something behind the list
        "c88363617483646f",  # cut off
        "c28100",  # a single byte as a string
        "c3b80161",  # a short length written long
        "f80261",  # a cut length
        "f90003616263",  # leading zero in the length
        "ff" + "ff" * 8,  # a length of 2^64
        "c2bf",
    ],
)
def test_non_canonical_encodings_are_rejected(text: str) -> None:
    with pytest.raises(rlp.RlpError):
        rlp.read_list(bytes.fromhex(text), 10)


def test_counts_are_limited() -> None:
    raw = rlp.encode([b"x"] * 11)
    assert len(rlp.read_list(raw, 11)) == 11
    with pytest.raises(rlp.RlpError, match="more than 10"):
        rlp.read_list(raw, 10)


def test_integers() -> None:
    small, zeros, nothing, long, listed = rlp.read_list(rlp.encode([7, b"\0\0\x01", b"", b"x" * 9, []]), 10)
    assert [rlp.to_int(item, 8) for item in (small, zeros, nothing)] == [7, 1, 0]
    for item in (long, listed):
        with pytest.raises(rlp.RlpError):
            rlp.to_int(item, 8)

"""Leopard parity, held against vectors of an independent implementation (vectors/leopard/main.go)."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapi_proc.channels.segmentation.galois import Field, field8, field16
from mapi_proc.channels.segmentation.leopard import ParityError, encode_parity, recover_data

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors" / "leopard.json").read_text())


def shard(index: int, size: int) -> bytes:
    blocks = (sha256(f"{index}/{block}".encode()).digest() for block in range(-(-size // 32)))
    return b"".join(blocks)[:size]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['data']}+{v['parity']}x{v['size']}")
def test_parity_is_byte_compatible(vector: dict[str, Any]) -> None:
    data = [shard(index, vector["size"]) for index in range(vector["data"])]
    parity = encode_parity(data, vector["parity"])
    assert parity[0].hex() == vector["first"]
    assert parity[-1].hex() == vector["last"]
    assert sha256(b"".join(parity)).hexdigest() == vector["sha256"]


def test_the_vectors_cover_both_fields() -> None:
    assert {vector["field"] for vector in VECTORS} == {8, 16}


@pytest.mark.parametrize("field", [field8(), field16()], ids=["GF(2^8)", "GF(2^16)"])
def test_the_basis_is_a_cantor_basis(field: Field) -> None:
    # b[i+1]² + b[i+1] = b[i]: what the closed form of the coefficients rests on.
    for bit in range(field.bits - 1):
        vector = 1 << (bit + 1)
        assert field.multiply(vector, vector) ^ vector == 1 << bit


@settings(max_examples=60)
@given(st.data())
def test_any_data_count_of_shards_recover_the_data(draw: st.DataObject) -> None:
    data_count = draw.draw(st.integers(1, 300), "data")
    parity_count = draw.draw(st.integers(1, min(data_count, 20)), "parity")
    data = [shard(index, 64) for index in range(data_count)]
    parity: list[bytes | None] = list(encode_parity(data, parity_count))
    indices = st.integers(0, data_count + parity_count - 1)
    lost = draw.draw(st.sets(indices, max_size=parity_count), "lost")
    holes: list[bytes | None] = [None if index in lost else piece for index, piece in enumerate(data)]
    parity = [None if data_count + index in lost else piece for index, piece in enumerate(parity)]
    assert recover_data(holes, parity) == data


def test_too_few_shards() -> None:
    data = [shard(index, 64) for index in range(3)]
    parity = encode_parity(data, 1)
    with pytest.raises(ParityError, match="2 data shards are missing, 1 parity shards are there"):
        recover_data([None, None, data[2]], list(parity))


@pytest.mark.parametrize(
    ("sizes", "parity"),
    [((64, 128), 1), ((65, 65), 1), ((0, 0), 1), ((64, 64), 3), ((64, 64), 0), ((), 1)],
)
def test_shards_that_do_not_fit(sizes: tuple[int, ...], parity: int) -> None:
    with pytest.raises(ParityError):
        encode_parity([bytes(size) for size in sizes], parity)

"""Writing fields, and reading them by number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.protobuf import (
    MissingField,
    ProtobufError,
    ProtobufFields,
    put_bytes,
    put_text,
    put_varint,
    put_zigzag,
)
from kernel_proc.p2p.varint import encode as encode_varint


@given(st.integers(1, 2**29 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1), st.text())
def test_fields_round_trip(field: int, number: int, signed: int, text: str) -> None:
    out = bytearray()
    put_varint(out, field, number)
    assert ProtobufFields(bytes(out)).number(field) == number
    put_zigzag(out, field, signed)
    assert ProtobufFields(bytes(out)).signed(field) == signed
    put_text(out, field, text)
    put_bytes(out, field, b"last")
    found = ProtobufFields(bytes(out))
    assert found.blob(field) == b"last"
    assert found.texts(field) == (text, "last")


def test_known_bytes() -> None:
    out = bytearray()
    put_text(out, 1, "")
    put_varint(out, 10, 300)
    put_zigzag(out, 12, -1)
    put_bytes(out, 51, b"\x01")
    assert out.hex() == "0a00" + "50ac02" + "6001" + "9a030101"
    assert encode_varint(2**64 - 1).hex() == "ffffffffffffffffff01"


def test_a_field_of_another_type_counts_as_absent() -> None:
    found = ProtobufFields(bytes.fromhex("0801" + "1201ff" + "1901010101010101012502020202"))
    assert found.blob(1) is None
    assert found.number(2) is None
    assert found.number(3) is None
    assert found.number(4) is None
    assert found.text(5) is None
    with pytest.raises(MissingField):
        found.required_text(1, "request_id")


@pytest.mark.parametrize(
    ("hexed", "nwaku"),
    [
        ("ffff", "(kind: DecodeFailure, error: VarintDecode)"),
        ("0a05ab", "(kind: DecodeFailure, error: MessageIncomplete)"),
        ("0b", "(kind: DecodeFailure, error: BadWireType)"),
        ("0a01ff", "(kind: DecodeFailure, error: IncorrectBlob)"),
        ("1000", '(kind: MissingRequiredField, field: "request_id")'),
    ],
)
def test_errors_know_what_nwaku_says(hexed: str, nwaku: str) -> None:
    with pytest.raises(ProtobufError) as caught:
        ProtobufFields(bytes.fromhex(hexed)).required_text(1, "request_id")
    assert caught.value.nwaku == nwaku

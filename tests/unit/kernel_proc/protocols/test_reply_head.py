from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.protobuf import MissingField, ProtobufError, ProtobufFields, put_text, put_varint
from kernel_proc.protocols.reply_head import ReplyHead, put_head, read_head

TEXT = st.text(max_size=40)


@given(st.builds(ReplyHead, TEXT, st.integers(0, 2**32 - 1), st.none() | TEXT))
def test_a_head_comes_back_as_it_was(head: ReplyHead) -> None:
    out = bytearray()
    put_head(out, *head)
    assert read_head(ProtobufFields(bytes(out))) == head


@given(st.binary(max_size=60))
def test_any_bytes_are_a_head_or_a_typed_error(body: bytes) -> None:
    try:
        head = read_head(ProtobufFields(body))
    except ProtobufError:
        return
    assert 0 <= head.status < 2**32


def test_what_others_leave_out() -> None:
    out = bytearray()
    put_varint(out, 10, 200)
    assert read_head(ProtobufFields(bytes(out))) == ReplyHead("", 200, None)
    out = bytearray()
    put_text(out, 1, "x")
    with pytest.raises(MissingField, match="status_code"):
        read_head(ProtobufFields(bytes(out)))


def test_a_status_is_32_bits_wide_whatever_was_written() -> None:
    out = bytearray()
    put_varint(out, 10, (7 << 32) + 404)
    assert read_head(ProtobufFields(bytes(out))).status == 404

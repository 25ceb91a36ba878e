"""Filter's messages against frames that nwaku wrote or accepted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.message import WakuMessage, encode_message
from ipc_schema.protobuf import MissingField, ProtobufError
from kernel_proc.protocols.filter.codec import (
    FilterRequest,
    FilterResponse,
    Push,
    RequestType,
    decode_push,
    decode_request,
    decode_response,
    encode_push,
    encode_request,
    encode_response,
)
from tests.unit.kernel_proc.protocols.filter.support import PUSHES, REQUESTS, RESPONSES

TOPIC = "/waku/2/rs/42/0"
CONTENT = "/t/1/vec/proto"


def test_there_are_vectors_of_every_kind() -> None:
    assert (len(REQUESTS), len(RESPONSES), len(PUSHES)) == (11, 11, 7)
    assert {decode_request(body).kind for body in REQUESTS} == set(RequestType)
    assert {decode_response(body).status for body in RESPONSES} == {200, 400, 404}


@pytest.mark.parametrize("body", REQUESTS)
def test_requests_read_and_write_back_the_same(body: bytes) -> None:
    assert encode_request(decode_request(body)) == body


@pytest.mark.parametrize("body", RESPONSES)
def test_responses_read_and_write_back_the_same(body: bytes) -> None:
    assert encode_response(decode_response(body)) == body


@pytest.mark.parametrize("body", PUSHES)
def test_pushes_read_and_write_back_the_same(body: bytes) -> None:
    push = decode_push(body)
    assert push.pubsub_topic == TOPIC
    rewritten = decode_push(encode_push(encode_message(push.message), TOPIC))
    assert rewritten.message == push.message
    # Two of them were written by an encoder that omits empty fields.
    if push.size == len(encode_message(push.message)):
        assert encode_push(encode_message(push.message), TOPIC) == body


def test_what_a_stock_proto3_encoder_leaves_out() -> None:
    assert decode_request(b"\x0a\x02id") == FilterRequest("id", RequestType.PING)
    assert decode_response(b"\x50\xc8\x01") == FilterResponse("", 200)
    with pytest.raises(MissingField, match="request_id"):
        decode_request(b"\x10\x01")
    with pytest.raises(MissingField, match="status_code"):
        decode_response(b"\x0a\x02id")
    with pytest.raises(MissingField, match="waku_message"):
        decode_push(b"\x12\x01t")


def test_a_field_of_another_type_is_absent() -> None:
    assert decode_request(b"\x0a\x02id" + b"\x12\x01x") == FilterRequest("id", 0)


def test_a_push_without_a_topic_and_one_without_a_message() -> None:
    message = WakuMessage(b"p", CONTENT)
    data = encode_message(message)
    assert decode_push(b"\x0a" + bytes([len(data)]) + data) == Push(message, None, len(data))
    with pytest.raises(ProtobufError, match="payload is missing"):
        decode_push(b"\x0a\x00\x12\x01t")


@pytest.mark.parametrize("decode", [decode_request, decode_response, decode_push])
@given(body=st.binary(max_size=200))
def test_any_bytes_read_or_are_refused(decode: Callable[[bytes], object], body: bytes) -> None:
    try:
        decode(body)
    except ProtobufError:
        return


@given(
    st.builds(
        FilterRequest,
        st.text(),
        st.integers(0, 2**32 - 1),
        st.none() | st.text(),
        st.lists(st.text(), max_size=5).map(tuple),
    )
)
def test_requests_survive(request: FilterRequest) -> None:
    assert decode_request(encode_request(request)) == request


@given(st.builds(FilterResponse, st.text(), st.integers(0, 2**32 - 1), st.none() | st.text()))
def test_responses_survive(response: FilterResponse) -> None:
    assert decode_response(encode_response(response)) == response

from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema import frames
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.fields import FieldError
from ipc_schema.frames import (
    MAGIC,
    MAX_BLOBS,
    MAX_BODY,
    MAX_BUDGET_MS,
    MAX_HEADER,
    MAX_REPLY_BLOBS,
    NO_CORRELATION,
    NO_REPLY,
    FrameError,
    Reply,
    Request,
    decode_body,
    decode_reply,
    decode_request,
    encode_error,
    encode_reply,
    encode_request,
    is_app_event,
)
from tests.unit.ipc_schema.strategies import attempt, damaged, frames_near, values

ID = bytes(range(16))
INSTANCE = bytes(range(16, 32))


def nested(depth: int) -> dict[str, object]:
    """A body of so many levels, itself included."""
    inner: object = 1
    for _ in range(depth - 1):
        inner = [inner]
    return {"x": inner}


def test_request_round_trip() -> None:
    sent = encode_request(ID, "send", {"a": [1, {"b": b"c"}]}, [b"one", b"two"], budget_ms=7, flags=NO_REPLY)
    request, delimited = decode_request(sent)
    assert request == Request(ID, "send", 7, NO_REPLY, {"a": [1, {"b": b"c"}]}, [b"one", b"two"])
    assert request.no_reply
    assert request.effective_budget_ms == 7
    assert not delimited


def test_a_delimiter_is_noted_and_echoed() -> None:
    request, delimited = decode_request([b"", *encode_request(ID, "ping")])
    assert delimited
    assert request.effective_budget_ms == 10_000
    answer = encode_reply(request.correlation_id, INSTANCE, delimited=delimited)
    assert answer[0] == b""
    assert decode_reply(answer).correlation_id == ID
    refusal = encode_error(ID, INSTANCE, IpcError(ErrorCode.BUSY, "full"), delimited=True)
    assert refusal[:2] == [b"", MAGIC]


def test_reply_round_trip() -> None:
    reply = decode_reply(encode_reply(ID, INSTANCE, {"peers": 3}, [b"x"]))
    assert reply == Reply(ID, 0, INSTANCE, {"peers": 3}, [b"x"])
    assert reply.error is None


def test_error_round_trip() -> None:
    reply = decode_reply(encode_error(ID, INSTANCE, IpcError(ErrorCode.TRIMMED, "gone", detail={"first": 4})))
    assert reply.status == 1
    assert reply.error is not None
    assert (reply.error.code, reply.error.detail) == (ErrorCode.TRIMMED, {"first": 4})


def test_an_error_is_answered_even_when_its_detail_cannot_be() -> None:
    reply = decode_reply(encode_error(ID, INSTANCE, IpcError(ErrorCode.BUSY, "full", detail={"x": object()})))
    assert reply.error is not None
    assert reply.error.code is ErrorCode.BUSY


def test_tail_elements_and_unknown_flags_are_ignored() -> None:
    header = msgpack.packb([ID, "ping", 0, 0xFE, "later", [1]])
    request, _ = decode_request([MAGIC, header, b"\x80"])
    assert not request.no_reply
    reply = decode_reply([MAGIC, msgpack.packb([ID, 0, INSTANCE, None]), b"\x80"])
    assert reply.body == {}


@pytest.mark.parametrize(
    ("broken", "place"),
    [
        ([], "first frame"),
        ([b""], "first frame"),
        ([b"LD2", b"", b""], "first frame"),
        ([MAGIC], "no header frame"),
        ([MAGIC, msgpack.packb([ID, "m", 0, 0])], "no body frame"),
        ([MAGIC, b"", b"\x80"], "header"),
        ([MAGIC, b"\xc1", b"\x80"], "header: is not MessagePack"),
        ([MAGIC, msgpack.packb([ID, "m", 0, 0]) + b"\0", b"\x80"], "header"),
        ([MAGIC, msgpack.packb({"a": 1}), b"\x80"], "header: an array"),
        ([MAGIC, msgpack.packb([ID[1:], "m", 0, 0]), b"\x80"], "header.correlation id: 15 bytes"),
        ([MAGIC, msgpack.packb([ID, "", 0, 0]), b"\x80"], "header.method"),
        ([MAGIC, msgpack.packb([ID, "m" * 65, 0, 0]), b"\x80"], "header.method"),
        ([MAGIC, msgpack.packb([ID, "m", -1, 0]), b"\x80"], "header.budget"),
        ([MAGIC, msgpack.packb([ID, "m", float("nan"), 0]), b"\x80"], "header.budget"),
        ([MAGIC, msgpack.packb([ID, "m", True, 0]), b"\x80"], "header.budget"),
        ([MAGIC, msgpack.packb([ID, "m", MAX_BUDGET_MS + 1, 0]), b"\x80"], "header.budget"),
        ([MAGIC, msgpack.packb([ID, "m", 0, None]), b"\x80"], "header.flags"),
        ([MAGIC, msgpack.packb([ID, "m", 0, 0]), b""], "body"),
        ([MAGIC, msgpack.packb([ID, "m", 0, 0]), b"\x90"], "body: a map"),
        ([MAGIC, msgpack.packb([ID, "m", 0, 0]), b"\x80\x80"], "body"),
        ([MAGIC, msgpack.packb([ID, "m", 0, 0]), b"\x80", *[b""] * (MAX_BLOBS + 1)], "65 blobs"),
    ],
)
def test_a_bad_request_names_the_place(broken: list[bytes], place: str) -> None:
    with pytest.raises(FrameError, match=place) as caught:
        decode_request(broken)
    assert caught.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize(
    ("header", "readable"),
    [
        (msgpack.packb([ID]), True),
        (msgpack.packb([ID, 5, 0, 0]), True),
        (msgpack.packb([ID, "m", 0, 0]), True),
        (msgpack.packb([ID[1:], "m", 0, 0]), False),
        (msgpack.packb([]), False),
        (b"\xc1", False),
    ],
)
def test_a_refusal_carries_the_id_that_could_be_read(header: bytes, readable: bool) -> None:
    with pytest.raises(FrameError) as caught:
        decode_request([b"", MAGIC, header])
    assert caught.value.correlation_id == (ID if readable else NO_CORRELATION)
    assert caught.value.delimited


@pytest.mark.parametrize(
    "body",
    [
        b"\x81\x01\x02",  # key is an integer
        b"\x81\xc4\x01a\x02",  # key is binary
        b"\x81\xa1a\x81\xc4\x01a\x02",  # an inner key is binary
        b"\x81\xa1a\xd4\x05\x00",  # an extension
        b"\x81\xa1a\xc7\x00\x05",  # an empty extension
        b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x81\xa1a\xa1\xff",  # not UTF-8
        b"\x81\xa1a\xdd\x00\x0f\xff\xff",  # claims a million elements
        b"\x81\xa1a\xdf\x7f\xff\xff\xff",
        b"\x81\xa1a" + b"\x91" * 2000 + b"\x01",  # deeper than the unpacker goes
        msgpack.packb(nested(17)),
        msgpack.packb({"x": b"x" * MAX_BODY}),
    ],
)
def test_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(FieldError):
        decode_body(body)


def test_nesting_up_to_the_limit() -> None:
    assert decode_body(msgpack.packb(nested(16))) == nested(16)


@pytest.mark.parametrize("count", [1000, 100_000])
def test_arrays_that_claim_to_be_long_cost_little_memory(count: int) -> None:
    """At each level the unpacker makes room for all that is claimed: gigabytes, without limits."""
    frame = b"\x81\xa1a" + b"\xdd\x00\x0f\xff\xff" * count
    fewer = b"\x81\xa1a" + b"\xdc\x0b\xff" * count
    tracemalloc.start()
    try:
        for body in (frame, fewer):
            with pytest.raises(FieldError):
                decode_body(body)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


def test_the_containers_of_a_body_are_counted() -> None:
    fits: list[list[list[object]]] = [[[]] * 16_000] * 4
    assert decode_body(msgpack.packb({"x": [*fits, b"x" * 65_536]}))
    with pytest.raises(FieldError, match="arrays and maps"):
        decode_body(msgpack.packb({"x": [[[]] * 16_000] * 5}))
    with pytest.raises(FieldError, match="arrays and maps"):
        decode_body(msgpack.packb({"x": [[{}] * 16_000] * 5}))


def test_a_header_above_its_limit_is_refused() -> None:
    header = msgpack.packb([ID, "m", 0, 0, b"x" * MAX_HEADER])
    with pytest.raises(FrameError, match="4096"):
        decode_request([MAGIC, header, b"\x80"])


@pytest.mark.parametrize(
    ("header", "body", "place"),
    [
        ([ID, 2, INSTANCE], {}, "status"),
        ([ID, 0, INSTANCE[1:]], {}, "instance"),
        ([ID, 0], {}, "2 elements"),
        ([1, ID, 5, 1, 0], {}, "correlation id"),
        ([ID, 1, INSTANCE], {}, "code"),
    ],
)
def test_bad_replies(header: list[object], body: dict[str, object], place: str) -> None:
    with pytest.raises(FrameError, match=place):
        decode_reply([MAGIC, msgpack.packb(header), msgpack.packb(body)])


def test_too_many_blobs_in_a_reply() -> None:
    sent = encode_reply(ID, INSTANCE, {}, [b""] * MAX_REPLY_BLOBS)
    assert len(decode_reply(sent).blobs) == MAX_REPLY_BLOBS
    with pytest.raises(FrameError, match="blobs"):
        decode_reply([*sent, b""])
    with pytest.raises(ValueError, match="blobs"):
        encode_reply(ID, INSTANCE, {}, [b""] * (MAX_REPLY_BLOBS + 1))


@pytest.mark.parametrize("body", [{"x": "\ud800"}, {"x": 2**64}, {"x": object()}, {"x": {1, 2}}])
def test_a_body_that_cannot_be_sent_is_the_callers_error(body: dict[str, object]) -> None:
    with pytest.raises(IpcError, match="send: cannot be encoded") as caught:
        encode_request(ID, "send", body)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    with pytest.raises(IpcError) as caught:
        encode_reply(ID, INSTANCE, body)
    assert caught.value.code is ErrorCode.INTERNAL


def test_a_body_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(IpcError) as caught:
        encode_request(ID, "send", {"x": b"x" * MAX_BODY})
    assert caught.value.code is ErrorCode.TOO_LARGE


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: encode_request(b"short", "m"),
        lambda: encode_request(ID, "m", budget_ms=-1),
        lambda: encode_request(ID, "m", budget_ms=MAX_BUDGET_MS + 1),
        lambda: encode_request(ID, "m", blobs=[b""] * (MAX_BLOBS + 1)),
        lambda: encode_reply(ID, b"short"),
        lambda: encode_reply(b"short", INSTANCE),
    ],
)
def test_misuse_is_a_value_error(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError):
        wrong()


@pytest.mark.parametrize(
    ("header", "event"),
    [
        (msgpack.packb([1, ID, 1, 0, 0]), True),
        (msgpack.packb([ID, 0, INSTANCE]), False),
        (msgpack.packb([1, *range(20)]), True),
        (b"\xdd\0\0\0\x05\x01", True),
        (b"\x95\xc4\x10", False),
        (b"", False),
        (b"\x95", False),
    ],
)
def test_events_and_replies_are_distinguished(header: bytes, event: bool) -> None:
    assert is_app_event(header) is event


request_header = (ID, "relay.publish", 10_000, 0)
reply_header = (ID, 0, INSTANCE)
some_bodies = st.one_of(st.just(b"\x80"), values.map(msgpack.packb), st.binary(max_size=20))
some_blobs = st.lists(st.binary(max_size=3), max_size=3)


@given(
    st.lists(st.binary(max_size=20), max_size=5)
    | st.tuples(st.just(MAGIC), frames_near(request_header), some_bodies, some_blobs).map(
        lambda parts: [*parts[:3], *parts[3]]
    )
)
def test_any_frames_are_a_request_or_a_typed_error(given_frames: list[bytes]) -> None:
    result = attempt(lambda: decode_request(given_frames), FrameError)
    if isinstance(result, FrameError):
        assert result.code is ErrorCode.BAD_REQUEST
        answer = encode_error(result.correlation_id, INSTANCE, result, delimited=result.delimited)
        assert decode_reply(answer).error is not None
        return
    request, _ = result
    again = encode_request(
        request.correlation_id,
        request.method,
        request.body,
        request.blobs,
        budget_ms=request.budget_ms,
        flags=request.flags,
    )
    assert repr(decode_request(again)[0]) == repr(request)  # repr: NaN is not equal to itself


@given(
    st.lists(st.binary(max_size=20), max_size=5)
    | st.tuples(st.just(MAGIC), frames_near(reply_header), some_bodies, some_blobs).map(
        lambda parts: [*parts[:3], *parts[3]]
    )
)
def test_any_frames_are_a_reply_or_a_typed_error(given_frames: list[bytes]) -> None:
    result = attempt(lambda: decode_reply(given_frames), FrameError)
    if isinstance(result, FrameError):
        assert result.code is ErrorCode.BAD_REQUEST
    else:
        assert (result.error is None) == (result.status == 0)


@given(st.binary(max_size=200) | damaged(msgpack.packb({"a": [1, {"b": b"c"}], "d": "e"})))
def test_any_bytes_are_a_body_or_a_typed_error(data: bytes) -> None:
    result = attempt(lambda: decode_body(data), FieldError)
    assert isinstance(result, FieldError) or all(type(key) is str for key in result)


def test_frames_have_the_published_limits() -> None:
    assert (frames.MAX_HEADER, frames.MAX_BODY, frames.MAX_DEPTH) == (4096, 1 << 20, 16)

"""Messages: round trips, and invalid ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.discovery import rlp
from kernel_proc.discovery.discv5.endpoint import UdpEndpoint
from kernel_proc.discovery.discv5.messages import (
    Discv5MessageError,
    FindNode,
    Message,
    Nodes,
    Ping,
    Pong,
    TalkRequest,
    TalkResponse,
    decode,
    encode,
)

request_ids = st.binary(max_size=8)
seqs = st.integers(0, 2**64 - 1)
ips = st.ip_addresses().map(str)
records = st.lists(st.binary(max_size=30), max_size=5).map(rlp.encode)

all_messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, request_ids, seqs),
    st.builds(Pong, request_ids, seqs, st.builds(UdpEndpoint.of, ips, st.integers(0, 65535))),
    st.builds(FindNode, request_ids, st.lists(st.integers(0, 256), max_size=20).map(tuple)),
    st.builds(Nodes, request_ids, st.integers(0, 255), st.lists(records, max_size=5).map(tuple)),
    st.builds(TalkRequest, request_ids, st.binary(max_size=20), st.binary(max_size=300)),
    st.builds(TalkResponse, request_ids, st.binary(max_size=300)),
)


@given(all_messages)
def test_both_ways(message: Message) -> None:
    assert decode(encode(message)) == message


# The bytes are those of the specification's form, written by hand.
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Ping(b"\0\0\0\1", 1), "01 c6 8400000001 01"),
        (Pong(b"\1", 0, UdpEndpoint("127.0.0.1", 9000)), "02 ca 01 80 847f000001 822328"),
        (FindNode(b"\x09", (0, 256)), "03 c6 09 c4 80 820100"),
        (Nodes(b"\x09", 1, ()), "04 c3 09 01 c0"),
        (Nodes(b"", 2, (b"\xc1\x01",)), "04 c5 80 02 c2 c101"),
        (TalkRequest(b"\x09", b"eth", b""), "05 c6 09 83657468 80"),
        (TalkResponse(b"\x09", b"ok"), "06 c4 09 826f6b"),
    ],
)  # fmt: skip
def test_bytes(message: Message, expected: str) -> None:
    assert encode(message) == bytes.fromhex(expected)
    assert decode(bytes.fromhex(expected)) == message


def test_an_ipv4_address_mapped_into_ipv6_is_ipv4() -> None:
    mapped = rlp.encode([b"\1", 1, bytes(10) + b"\xff\xff\x7f\0\0\1", 9000])
    pong = decode(b"\2" + mapped)
    assert isinstance(pong, Pong)
    assert pong.observed == UdpEndpoint("127.0.0.1", 9000)


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"\1",
        b"\1\xc0",
        b"\0" + rlp.encode([b"\1", 1]),
        b"\7" + rlp.encode([b"\1", 1]),
        b"\xff" + rlp.encode([b"\1", 1]),
        b"\1" + rlp.encode([b"\1", 1]) + b"\0",
        b"\1" + rlp.encode([b"123456789", 1]),
        b"\1" + rlp.encode([[b"\1"], 1]),
        b"\1" + rlp.encode([b"\1", []]),
        b"\1" + rlp.encode([b"\1", 1, 1]),
        b"\2" + rlp.encode([b"\1", 1, b"12345", 1]),
        b"\2" + rlp.encode([b"\1", 1, b"1234", 65536]),
        b"\3" + rlp.encode([b"\1", b"x"]),
        b"\3" + rlp.encode([b"\1", [257]]),
        b"\3" + rlp.encode([b"\1", [1] * 258]),
        b"\4" + rlp.encode([b"\1", 1, [b"no list"]]),
        b"\4" + rlp.encode([b"\1", 1, [[]] * 21]),
        b"\5" + rlp.encode([b"\1", b"x"]),
        b"\6" + rlp.encode([b"\1", [b"x"]]),
    ],
)
def test_refused(plaintext: bytes) -> None:
    with pytest.raises(Discv5MessageError):
        decode(plaintext)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(plaintext: bytes) -> None:
    for data in (
        plaintext,
        b"\4" + plaintext,
        bytes((len(plaintext) % 8,)) + rlp.encode([plaintext, [plaintext]]),
    ):
        try:
            decode(data)
        except Discv5MessageError:
            continue

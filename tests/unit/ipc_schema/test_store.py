"""The blobs of `store.query`."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.store import StoredMessage, StoreQueryReply, store_blobs, stored_messages
from ipc_schema.message import WakuMessage

MESSAGES = st.builds(
    WakuMessage,
    st.binary(max_size=50),
    st.text(max_size=50),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=64),
    st.binary(max_size=300),
    st.booleans(),
)


@given(st.lists(st.tuples(st.text(max_size=30), MESSAGES), max_size=5))
def test_messages_come_back(messages: list[tuple[str, WakuMessage]]) -> None:
    hashes = tuple(bytes([n]) * 32 for n in range(len(messages)))
    reply = StoreQueryReply(peer="p", hashes=hashes)
    found = stored_messages(reply, store_blobs(messages))
    assert found == [
        StoredMessage(digest, topic, message)
        for digest, (topic, message) in zip(hashes, messages, strict=True)
    ]


REPLY = StoreQueryReply(peer="p", hashes=(bytes(32),))
HEADER = ("/waku/2/rs/0/0", "/a/1/b/proto", 7, b"", False, 0, b"")


def test_later_elements_of_a_header_are_ignored() -> None:
    blobs = [msgpack.packb((*HEADER, "later", 1)), b"x"]
    assert stored_messages(REPLY, blobs)[0].message == WakuMessage(b"x", "/a/1/b/proto", timestamp=7)


@pytest.mark.parametrize(
    "blobs",
    [
        [],
        [msgpack.packb(HEADER)],
        [msgpack.packb(HEADER), b"x", b"y"],
        [b"\xc1", b"x"],
        [msgpack.packb(HEADER[:6]), b"x"],
        [msgpack.packb({"a": 1}), b"x"],
        [msgpack.packb((*HEADER[:3], bytes(65), *HEADER[4:])), b"x"],
        [msgpack.packb((1, *HEADER[1:])), b"x"],
    ],
)
def test_what_does_not_fit_is_an_error(blobs: list[bytes]) -> None:
    with pytest.raises(IpcError) as refused:
        stored_messages(REPLY, blobs)
    assert refused.value.code is ErrorCode.BAD_REQUEST


@given(st.binary(max_size=60))
def test_any_header_is_a_message_or_an_error(header: bytes) -> None:
    with suppress(IpcError):
        stored_messages(REPLY, [header, b""])

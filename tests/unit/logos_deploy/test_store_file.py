"""The file of `logos store export`: what is written reads the same, and no damage passes."""

from __future__ import annotations

import io
import zlib
from contextlib import suppress
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.message import WakuMessage, encode_message
from logos_deploy.node.store_file import MAGIC, StoreFileError, StoreFileReader, StoreFileWriter

TOPIC = "/waku/2/rs/1/0"
MESSAGES = st.builds(
    WakuMessage,
    st.binary(max_size=300),
    st.text(max_size=20),
    st.integers(0, 3),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=64),
    st.binary(max_size=9),
    st.booleans(),
)
ROWS = st.lists(st.tuples(st.text(max_size=20), MESSAGES), max_size=5)


def written(rows: list[tuple[str, WakuMessage]]) -> bytes:
    file = io.BytesIO()
    writer = StoreFileWriter(file)
    for row in rows:
        writer.add(*row)
    writer.close()
    return file.getvalue()


class Trickle(io.BytesIO):
    """A pipe: at most two bytes a read."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(2, size or 0))


@given(ROWS)
def test_what_is_written_reads_the_same(rows: list[tuple[str, WakuMessage]]) -> None:
    data = written(rows)
    assert list(StoreFileReader(io.BytesIO(data))) == rows
    assert list(StoreFileReader(Trickle(data))) == rows


def test_the_bytes_are_those_of_the_format() -> None:
    message = WakuMessage(b"p", "/a/1/b/proto", timestamp=5)
    data = encode_message(message)
    record = b"\x0a\x0e" + TOPIC.encode() + b"\x12" + bytes([len(data)]) + data
    body = b"LOGOSTOR\x01" + len(record).to_bytes(4, "big") + zlib.crc32(record).to_bytes(4, "big") + record
    body += bytes(4) + (1).to_bytes(8, "big")
    assert written([(TOPIC, message)]) == body + sha256(body).digest()


@given(ROWS.filter(bool), st.data())
def test_any_damage_is_found_behind_what_is_whole(
    rows: list[tuple[str, WakuMessage]], data: st.DataObject
) -> None:
    whole = written(rows)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from(
            [whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :], whole + b"more"]
        )
    )
    reader, found = iter(StoreFileReader(io.BytesIO(damaged))), []
    with suppress(StoreFileError):
        while True:
            found.append(next(reader))
    assert found == rows[: len(found)]


def test_other_files_and_later_versions_are_named() -> None:
    with pytest.raises(StoreFileError, match="not an export of a store"):
        list(StoreFileReader(io.BytesIO(b"SQLite format 3\0")))
    with pytest.raises(StoreFileError, match="version 2 of the format, this program knows 1"):
        list(StoreFileReader(io.BytesIO(MAGIC[:-1] + b"\x02")))
    with pytest.raises(StoreFileError, match="behind message 0: the file ends in the middle"):
        list(StoreFileReader(io.BytesIO(b"")))
    with pytest.raises(StoreFileError, match="a record of 4294967295 bytes"):
        list(StoreFileReader(io.BytesIO(MAGIC + b"\xff" * 8)))

"""The file of `logos store export`: messages with their pubsub topics, in a form that any program can read.

| part | bytes |
|---|---|
| magic | `LOGOSTOR`, then the version of the format as one byte, 1 |
| each message | length of the record (uint32, big-endian), CRC-32 of the record (uint32), the record |
| record | protobuf `1 pubsub_topic string, 2 WakuMessage bytes`; what store sync transfers |
| end | length 0 (uint32), number of messages (uint64), SHA-256 of everything before these last 32 bytes |

Messages are ordered by pubsub topic, then by timestamp and hash. A file without its end was cut off; what
precedes is usable all the same, since each record has its own checksum.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from hashlib import sha256
from struct import Struct
from typing import BinaryIO, Final

from ipc_schema.message import MessageDecodeError, WakuMessage, decode_message, encode_message, encode_varint

MAGIC: Final = b"LOGOSTOR\x01"
MAX_RECORD: Final = 64 << 20
_HEAD: Final = Struct(">II")
_END: Final = Struct(">IQ")
_DIGEST_SIZE: Final = 32


class StoreFileError(ValueError):
    """The bytes are not such a file, or damaged; the text says where."""


class StoreFileWriter:
    """Writes a file from front to end; `close` completes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = sha256()
        self.count = 0
        self._write(MAGIC)

    def add(self, pubsub_topic: str, message: WakuMessage) -> None:
        topic, data = pubsub_topic.encode(), encode_message(message)
        record = b"\x0a" + encode_varint(len(topic)) + topic + b"\x12" + encode_varint(len(data)) + data
        self._write(_HEAD.pack(len(record), zlib.crc32(record)) + record)
        self.count += 1

    def close(self) -> None:
        """Write the end."""
        self._write(_END.pack(0, self.count))
        self._file.write(self._digest.digest())
        self._file.flush()

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)


class StoreFileReader:
    """Iterate over (pubsub topic, message); raises `StoreFileError` at the first damage.

    The file was complete if the iteration ends.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = sha256()
        self.count = 0

    def __iter__(self) -> Iterator[tuple[str, WakuMessage]]:
        magic = self._take(len(MAGIC))
        if magic[:-1] != MAGIC[:-1]:
            raise StoreFileError("not an export of a store")
        if magic != MAGIC:
            raise StoreFileError(f"version {magic[-1]} of the format, this program knows {MAGIC[-1]}")
        while True:
            length = int.from_bytes(self._take(4), "big")
            if not length:
                self._end()
                return
            if length > MAX_RECORD:
                raise self._damaged(f"a record of {length} bytes")
            checksum = int.from_bytes(self._take(4), "big")
            record = self._take(length)
            if zlib.crc32(record) != checksum:
                raise self._damaged("the checksum is wrong")
            yield self._parse(record)
            self.count += 1

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        while len(data) < size:
            more = self._file.read(size - len(data))
            if not more:
                raise self._damaged("the file ends in the middle")
            data += more
        self._digest.update(data)
        return data

    def _end(self) -> None:
        count = int.from_bytes(self._take(8), "big")
        expected = self._digest.digest()
        if count != self.count:
            raise self._damaged(f"{count} messages were announced")
        if self._take(_DIGEST_SIZE) != expected:
            raise self._damaged("the digest is wrong")
        if self._file.read(1):
            raise self._damaged("more behind the end")

    def _parse(self, record: bytes) -> tuple[str, WakuMessage]:
        try:
            topic, at = _field(record, 0, 0x0A)
            data, at = _field(record, at, 0x12)
            if at != len(record):
                raise self._damaged("more in the record than a message")
            return topic.decode(), decode_message(data)
        except (MessageDecodeError, UnicodeDecodeError, IndexError) as error:
            raise self._damaged(f"unreadable record: {error}") from error

    def _damaged(self, what: str) -> StoreFileError:
        return StoreFileError(f"behind message {self.count}: {what}")


def _field(record: bytes, at: int, tag: int) -> tuple[bytes, int]:
    """Return a length-delimited field and the position behind it. Raises IndexError."""
    if record[at] != tag:
        raise IndexError("unexpected field")
    length = shift = 0
    while True:
        at += 1
        length |= (record[at] & 0x7F) << shift
        shift += 7
        if record[at] < 0x80:
            break
    at += 1
    if at + length > len(record):
        raise IndexError("truncated field")
    return record[at : at + length], at + length

"""RLP as needed by node records and discv5 (Ethereum Yellow Paper, appendix B).

Decoding proceeds one level at a time and returns slices: it never recurses, so that input cannot be too deep,
and a signature can be verified over the bytes as received. Only the canonical form is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Union

Encodable = Union[bytes, int, "Sequence[Encodable]"]
"""Types accepted by `encode`: byte strings, non-negative integers, and lists of these."""

_STRING: Final = 0x80
_LIST: Final = 0xC0
_SHORT: Final = 55


class RlpError(ValueError):
    """The bytes are not canonical RLP of the expected shape."""


class Item(NamedTuple):
    """A decoded element: its content, and the full encoding it was read from."""

    is_list: bool
    content: bytes
    raw: bytes


def encode(item: Encodable) -> bytes:
    """Encode a byte string, an integer (big-endian, no leading zeros) or a list."""
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < _STRING:
            return item
        return _header(_STRING, len(item)) + item
    return encode_list(map(encode, item))


def encode_list(encoded: Iterable[bytes]) -> bytes:
    """Encode a list of already encoded elements."""
    content = b"".join(encoded)
    return _header(_LIST, len(content)) + content


def _header(kind: int, length: int) -> bytes:
    if length <= _SHORT:
        return bytes((kind + length,))
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((kind + _SHORT + len(size),)) + size


def _item(data: bytes, at: int) -> tuple[Item, int]:
    """Return the element that starts at `at`, and the position after it."""
    # Yellow Paper, appendix B: a byte below 0x80 stands for itself; then come short and long strings
    # (0x80, 0xb8 on), short and long lists (0xc0, 0xf8 on).
    first = data[at]
    if first < _STRING:
        return Item(False, data[at : at + 1], data[at : at + 1]), at + 1
    kind = _LIST if first >= _LIST else _STRING
    length, start = first - kind, at + 1
    if length > _SHORT:
        start += length - _SHORT
        size = data[at + 1 : start]
        if start > len(data) or size[0] == 0:
            raise RlpError("length truncated or with leading zeros")
        length = int.from_bytes(size, "big")
        if length <= _SHORT:
            raise RlpError("non-canonical length")
    end = start + length
    if end > len(data):
        raise RlpError("truncated element")
    content = data[start:end]
    if kind == _STRING and length == 1 and content[0] < _STRING:
        raise RlpError("non-canonical single byte")
    return Item(kind == _LIST, content, data[at:end]), end


def items(content: bytes, limit: int) -> list[Item]:
    """Return the elements of a list's content. Raise RlpError, also for more than `limit`."""
    found: list[Item] = []
    at = 0
    while at < len(content):
        if len(found) == limit:
            raise RlpError(f"list of more than {limit} elements")
        item, at = _item(content, at)
        found.append(item)
    return found


def read_list(data: bytes, limit: int) -> list[Item]:
    """Decode `data` as one list and return its elements, at most `limit`. Raise RlpError."""
    if not data:
        raise RlpError("empty input")
    item, end = _item(data, 0)
    if not item.is_list:
        raise RlpError("not a list")
    if end != len(data):
        raise RlpError("trailing bytes after the list")
    return items(item.content, limit)


def to_int(item: Item, size: int) -> int:
    """Return the integer of an element of at most `size` bytes. Raise RlpError.

    Leading zeros are accepted: they are not canonical, but some implementations write fixed-size integers,
    and there is no ambiguity.
    """
    if item.is_list or len(item.content) > size:
        raise RlpError(f"not an integer of at most {size} bytes")
    return int.from_bytes(item.content, "big")

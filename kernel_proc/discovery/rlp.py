"""RLP, as far as node records and discv5 need it (Ethereum Yellow Paper, appendix B).

Decoding goes one level at a time and hands out slices: nothing recurses, so that no input can be too deep,
and a signature can be checked over the very bytes that came. Only the canonical form is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Union

__all__ = ["Encodable", "Item", "RlpError", "encode", "encode_list", "items", "read_list", "to_int"]

Encodable = Union[bytes, int, "Sequence[Encodable]"]
"""What `encode` takes: byte strings, integers that are not negative, and lists of these."""

_STRING: Final = 0x80
_LIST: Final = 0xC0
_SHORT: Final = 55


class RlpError(ValueError):
    """The bytes are not canonical RLP of the expected shape."""


class Item(NamedTuple):
    """One decoded element: its content, and the whole encoding it was read from."""

    is_list: bool
    content: bytes
    raw: bytes


def encode(item: Encodable) -> bytes:
    """The encoding of a byte string, an integer (big-endian, no leading zeros) or a list."""
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < _STRING:
            return item
        return _header(_STRING, len(item)) + item
    return encode_list(map(encode, item))


def encode_list(encoded: Iterable[bytes]) -> bytes:
    """A list of elements that are encoded already."""
    content = b"".join(encoded)
    return _header(_LIST, len(content)) + content


def _header(kind: int, length: int) -> bytes:
    if length <= _SHORT:
        return bytes((kind + length,))
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((kind + _SHORT + len(size),)) + size


def _item(data: bytes, at: int) -> tuple[Item, int]:
    """The element that begins at `at`, and where it ends."""
    first = data[at]
    if first < _STRING:
        return Item(False, data[at : at + 1], data[at : at + 1]), at + 1
    kind = _LIST if first >= _LIST else _STRING
    length, start = first - kind, at + 1
    if length > _SHORT:
        start += length - _SHORT
        size = data[at + 1 : start]
        if start > len(data) or size[0] == 0:
            raise RlpError("a length is cut off or has leading zeros")
        length = int.from_bytes(size, "big")
        if length <= _SHORT:
            raise RlpError("a short length is written as a long one")
    end = start + length
    if end > len(data):
        raise RlpError("an element is cut off")
    content = data[start:end]
    if kind == _STRING and length == 1 and content[0] < _STRING:
        raise RlpError("a single byte is written as a string")
    return Item(kind == _LIST, content, data[at:end]), end


def items(content: bytes, limit: int) -> list[Item]:
    """The elements of a list's content. Raises RlpError, also when there are more than `limit`."""
    found: list[Item] = []
    at = 0
    while at < len(content):
        if len(found) == limit:
            raise RlpError(f"a list of more than {limit} elements")
        item, at = _item(content, at)
        found.append(item)
    return found


def read_list(data: bytes, limit: int) -> list[Item]:
    """The elements of the one list that `data` is, at most `limit` of them. Raises RlpError."""
    if not data:
        raise RlpError("no bytes")
    item, end = _item(data, 0)
    if not item.is_list:
        raise RlpError("not a list")
    if end != len(data):
        raise RlpError("bytes follow the list")
    return items(item.content, limit)


def to_int(item: Item, size: int) -> int:
    """The integer of an element of at most `size` bytes. Raises RlpError.

    Leading zeros are let pass: they are not canonical, but some implementations write integers of fixed size,
    and nothing is ambiguous about them.
    """
    if item.is_list or len(item.content) > size:
        raise RlpError(f"not an integer of at most {size} bytes")
    return int.from_bytes(item.content, "big")

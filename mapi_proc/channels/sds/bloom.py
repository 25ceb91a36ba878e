"""The Bloom filter of received message ids, in the two forms that are on the wire.

Both take k = 10 positions |A + i·B| mod m of m = 15 · capacity bits, from A = |h(id)| mod m and
B = |h(id ‖ " b")| mod m; bit b is bit b mod 64 of 64-bit word b div 64. They differ in h (see `hashes`) and
in how the words travel:

| form | words | around them |
|---|---|---|
| nim | little-endian | protobuf {1 words, 2 capacity, 3 error rate · 10⁶, 4 k, 5 m} |
| js | big-endian | nothing; always capacity 10 000 |

A filter of either form means nothing to a reader of the other. Ids are ASCII in practice: of others, js
hashes the UTF-16 code units, which is not implemented here.
"""

from __future__ import annotations

from array import array
from typing import Final

from ipc_schema.protobuf import ProtobufError, fields, put_bytes, put_varint
from mapi_proc.channels.sds.hashes import farm64, murmur32

NIM: Final = "nim"
JS: Final = "js"

CAPACITY: Final = 10_000
_BITS_PER_ITEM: Final = 15
_HASHES: Final = 10
_ERROR_RATE: Final = 1000
_MAX_BYTES: Final = 1 << 18

CERTAIN: Final = 1e-4
"""A hit in a filter with at most this chance of a false one counts as an acknowledgement."""


def bloom_hashes(form: str, item: str) -> tuple[int, int]:
    """Return A and B, from which an id's positions in a filter of any size follow."""
    data = item.encode()
    width, hasher = (64, farm64) if form == NIM else (32, murmur32)
    return _magnitude(hasher(data), width), _magnitude(hasher(data + b" b"), width)


def bloom_positions(form: str, item: str, bits: int) -> tuple[int, ...]:
    first, step = bloom_hashes(form, item)
    return tuple([(first + number * step) % bits for number in range(_HASHES)])


def _magnitude(value: int, width: int) -> int:
    """Return |value| of a signed number of that width."""
    return (1 << width) - value if value >> (width - 1) else value


class Bloom:
    """A filter, our own or a received one."""

    __slots__ = ("bits", "capacity", "data", "form", "hashes")

    def __init__(self, form: str, capacity: int = CAPACITY) -> None:
        self.form = form
        self.capacity = capacity
        self.bits = capacity * _BITS_PER_ITEM
        self.hashes = _HASHES
        self.data = bytearray(8 * (1 + self.bits // 64))

    def add(self, item: str) -> None:
        data = self.data
        for position in bloom_positions(self.form, item, self.bits):
            data[position >> 3] |= 1 << (position & 7)

    def has(self, first: int, step: int) -> bool:
        """Return whether all bits of an id with these `bloom_hashes` are set: it is in the filter, or is a
        false positive."""
        # Position by position: most ids that are not in it end at the first, whatever size others choose.
        data, bits = self.data, self.bits
        for number in range(self.hashes):
            position = (first + number * step) % bits
            if not data[position >> 3] >> (position & 7) & 1:
                return False
        return True

    def false_hits(self) -> float:
        """Return the false-positive rate at its current fill."""
        return float((int.from_bytes(self.data, "little").bit_count() / self.bits) ** self.hashes)

    def encode(self) -> bytes:
        if self.form == JS:
            return _swapped(self.data)
        out = bytearray()
        put_bytes(out, 1, self.data)
        for number, value in enumerate((self.capacity, _ERROR_RATE, self.hashes, self.bits), 2):
            put_varint(out, number, value)
        return bytes(out)


def decode_bloom(form: str, data: bytes) -> Bloom | None:
    """Decode a received filter. Return None, as if absent, if it is malformed."""
    bloom = Bloom(form)
    if form == JS:
        if len(data) != len(bloom.data):
            return None
        bloom.data = bytearray(_swapped(data))
        return bloom
    words, numbers = b"", {}
    try:
        for number, value in fields(data):
            if isinstance(value, bytes):
                words = value if number == 1 else words
            else:
                numbers[number] = value
    except ProtobufError:
        return None
    bits, hashes = numbers.get(5, 0), numbers.get(4, 0)
    if not (1 <= bits <= 8 * len(words) and 1 <= hashes <= 32 and len(words) <= _MAX_BYTES):
        return None
    bloom.capacity, bloom.bits, bloom.hashes, bloom.data = numbers.get(2, 0), bits, hashes, bytearray(words)
    return bloom


def _swapped(data: bytes | bytearray) -> bytes:
    words = array("Q", bytes(data))
    words.byteswap()
    return words.tobytes()

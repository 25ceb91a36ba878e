"""Shards as integers of their whole length, so that sums are one XOR, and products with a constant.

In GF(2^8) a shard is one plane: its bytes. In GF(2^16) Leopard spreads 32 elements over each 64 bytes, first
all low bytes, then all high bytes; two planes hold the low and the high ones, and a product is four
translations.
"""

from __future__ import annotations

from functools import lru_cache

from mapi_proc.channels.segmentation.galois import Field, field16

Vector = tuple[int, ...]
"""One integer for each plane."""

_HALF = 32
"""Bytes of each kind in one 64-byte group of GF(2^16)."""


class Planes8:
    """Shards over GF(2^8)."""

    def __init__(self, field: Field, size: int) -> None:
        self._size = size
        # A product table is one slice: the exponents of all elements, from the constant's logarithm on.
        self._field = field
        self._tables: dict[int, bytes] = {}

    def load(self, shard: bytes) -> Vector:
        return (int.from_bytes(shard, "little"),)

    def store(self, vector: Vector) -> bytes:
        return vector[0].to_bytes(self._size, "little")

    def multiply(self, vector: Vector, logarithm: int) -> Vector:
        table = self._tables.get(logarithm)
        if table is None:
            field = self._field
            table = bytes([0, *(field.exp[field.log[x] + logarithm] for x in range(1, field.order))])
            self._tables[logarithm] = table
        data = vector[0].to_bytes(self._size, "little").translate(table)
        return (int.from_bytes(data, "little"),)


class Planes16:
    """Shards over GF(2^16)."""

    def __init__(self, size: int) -> None:
        self._half = size // 2

    def load(self, shard: bytes) -> Vector:
        step = 2 * _HALF
        low = b"".join([shard[at : at + _HALF] for at in range(0, len(shard), step)])
        high = b"".join([shard[at : at + _HALF] for at in range(_HALF, len(shard), step)])
        return int.from_bytes(low, "little"), int.from_bytes(high, "little")

    def store(self, vector: Vector) -> bytes:
        low, high = (plane.to_bytes(self._half, "little") for plane in vector)
        return b"".join([half[at : at + _HALF] for at in range(0, self._half, _HALF) for half in (low, high)])

    def multiply(self, vector: Vector, logarithm: int) -> Vector:
        low, high = (plane.to_bytes(self._half, "little") for plane in vector)
        low_low, low_high, high_low, high_high = _tables16(logarithm)
        load = int.from_bytes
        return (
            load(low.translate(low_low), "little") ^ load(high.translate(high_low), "little"),
            load(low.translate(low_high), "little") ^ load(high.translate(high_high), "little"),
        )


@lru_cache(maxsize=4096)
def _tables16(logarithm: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the products of the constant with x and with x << 8, each as low and high bytes.

    A product is linear in x, so the table grows by doubling from the products of single bits.
    """
    field = field16()
    tables: list[bytes] = []
    for shift in (0, 8):
        products = [0]
        for bit in range(8):
            product = field.exp[field.log[1 << (shift + bit)] + logarithm]
            products += [value ^ product for value in products]
        tables += [bytes(value & 0xFF for value in products), bytes(value >> 8 for value in products)]
    return tables[0], tables[1], tables[2], tables[3]

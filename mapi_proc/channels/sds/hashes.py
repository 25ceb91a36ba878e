"""The hash functions under the Bloom filters of other implementations.

Nim's `hash(string)` is FarmHash's Fingerprint64 in native programs (Nim 2.2 and newer) and MurmurHash3 x86
32-bit in JavaScript, each read as a signed number.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

_U32: Final = 0xFFFF_FFFF
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF
_K0: Final = 0xC3A5_C85C_97CB_3127
_K1: Final = 0xB492_B66F_BE98_F273
_K2: Final = 0x9AE1_6A3B_2F90_404F

_word = Struct("<Q").unpack_from
_half = Struct("<I").unpack_from


def farm64(data: bytes) -> int:
    """Return FarmHash Fingerprint64 (farmhashna), unsigned."""
    size = len(data)
    if size > 64:
        return _farm_long(data, size)
    mul = _K2 + 2 * size & _U64
    if size > 32:
        return _farm_33_to_64(data, size, mul)
    if size > 16:
        a = _word(data, 0)[0] * _K1
        b = _word(data, 8)[0]
        c = _word(data, size - 8)[0] * mul
        d = _word(data, size - 16)[0] * _K2
        return _mix(_rotate(a + b, 43) + _rotate(c, 30) + d, a + _rotate(b + _K2, 18) + c, mul)
    if size >= 8:
        a = _word(data, 0)[0] + _K2
        b = _word(data, size - 8)[0]
        return _mix(_rotate(b, 37) * mul + a, (_rotate(a, 25) + b) * mul, mul)
    if size >= 4:
        return _mix(size + (_half(data, 0)[0] << 3), _half(data, size - 4)[0], mul)
    if size:
        y = data[0] + (data[size >> 1] << 8)
        z = size + (data[-1] << 2)
        return _shift(y * _K2 & _U64 ^ z * _K0 & _U64) * _K2 & _U64
    return _K2


def _rotate(value: int, bits: int) -> int:
    value &= _U64
    return (value >> bits | value << 64 - bits) & _U64


def _shift(value: int) -> int:
    return value ^ value >> 47


def _mix(u: int, v: int, mul: int) -> int:
    u, v = u & _U64, v & _U64
    a = _shift((u ^ v) * mul & _U64)
    return _shift((v ^ a) * mul & _U64) * mul & _U64


def _farm_33_to_64(data: bytes, size: int, mul: int) -> int:
    a = _word(data, 0)[0] * _K2
    b = _word(data, 8)[0]
    c = _word(data, size - 8)[0] * mul
    d = _word(data, size - 16)[0] * _K2
    y = _rotate(a + b, 43) + _rotate(c, 30) + d
    z = _mix(y, a + _rotate(b + _K2, 18) + c, mul)
    e = _word(data, 16)[0] * mul
    f = _word(data, 24)[0]
    g = (y + _word(data, size - 32)[0]) * mul
    h = (z + _word(data, size - 24)[0]) * mul
    return _mix(_rotate(e + f, 43) + _rotate(g, 30) + h, e + _rotate(f + a, 18) + g, mul)


def _weak(data: bytes, at: int, a: int, b: int) -> tuple[int, int]:
    w, x, y, z = (_word(data, at + offset)[0] for offset in (0, 8, 16, 24))
    a += w
    b = _rotate(b + a + z, 21)
    c = a
    a += x + y
    b += _rotate(a, 44)
    return (a + z) & _U64, (b + c) & _U64


def _farm_long(data: bytes, size: int) -> int:
    y = 81 * _K1 + 113 & _U64
    z = _shift(y * _K2 + 113 & _U64) * _K2 & _U64
    x = 81 * _K2 + _word(data, 0)[0]
    v = w = (0, 0)
    for at in range(0, (size - 1) // 64 * 64, 64):
        x, y, z, v, w = _round(data, at, x, y, z, v, w, _K1, 1)
    mul = _K1 + ((z & 0xFF) << 1)
    rest = (size - 1) & 63
    first = w[0] + rest
    v = (v[0] + first & _U64, v[1])
    w = (first + v[0] & _U64, w[1])
    x, y, z, v, w = _round(data, size - 64, x, y, z, v, w, mul, 9)
    return _mix(
        _mix(v[0], w[0], mul) + _shift(y) * _K0 + z,
        _mix(v[1], w[1], mul) + x,
        mul,
    )


_Pair = tuple[int, int]


def _round(  # the state of the hash is eight words
    data: bytes, at: int, x: int, y: int, z: int, v: _Pair, w: _Pair, mul: int, factor: int
) -> tuple[int, int, int, _Pair, _Pair]:
    x = _rotate(x + y + v[0] + _word(data, at + 8)[0], 37) * mul & _U64
    y = _rotate(y + v[1] + _word(data, at + 48)[0], 42) * mul & _U64
    x ^= w[1] * factor & _U64
    y = y + v[0] * factor + _word(data, at + 40)[0] & _U64
    z = _rotate(z + w[0], 33) * mul & _U64
    v = _weak(data, at, v[1] * mul & _U64, x + w[0])
    w = _weak(data, at + 32, z + w[1], y + _word(data, at + 16)[0])
    return z, y, x, v, w


def murmur32(data: bytes) -> int:
    """Return MurmurHash3 x86 32-bit with seed 0, unsigned."""
    size = len(data)
    h = 0
    whole = size & ~3
    for at in range(0, whole, 4):
        h ^= _murmur_scramble(_half(data, at)[0])
        h = (h << 13 | h >> 19) & _U32
        h = h * 5 + 0xE654_6B64 & _U32
    if size > whole:
        h ^= _murmur_scramble(int.from_bytes(data[whole:], "little"))
    h ^= size
    h = (h ^ h >> 16) * 0x85EB_CA6B & _U32
    h = (h ^ h >> 13) * 0xC2B2_AE35 & _U32
    return h ^ h >> 16


def _murmur_scramble(k: int) -> int:
    k = k * 0xCC9E_2D51 & _U32
    k = (k << 15 | k >> 17) & _U32
    return k * 0x1B87_3593 & _U32

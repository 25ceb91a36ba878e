"""Unsigned varints (LEB128), as multiformats and protobuf use them."""

from __future__ import annotations


def encode(value: int) -> bytes:
    """Encode a non-negative number in its shortest form."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

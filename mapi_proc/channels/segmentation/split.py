"""Split a payload into segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mapi_proc.channels.keccak import keccak256
from mapi_proc.channels.segmentation.leopard import ALIGNMENT, encode_parity
from mapi_proc.channels.segmentation.message import SegmentMessage, encode_segment

MAX_TOTAL_SEGMENTS: Final = 65_536
_HEADER_MAX: Final = 128
_RATE_SCALE: Final = 1_000_000


class PayloadTooLargeError(ValueError):
    """The payload needs more segments than are allowed."""


@dataclass(frozen=True, slots=True)
class SplitLimits:
    """How payloads are split. `segment_size` bounds one serialized SegmentMessage."""

    segment_size: int = 102_400
    parity_rate: float = 0.0
    max_segments: int = 256

    def __post_init__(self) -> None:
        if self.segment_size < _HEADER_MAX + ALIGNMENT:
            raise ValueError(f"segment_size must be at least {_HEADER_MAX + ALIGNMENT}")
        if not 0 <= self.parity_rate <= 1:
            raise ValueError("parity_rate must be between 0 and 1")
        if not 1 <= self.max_segments <= MAX_TOTAL_SEGMENTS:
            raise ValueError(f"max_segments must be between 1 and {MAX_TOTAL_SEGMENTS}")

    @property
    def chunk_size(self) -> int:
        """Return the payload bytes per segment, rounded down to Leopard's alignment even without parity
        (LIP-243)."""
        return (self.segment_size - _HEADER_MAX) // ALIGNMENT * ALIGNMENT


def parity_count(data_count: int, rate: float) -> int:
    """Return how many parity segments that many data segments get. In integers, as in the reference: in
    floating point 0.125 · 8 can round up to 2."""
    scaled = int(rate * _RATE_SCALE)
    return min(-(-data_count * scaled // _RATE_SCALE), data_count)


def split_payload(payload: bytes, limits: SplitLimits) -> list[bytes]:
    """Return the encoded segments: data in order, then parity. An empty payload is one segment.

    Raises `PayloadTooLargeError`. With parity this takes tenths of a second for tens of megabytes.
    """
    size = limits.chunk_size
    data_count = max(1, -(-len(payload) // size))
    parity = parity_count(data_count, limits.parity_rate)
    if data_count + parity > limits.max_segments:
        raise PayloadTooLargeError(
            f"{len(payload)} bytes need {data_count} + {parity} segments, "
            f"at most {limits.max_segments} are allowed"
        )
    digest = keccak256(payload)
    chunks = [payload[at : at + size] for at in range(0, max(1, len(payload)), size)]
    shards: list[bytes] = []
    if parity:
        # LIP-243: the last chunk is padded for coding only; on the wire it keeps its length.
        shards = encode_parity([*chunks[:-1], chunks[-1].ljust(size, b"\0")], parity)
    return [
        encode_segment(SegmentMessage(digest, len(payload), index, data_count, parity, is_parity, piece))
        for is_parity, pieces in ((False, chunks), (True, shards))
        for index, piece in enumerate(pieces)
    ]

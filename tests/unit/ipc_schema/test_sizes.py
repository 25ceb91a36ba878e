"""Sizes: what fits into a relay frame."""

from __future__ import annotations

import pytest

from ipc_schema.message import WakuMessage, encode_message
from ipc_schema.sizes import largest_message, largest_payload, relay_frame_size

TOPIC = "/waku/2/rs/42/0"  # 15 characters


def test_the_overhead_measured_with_nwaku() -> None:
    assert relay_frame_size(153_575, TOPIC) == 153_600
    assert largest_message(153_600, TOPIC) == 153_575


@pytest.mark.parametrize("maximum", [100, 127, 128, 200, 16_383, 16_384, 16_420, 153_600, 1_048_576])
def test_the_largest_fits_and_one_more_does_not(maximum: int) -> None:
    size = largest_message(maximum, TOPIC)
    assert relay_frame_size(size, TOPIC) <= maximum < relay_frame_size(size + 1, TOPIC)


@pytest.mark.parametrize(
    ("maximum", "topic", "meta"), [(153_600, 256, 64), (153_600, 20, 0), (1_048_576, 256, 64)]
)
def test_the_largest_payload_fits_exactly(maximum: int, topic: int, meta: int) -> None:
    payload = largest_payload(maximum, TOPIC, topic, meta)

    def frame(size: int) -> int:
        message = WakuMessage(bytes(size), "x" * topic, timestamp=(1 << 63) - 1, meta=bytes(meta))
        return relay_frame_size(len(encode_message(message)), TOPIC)

    assert frame(payload) <= maximum < frame(payload + 1)


def test_a_network_too_small_for_anything() -> None:
    assert largest_payload(64, TOPIC, 256) == 0

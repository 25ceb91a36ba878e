"""Append one event to several apps' streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mapi_proc.database import Batch
from mapi_proc.streams.stream import AppStream

_SHARED_FROM: Final = 512
"""Payloads of at least this many bytes are stored once; below, the reference would cost more than it
saves."""


def append_to_all(
    streams: Iterable[AppStream], kind: int, time_ns: int, fields: bytes, payload: bytes, batch: Batch | None
) -> None:
    """Append the event to each stream; a payload for several durable ones is stored once.

    `batch` may be None if none of them is durable.
    """
    payload_id = 0
    if batch is not None and len(payload) >= _SHARED_FROM:
        durable = 0
        for stream in streams:
            durable += stream.durable
        if durable > 1:
            payload_id = batch.share_payload(payload)
    for stream in streams:
        stream.append(kind, time_ns, fields, payload, batch, payload_id)

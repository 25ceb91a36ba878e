"""Counters of channels since the start, and their sizes: `channels` in control's `health`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mapi_proc.channels.channel import ChannelCore
from mapi_proc.channels.events import (
    ChannelOutput,
    Delivered,
    DeliveryError,
    MessageLost,
    Received,
    ReceiveRefused,
    SendError,
    Sent,
    Transmit,
)

_EVENTS = {
    Sent: "sent",
    Delivered: "delivered",
    SendError: "error",
    DeliveryError: "delivery_error",
}


class ChannelFigures:
    """Counters over all channels, also those that are closed by now."""

    def __init__(self) -> None:
        self.sends = Counter[str](accepted=0, **dict.fromkeys(_EVENTS.values(), 0))
        self.transmissions = Counter[str](first=0, again=0, repair=0, sync=0)
        self.refused = Counter[str]()
        self.received = 0
        self.received_bytes = 0
        self.lost = 0

    def count(self, output: ChannelOutput) -> None:
        match output:
            case Transmit():
                self.transmissions[output.kind.name.lower()] += 1
            case Received():
                self.received += 1
                self.received_bytes += len(output.payload)
            case ReceiveRefused():
                self.refused[output.reason] += 1
            case MessageLost():
                self.lost += 1
            case Sent() | Delivered() | SendError() | DeliveryError():
                self.sends[_EVENTS[type(output)]] += 1

    def to_body(self) -> dict[str, object]:
        """Return the counters for `health`."""
        return {
            "sends": dict(self.sends),
            "transmissions": dict(self.transmissions),
            "received": self.received,
            "received_bytes": self.received_bytes,
            "refused": dict(self.refused),
            "lost": self.lost,
        }


def buffers(cores: Iterable[ChannelCore], transmitting: int) -> dict[str, dict[str, int]]:
    """Return what open channels hold: `count` and, where they are kept in memory, `bytes`.

    `unacknowledged` own messages, `waiting` for messages before them, `joining` payloads, `unopened` segments
    that apps are to decrypt, `history` for repair, `missing` messages known of, `transmitting`: on their way
    out.
    """
    count = Counter[str](
        unacknowledged=0, waiting=0, joining=0, unopened=0, history=0, missing=0, transmitting=transmitting
    )
    size = Counter[str](unacknowledged=0, waiting=0, joining=0, unopened=0, history=0)
    for core in cores:
        sds = core.sds
        count["unacknowledged"] += len(sds.outgoing.pending)
        size["unacknowledged"] += sds.outgoing.bytes
        count["waiting"] += len(sds.incoming.waiting)
        size["waiting"] += sds.incoming.bytes
        count["missing"] += len(sds.incoming.missing)
        count["joining"] += core.joiner.sets
        size["joining"] += core.joiner.buffered_bytes
        count["unopened"] += len(core.unopened)
        size["unopened"] += core.unopened.bytes
        count["history"] += len(sds.log.records)
        size["history"] += sds.log.raw_bytes
    return {"count": dict(count), "bytes": dict(size)}

"""An open channel as a subscriber of its content topic, next to the streams of apps."""

from __future__ import annotations

from typing import Final

from msgpack import unpackb

from ipc_schema.mapi.events import AppEventKind
from mapi_proc.channels.host import ChannelHost
from mapi_proc.database import Batch
from mapi_proc.streams import AppStream
from mapi_proc.streams.stream import Defer

_RECEIVED: Final = int(AppEventKind.MESSAGE_RECEIVED)


class ChannelFeed(AppStream):
    """Gives a channel what comes on its topic. Never attached to a connection.

    `app_id` stays 0: what a channel was given, its app was not, and may still get as history.
    """

    def __init__(self, host: ChannelHost, durable: bool, defer: Defer) -> None:
        super().__init__(b"", defer)
        self.host = host
        self.durable = durable

    def append(
        self,
        kind: int,
        time_ns: int,  # noqa: ARG002 (the channel has its own clocks)
        fields: bytes,
        payload: bytes = b"",
        batch: Batch | None = None,  # noqa: ARG002 (the host writes into the turn's, which is this one)
        payload_id: int = 0,  # noqa: ARG002
    ) -> int:
        """Take a message. Other events do not matter to a channel: SDS finds its own gaps."""
        if kind == _RECEIVED:
            digest: bytes = unpackb(fields)[1]
            self.host.receive(payload, digest)
        return 0

    def note_delivered(self, message_hash: bytes) -> None:
        """No-op: SDS identifies messages by its own ids."""

    def was_delivered(self, message_hash: bytes) -> bool:  # noqa: ARG002
        """No-op: SDS drops repeats."""
        return False

    def expire(self, now: int, batch: Batch) -> None:
        """No-op: nothing is queued here."""

    def ack(self, seq: int, batch: Batch) -> int:  # noqa: ARG002
        """No-op: nothing is acknowledged here."""
        return 0

    def _peek(self) -> tuple[int, bytes, bytes] | None:
        return None

"""Hold back what channels send until its transaction is on disk."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from mapi_proc.channels.events import Transmit
from mapi_proc.channels.host import ChannelHost
from mapi_proc.channels.transmitter import MessageInFlight, Transmitter
from mapi_proc.database import Database, DatabaseError
from mapi_proc.database.channels import find_channel_message
from mapi_proc.write_batch import Turn

log = logging.getLogger(__name__)


@dataclass(eq=False)
class HeldDepartures:
    """What channels send, until the turn it was put into is on disk."""

    transmitter: Transmitter
    database: Database
    turn: Turn
    shard_of: Callable[[str], int | None]
    """Return a content topic's shard."""

    def __post_init__(self) -> None:
        self._held: list[tuple[ChannelHost, Transmit]] = []
        self._task: asyncio.Task[None] | None = None

    def transmit(self, host: ChannelHost, transmit: Transmit) -> None:
        """Send when what was put into the turn until now is on disk."""
        self._held.append((host, transmit))
        if self._task is None:
            self._task = asyncio.create_task(self._release(), name="channel-departures")

    async def idle(self) -> None:
        """Wait until nothing is held back."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _release(self) -> None:
        try:
            while self._held:
                held, self._held = self._held, []
                await self.turn.stored()
                for host, transmit in held:
                    await self._send(host, transmit)
        except DatabaseError as error:
            # Not stored, so do not send: the process is about to end, and the next one continues.
            log.warning("%d channel messages are not sent: %s", len(self._held), error)
        finally:
            self._task = None

    async def _send(self, host: ChannelHost, transmit: Transmit) -> None:
        record, payload = host.record, transmit.payload
        if payload is None:
            try:
                payload = await self.database.read(find_channel_message, record.channel, transmit.message_id)
            except sqlite3.Error as error:  # of this read only: it is tried again later, and the others go on
                log.warning("channel message %s cannot be read now: %s", transmit.message_id, error)
        shard = self.shard_of(record.content_topic)
        if payload is None or shard is None:
            host.failed(transmit.message_id)
            return
        self.transmitter.put(
            MessageInFlight(
                host,
                transmit.message_id,
                transmit.kind,
                record.content_topic,
                shard,
                payload,
                host.core.settings.profile.meta,
                transmit.ephemeral,
            )
        )

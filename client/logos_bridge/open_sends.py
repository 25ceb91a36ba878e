"""The open sends of this bridge: their records in JetStream, and their steps to the final fate."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from nats.aio.msg import Msg

from ipc_schema.message import format_hash
from logos_bridge.duplicates import SKEW_NS
from logos_bridge.figures import BridgeFigures
from logos_bridge.headers import CONTENT_TOPIC, MESSAGE_ID, quoted
from logos_bridge.jetstream import JetStreamLink, Stored, WrongRevisionError
from logos_bridge.send_record import FINAL_FATES, RecordedSend, RecordError

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class OpenSend:
    """A send that this bridge owns, and the revision under which it knows the record."""

    record: RecordedSend
    revision: int
    message: Msg | None = None
    """The entry of the work queue, if it was delivered to this bridge."""
    adopted: bool = False
    """Whether it was taken over: its outcome may have come while another bridge had it."""
    accepted_ns: int = 0
    """When the Messaging API had it on disk; 0: not yet."""
    handing_over: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Fates of one send are published one after another."""


class OpenSends:
    """The open sends of this bridge. One that another bridge has taken over is simply removed: that
    bridge sends the same message."""

    def __init__(self, link: JetStreamLink, owner: str, figures: BridgeFigures) -> None:
        self._link = link
        self._owner = owner
        self._figures = figures
        self._sends: dict[bytes, OpenSend] = {}
        self._bytes = 0
        self._ended: Callable[[], None] = lambda: None

    def on_ended(self, callback: Callable[[], None]) -> None:
        """Call when a send has left."""
        self._ended = callback

    def __len__(self) -> int:
        return len(self._sends)

    @property
    def payload_bytes(self) -> int:
        """Bytes of the payloads of all of them."""
        return self._bytes

    def get(self, request_id: bytes) -> OpenSend | None:
        """Return a send; None if it is not ours."""
        return self._sends.get(request_id)

    def all(self) -> Iterable[OpenSend]:
        """Return all of them, oldest first."""
        return list(self._sends.values())

    # -- beginning -----------------------------------------------------------------------------------------

    async def begin(self, record: RecordedSend, message: Msg) -> OpenSend | None:
        """Write the record of a new send: what fixes the hash is stored before the first attempt.

        None: it has one already, since the queue delivered the entry again.
        """
        try:
            revision = await self._put(record, 0)
        except WrongRevisionError:
            found = await self._read(record.key)
            if found is None or found[0] != record:  # not ours of a moment ago, whose answer was lost
                return None
            revision = found[1]
        if not await self._link.holds(self._link.layout.sends, record.queue_seq):
            # Ended between the delivery and now: its entry goes before its record, so it shows here.
            await self._link.delete(f"KV_{self._link.layout.open_bucket}", revision)
            return None
        return self._opened(OpenSend(record, revision, message))

    def _opened(self, send: OpenSend) -> OpenSend:
        self._sends[send.record.request_id] = send
        self._bytes += len(send.record.draft.payload)
        return send

    def _left(self, send: OpenSend) -> None:
        if self._sends.pop(send.record.request_id, None) is not None:
            self._bytes -= len(send.record.draft.payload)
        self._ended()

    async def adopt(self, stored: Stored) -> OpenSend | None:
        """Take a record over, from an earlier run or a dead bridge. None: ours already, or another's."""
        record = self._decode(stored)
        if record is None or record.request_id in self._sends:
            return None
        taken = record.taken_by(self._owner)
        revision = stored.seq
        if taken != record:
            try:
                revision = await self._put(taken, stored.seq)
            except WrongRevisionError:
                found = await self._read(record.key)
                if found is None or found[0] != taken:
                    return None
                revision = found[1]
            self._figures.count("bridge_in_sends", "result", "taken_over")
        return self._opened(OpenSend(taken, revision, adopted=True))

    async def stored(self) -> list[Stored]:
        """Read the records of all bridges, without their payloads. Raises a failure of NATS."""
        bucket = self._link.layout.open_bucket
        return [entry async for entry in self._link.scan(f"KV_{bucket}", f"$KV.{bucket}.>", data=False)]

    async def read(self, subject: str) -> Stored | None:
        """Read one record again, by its subject."""
        return await self._link.get(self._link.layout.open_bucket, subject.rpartition(".")[2])

    # -- fates ---------------------------------------------------------------------------------------------

    async def dequeue(self, send: OpenSend) -> None:
        """Let the entry leave the queue: the Messaging API has the send on disk."""
        if send.message is None:  # it was delivered to the bridge from which this one has the send
            await self._link.delete(self._link.layout.sends, send.record.queue_seq)
            return
        try:
            await send.message.ack()  # whether that had an effect shows at the end, before the record goes
        except Exception as error:
            log.debug("acknowledging entry %d: %r", send.record.queue_seq, error)

    def delivered_again(self, request_id: bytes, message: Msg) -> OpenSend | None:
        """Take another delivery of an entry that is worked on. None: it is not."""
        send = self._sends.get(request_id)
        if send is not None:
            send.message = message
        return send

    async def report(self, send: OpenSend, fate: str, reason: str = "") -> None:
        """Publish a fate; a final one ends the send."""
        async with send.turn:
            if self._sends.get(send.record.request_id) is not send:
                return
            if fate in FINAL_FATES:
                await self._end(send, fate, reason)
            else:
                await self._publish(send.record, fate, reason)

    async def _end(self, send: OpenSend, fate: str, reason: str) -> None:
        """Fix the fate in the record, publish it, remove the record: of two bridges one gets to the first."""
        if not send.record.fate:
            ended = send.record.ended(fate, reason)
            try:
                send.revision = await self._put(ended, send.revision)
            except WrongRevisionError:
                found = await self._read(ended.key)
                if found is None or found[0] != ended:
                    self.leave(send)
                    return
                send.revision = found[1]
            send.record = ended
        await self._publish(send.record, send.record.fate, send.record.reason)
        await self._remove(send)

    async def _remove(self, send: OpenSend) -> None:
        # The entry first: without a record, one that is delivered again would be a new send.
        queue = self._link.layout.sends
        if await self._link.holds(queue, send.record.queue_seq):
            await self._link.delete(queue, send.record.queue_seq)
        await self._link.delete(f"KV_{self._link.layout.open_bucket}", send.revision)
        self._left(send)

    async def published(self, sends: Iterable[OpenSend]) -> set[OpenSend]:
        """Return those whose final fate is published, by one reading for all. Raises a failure of NATS.

        JetStream drops a fate's second copy only within its duplicate window.
        """
        wanted = {_fate_id(send.record, send.record.fate): send for send in sends}
        since = min((send.record.timestamp for send in wanted.values()), default=0) - SKEW_NS
        layout = self._link.layout
        found = set()
        ids = self._link.ids_since(layout.fates, layout.fate_subject("*", "*"), since)
        async with contextlib.aclosing(ids):
            async for message_id in ids:
                if message_id in wanted:
                    found.add(wanted[message_id])
        return found

    async def end_again(self, send: OpenSend, *, is_published: bool) -> None:
        """Go on where a bridge died between a final fate and the end."""
        async with send.turn:
            if not is_published:
                await self._publish(send.record, send.record.fate, send.record.reason)
            await self._remove(send)

    async def refuse(self, send: OpenSend, reason: str) -> None:
        """The Messaging API refuses it for good: to the dead letters."""
        async with send.turn:
            record = send.record
            headers = {key: value for key, value in record.to_headers().items() if value}
            await self.bury(record.queue_seq, record.key, headers, record.draft.payload, reason)
            await self._remove(send)

    async def bury(self, seq: int, key: str, headers: dict[str, str], payload: bytes, reason: str) -> None:
        """Publish a dead letter: the entry as it was, with the reason."""
        self._figures.count("bridge_in_sends", "result", "refused")
        log.warning("send %s (entry %d of the queue) is refused: %s", key, seq, reason)
        kept = {name: value for name, value in headers.items() if not name.startswith("Nats-")}
        if MESSAGE_ID in headers:
            kept["Logos-Send-Id"] = headers[MESSAGE_ID]
        kept |= {MESSAGE_ID: f"{key}.dead", "Logos-Reason": quoted(reason), "Logos-Queue-Seq": str(seq)}
        await self._link.store(self._link.layout.dead_subject(), payload, kept)

    async def _publish(self, record: RecordedSend, fate: str, reason: str) -> None:
        body: dict[str, Any] = {
            "sendId": record.send_id,
            "requestId": record.key,
            "fate": fate,
            "final": fate in FINAL_FATES,
            "contentTopic": record.draft.content_topic,
            "messageHash": format_hash(record.message_hash),
            "timestamp": record.timestamp,
            "reason": reason,
        }
        headers = {
            MESSAGE_ID: _fate_id(record, fate),
            "Logos-Send-Id": quoted(record.send_id),
            "Logos-Fate": fate,
            "Logos-Message-Hash": format_hash(record.message_hash),
            CONTENT_TOPIC: quoted(record.draft.content_topic),
        }
        subject = self._link.layout.fate_subject(record.draft.client, fate)
        await self._link.store(subject, json.dumps(body).encode(), headers)
        self._figures.count("bridge_in_fates", "kind", fate)

    def leave(self, send: OpenSend) -> None:
        """Another bridge has taken it over."""
        self._figures.count("bridge_in_sends", "result", "left_to_another")
        self._left(send)

    # -- records -------------------------------------------------------------------------------------------

    async def _put(self, record: RecordedSend, expected: int) -> int:
        bucket = self._link.layout.open_bucket
        return await self._link.put(bucket, record.key, record.draft.payload, record.to_headers(), expected)

    async def _read(self, key: str) -> tuple[RecordedSend, int] | None:
        stored = await self._link.get(self._link.layout.open_bucket, key)
        record = self._decode(stored) if stored is not None else None
        return (record, stored.seq) if record is not None and stored is not None else None

    def _decode(self, stored: Stored) -> RecordedSend | None:
        key = stored.subject.rpartition(".")[2]
        try:
            return RecordedSend.from_headers(key, stored.headers, stored.data)
        except RecordError as error:
            self._figures.count("bridge_in_sends", "result", "unreadable")
            log.error("%s: left alone", error)
            return None


def _fate_id(record: RecordedSend, fate: str) -> str:
    """Return the id by which JetStream drops a second copy: a send has one final fate, whichever."""
    return f"{record.key}.{'final' if fate in FINAL_FATES else fate}"

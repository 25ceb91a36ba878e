"""The way in: sends from a work queue in JetStream to the Messaging API, and their fates back.

One send: an entry of the queue → its record, with timestamp and hash (`send_record`) → the Messaging API,
under an idempotency key that never changes → accepted on disk: the entry leaves the queue → every fate is
published → the final one ends the record. Records of a bridge that gives no sign of life are taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final

import nats.errors
from nats.aio.msg import Msg

from ipc_schema.config.bridge import BridgeConfig
from ipc_schema.mapi.methods import MAX_TIMESTAMP_LEAD_NS
from logos_bridge.fate_journal import FateJournal
from logos_bridge.figures import BridgeFigures
from logos_bridge.jetstream import JetStreamLink, Stored, WrongRevisionError
from logos_bridge.open_sends import OpenSend, OpenSends
from logos_bridge.send_record import DraftRefusedError, RecordedSend, read_draft, request_id_of
from logos_bridge.takeover import Takeover
from logos_client.exceptions import LogosError, RequestError
from logos_client.messaging import MessagingClient

log = logging.getLogger(__name__)

APP_NAME: Final = "logos-bridge"
"""The bridge's durable app at its Messaging API: its journal keeps fates while the bridge is away."""
_BATCH: Final = 200
_FETCH_SECONDS: Final = 1.0
_FIGURES_SECONDS: Final = 2.0
_RETRY: Final = 0.2
_RETRY_MAX: Final = 2.0
_ADOPTED_AT_ONCE: Final = 256
_OPEN_BYTES: Final = 64 << 20
"""Payloads of all open sends together: no more are taken beyond it."""
_NATS: Final = (nats.errors.Error, TimeoutError, OSError)


class Inward:
    """One bridge's way in. `run` works until it is cancelled."""

    def __init__(
        self,
        config: BridgeConfig,
        client: MessagingClient,
        owner: str,
        link: JetStreamLink,
        figures: BridgeFigures,
    ) -> None:
        self._client = client
        self._owner = owner
        self._link = link
        self._figures = figures
        self._in_flight = config.inward.bridge_in_flight
        self._takeover_after = config.inward.bridge_takeover_after
        self._look_seconds = config.inward.bridge_takeover_after / 5
        self._takeover = Takeover(owner, config.inward.bridge_takeover_after)
        self._sends = OpenSends(link, owner, figures)
        self._changed = asyncio.Event()
        self._sends.on_ended(self._changed.set)
        self._beginning: set[bytes] = set()
        """Entries taken from the queue that have no record yet."""
        self._orphans = 0
        """Sends of bridges that are gone, still to be taken over: before further ones of the queue."""
        self._largest = client.network.max_message_size
        self._fates = FateJournal(client, self._sends, figures, self._spawn, self._hand_over)
        self._queue_created = ""
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._sign(), name="in: signs of life")
            await self._resume()
            self._group.create_task(self._take(), name="in: queue")
            self._group.create_task(self._fates.follow(), name="in: fates")
            self._group.create_task(self._fates.acknowledge(), name="in: journal")
            self._group.create_task(self._fates.settle(), name="in: outcomes")
            self._group.create_task(self._watch(), name="in: other bridges")
            await self._update_figures()
            self._group.create_task(self._keep_figures(), name="in: figures")
            self._figures.trouble("in", "")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._group is not None
        self._group.create_task(work)

    # -- from the queue ------------------------------------------------------------------------------------

    async def _resume(self) -> None:
        """Find the sends that an earlier run of this bridge left open, before the queue brings them again."""
        while True:
            try:
                records = await self._sends.stored()
                break
            except _NATS as error:
                log.warning("reading open sends: %s", error)
                await asyncio.sleep(_RETRY_MAX)
        await self._adopt_all([one for one in records if one.headers.get("Logos-Owner") == self._owner])
        if self._sends:
            log.info("%d sends of an earlier run go on", len(self._sends))

    @property
    def _room(self) -> int:
        """How many sends may be taken now, each as large as the network allows."""
        by_bytes = max(0, _OPEN_BYTES - self._sends.payload_bytes) // self._largest
        # One that is larger than the bound alone must pass too.
        by_bytes = max(by_bytes, not self._sends)
        return max(0, min(self._in_flight - len(self._sends), by_bytes) - len(self._beginning))

    async def _take(self) -> None:
        self._queue_created = await self._link.queue_created()
        queue = await self._link.queue_consumer(
            ack_wait=self._takeover_after, max_pending=10 * self._in_flight, take=self._begin
        )
        while True:
            room = self._room - self._orphans
            if room <= 0 or not self._client.connected or not self._link.connected:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY):
                        await self._changed.wait()
                continue
            try:
                await queue.request(min(_BATCH, room), expires=_FETCH_SECONDS)
            except _NATS as error:
                log.debug("asking the queue for sends: %s", error)
                await asyncio.sleep(_RETRY)

    def _begin(self, entry: Msg) -> None:
        seq = entry.metadata.sequence.stream
        request_id = request_id_of(self._queue_created, seq)
        # Those that are worked on come again and again: from a slow server all of them.
        if (send := self._sends.delivered_again(request_id, entry)) is not None:
            if send.accepted_ns:
                self._spawn(self._sends.dequeue(send))
        elif request_id not in self._beginning:
            self._beginning.add(request_id)
            self._spawn(self._record(entry, seq, request_id))

    async def _record(self, entry: Msg, seq: int, request_id: bytes) -> None:
        headers = entry.headers or {}
        try:
            tokens = entry.subject[len(self._link.layout.sends_prefix()) :]
            try:
                draft = read_draft(tokens, headers, entry.data, self._client.network)
            except DraftRefusedError as error:
                await self._sends.bury(seq, request_id.hex(), dict(headers), entry.data, str(error))
                await self._link.delete(self._link.layout.sends, seq)
                return
            record = RecordedSend.begin(
                draft,
                self._client.network,
                request_id=request_id,
                queue_seq=seq,
                owner=self._owner,
                timestamp=time.time_ns(),
            )
            send = await self._sends.begin(record, entry)
        finally:
            self._beginning.discard(request_id)
        if send is not None:
            self._figures.count("bridge_in_sends", "result", "begun")
            await self._hand_over(send)

    async def _hand_over(self, send: OpenSend) -> None:
        """Give it to the Messaging API until that has it on disk, or refuses it for good."""
        if send.handing_over:
            return
        if (outcome := self._fates.outcomes.get(send.record.request_id)) is not None:
            await self._sends.report(send, *outcome)
            return
        send.handing_over = True
        try:
            accepted = await self._accepted(send)
        finally:
            send.handing_over = False
        if accepted:
            self._figures.count("bridge_in_sends", "result", "accepted")
            async with send.turn:
                if self._sends.get(send.record.request_id) is send:
                    await self._sends.dequeue(send)

    async def _accepted(self, send: OpenSend) -> bool:
        record, wait = send.record, _RETRY
        while self._sends.get(record.request_id) is send:
            ahead = record.timestamp - time.time_ns() - MAX_TIMESTAMP_LEAD_NS
            if ahead >= 0:  # of the host that began it: its clock is not ours
                await asyncio.sleep(ahead / 1e9 + _RETRY)
                continue
            try:
                await self._client.send(
                    record.draft.content_topic,
                    record.draft.payload,
                    meta=record.draft.meta,
                    ephemeral=record.draft.ephemeral,
                    request_id=record.request_id,
                    timestamp=record.timestamp,
                )
            except RequestError as error:
                await self._sends.refuse(send, error.message)
                return False
            except LogosError as error:
                self._figures.trouble("mapi", error.message)
                await asyncio.sleep(error.retry_after_ms / 1000 if error.retry_after_ms else wait)
                wait = min(wait * 2, _RETRY_MAX)
            else:
                self._figures.trouble("mapi", "")
                send.accepted_ns = time.time_ns()
                return True
        return False

    async def _end_again(self, sends: list[OpenSend]) -> None:
        """End the sends whose final fate was fixed, but maybe not published, when their bridge died."""
        while True:
            try:
                published = await self._sends.published(sends)
                break
            except _NATS as error:
                log.debug("looking for fates: %s", error)
                await asyncio.sleep(_RETRY_MAX)
        for send in sends:
            self._spawn(self._sends.end_again(send, is_published=send in published))

    # -- other bridges -------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Take over from bridges that give no signs of life."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                now = loop.time()  # also after a reading that took long: it says nothing about that time
                await self._hear(now)
                suspects = self._takeover.suspects(now)
                if not suspects or not self._client.connected:
                    self._orphans = 0
                elif await self._take_over(now):
                    self._takeover.cleared(suspects)
            except _NATS as error:
                log.debug("watching other bridges: %s", error)
            await asyncio.sleep(min(self._look_seconds, _RETRY_MAX) if self._orphans else self._look_seconds)

    async def _sign(self) -> None:
        """Give signs of life, however much else there is to do: other bridges would take our sends over."""
        bucket, key = self._link.layout.state_bucket, self._link.layout.alive_key(self._owner)
        revision: int | None = None
        while True:
            if self._client.connected:  # otherwise another bridge does better
                if revision is None:
                    found = await self._link.get(bucket, key)
                    revision = found.seq if found is not None else 0
                try:
                    revision = await self._link.put(bucket, key, b"{}", {}, revision, ahead=True)
                except WrongRevisionError:
                    revision = None
            await asyncio.sleep(self._look_seconds)

    async def _hear(self, now: float) -> None:
        bucket = self._link.layout.state_bucket
        subject = f"$KV.{bucket}.{self._link.layout.alive_key('*')}"
        async for stored in self._link.scan(f"KV_{bucket}", subject, data=False):
            self._takeover.sign(stored.subject.rpartition(".")[2], stored.seq, now)

    async def _take_over(self, now: float) -> bool:
        """Take the sends of dead bridges. Return whether all of them are settled."""
        wanted = []
        for stored in await self._sends.stored():
            owner = stored.headers.get("Logos-Owner", "")
            if owner != self._owner and not self._takeover.alive(owner, now):
                wanted.append(stored)
        if len(wanted) > self._orphans:
            log.warning("%d sends of bridges that are gone are taken over", len(wanted))
        now_taken = wanted[: self._room]
        self._orphans = len(wanted) - len(now_taken)
        await self._adopt_all(now_taken)
        return not wanted

    async def _adopt_all(self, records: list[Stored]) -> None:
        """Take records over and go on with them."""
        limit, ended = asyncio.Semaphore(_ADOPTED_AT_ONCE), []

        async def adopt(stored: Stored) -> None:
            async with limit:
                found = await self._sends.read(stored.subject)
                if found is None or found.seq != stored.seq:
                    return  # ended, or taken by another bridge
                send = await self._sends.adopt(found)
            if send is not None and send.record.fate:
                ended.append(send)
            elif send is not None:
                self._spawn(self._hand_over(send))

        async with asyncio.TaskGroup() as group:
            for stored in records:
                group.create_task(adopt(stored))
        if ended:
            self._spawn(self._end_again(ended))

    async def _keep_figures(self) -> None:
        while True:
            await asyncio.sleep(_FIGURES_SECONDS)
            await self._update_figures()

    async def _update_figures(self) -> None:
        figures = self._figures
        others = self._takeover.alive_ones(asyncio.get_running_loop().time())
        figures.gauge("bridge_in_open", len(self._sends))
        figures.gauge("bridge_in_open_bytes", self._sends.payload_bytes)
        figures.gauge("bridge_peers_alive", len(others))
        queue = -1
        try:
            queue = await self._link.queue_length()
            figures.gauge("bridge_in_queue", queue)
        except _NATS as error:
            log.debug("length of the queue: %s", error)
        figures.facts["in"] = {"open": len(self._sends), "queue": queue}
        figures.facts["others"] = others

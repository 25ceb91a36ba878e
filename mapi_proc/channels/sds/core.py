"""The SDS state machine of one participant in one channel.

Inputs: a message to send, a message received, the fate of a transmission, the passing of time. Each adds
outputs and changes (see `state`), which the caller takes with `take`: it stores the changes, then acts on the
outputs.

Differences to the reference, all compatible on the wire: unacknowledged messages are really retransmitted,
repairs are asked for more than once, sync messages are sent, a message that never comes is declared lost
after a time, and each message refers to all messages that no other one refers to yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from mapi_proc.channels.sds.bloom import decode_bloom
from mapi_proc.channels.sds.clock import LamportClock
from mapi_proc.channels.sds.incoming import Cascade, Incoming, Missing, Waiting
from mapi_proc.channels.sds.log import Log
from mapi_proc.channels.sds.message import HistoryEntry, SdsMessage, encode_sds, message_id
from mapi_proc.channels.sds.outgoing import OutgoingBuffer
from mapi_proc.channels.sds.repair import RepairTimes, Responses
from mapi_proc.channels.sds.rolling import RollingBloom
from mapi_proc.channels.sds.settings import SdsSettings
from mapi_proc.channels.sds.state import (
    Acknowledged,
    Changes,
    Deliver,
    Discarded,
    GaveUp,
    Lost,
    Meta,
    Output,
    Retrieve,
    SdsState,
    SdsStoredMessage,
    Send,
    SendKind,
)
from mapi_proc.channels.sds.sync import SyncTimer


class OutgoingFullError(Exception):
    """Too many unacknowledged messages."""


class SdsCore:
    """See the module. `now` is a monotonic time in seconds, `now_ns` the wall clock."""

    def __init__(
        self,
        channel_id: str,
        sender_id: str,
        settings: SdsSettings,
        random: Random,
        seal: Callable[[bytes], bytes] = bytes,
    ) -> None:
        """`seal` makes the bytes that are stored and transmitted from those of a message."""
        self.channel_id = channel_id
        self.sender_id = sender_id
        self.settings = settings
        self.log = Log(settings)
        self.incoming = Incoming()
        self.outgoing = OutgoingBuffer(settings)
        self._random = random
        self._seal = seal
        self._clock = LamportClock(settings.form, settings.lamport_jump, settings.lamport_jump_new)
        self._bloom = RollingBloom(settings.form, settings.bloom_window)
        self._times = RepairTimes(settings, sender_id)
        self._responses = Responses()
        self._sync = SyncTimer(settings, random)
        self._newest_ns = 0
        self._outputs: list[Output] = []
        self.changes = Changes()

    # --- results --------------------------------------------------------------------------------------------

    def take_outputs(self) -> list[Output]:
        """Return the outputs since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def take(self) -> tuple[list[Output], Changes]:
        """Return the outputs and changes since the last call. Clock and heads accompany every change."""
        changes = self.changes
        changes.stripped.difference_update(
            self.outgoing.pending
        )  # to be retransmitted, maybe after a restart
        if changes != Changes():
            changes.meta = Meta(self._clock.value, self.log.floor, tuple(self.log.heads))
        self.changes = Changes()
        return self.take_outputs(), changes

    @property
    def synced(self) -> bool:
        """Whether no message is missing."""
        return not self.incoming.missing and not self.incoming.waiting

    # --- sending --------------------------------------------------------------------------------------------

    def send(self, contents: list[bytes], now: float, now_ns: int) -> list[str]:
        """Send messages with these contents. Return their ids. Raises `OutgoingFullError`, and what `seal`
        raises; then nothing was taken."""
        if not self.outgoing.has_room(len(contents), sum(map(len, contents))):
            raise OutgoingFullError(
                f"{len(self.outgoing.pending)} messages, {self.outgoing.bytes} bytes are not acknowledged yet"
            )
        names: list[str] = []
        for content in contents:
            name = self._new_id(content, now_ns)
            message = self._message(name, content, now, now_ns)
            raw = self._seal(encode_sds(message))
            self.outgoing.add(name, raw, None)
            # Store first: the log may forget its lowest message, which may be this one.
            self.changes.store(SdsStoredMessage(name, message.order, self.sender_id, b"", SdsState.DONE, raw))
            self.log.insert(message, raw, b"", self.changes)
            self._bloom.add(name)
            self._outputs.append(Send(name, raw, SendKind.FIRST))
            names.append(name)
        self._sync.spoke(now)
        return names

    def transmitted(self, name: str, hint: bytes, now: float) -> None:
        """Record the end of a transmission of our own message; `hint` is the hash of its WakuMessage, empty
        if it failed."""
        if hint:
            self.log.set_hint(name, hint, self.changes)
        self.outgoing.transmitted(name, now)

    def release(self, names: Iterable[str]) -> None:
        """Stop tracking these messages: the caller needs no more acknowledgements."""
        for name in names:
            self.outgoing.release(name)
            if name not in self.log.records:
                self.changes.stripped.add(name)

    def _new_id(self, content: bytes, now_ns: int) -> str:
        """Return a new message id. It hashes sender, time and content, so equal contents need distinct
        times."""
        self._newest_ns = max(now_ns, self._newest_ns + 1)
        return message_id(self.sender_id, self._newest_ns, content)

    def _message(self, name: str, content: bytes, now: float, now_ns: int) -> SdsMessage:
        settings = self.settings
        return SdsMessage(
            settings.form,
            name,
            self.channel_id,
            self.sender_id,
            self._clock.next(now_ns),
            self.log.causal_history(),
            self._bloom.encode() if settings.bloom else b"",
            content,
            self._requests(now),
        )

    def _requests(self, now: float) -> tuple[HistoryEntry, ...]:
        """Return the repair requests that are due, for one message."""
        due = sorted((m.request_at, name) for name, m in self.incoming.missing.items() if m.request_at <= now)
        entries = []
        for _, name in due[: self.settings.requests_per_message]:
            missing = self.incoming.missing[name]
            missing.requests += 1
            missing.request_at = now + self._times.request_delay(name, missing.requests)
            entries.append(missing.entry)
        return tuple(entries)

    # --- receiving ------------------------------------------------------------------------------------------

    def receive(
        self, message: SdsMessage, raw: bytes, hint: bytes, body: object, now: float, now_ns: int
    ) -> None:
        """Take a message of this channel. `hint` is the hash of its WakuMessage; `body` comes back with
        `Deliver`.

        A message without a Lamport time has no order and is delivered at once."""
        name = message.message_id
        if message.lamport is None:
            if message.content:
                own = message.sender_id == self.sender_id
                self._outputs.append(Discarded(name, "own") if own else Deliver(message, body))
            return
        if not self._clock.believes(message.order, now_ns):
            self._outputs.append(Discarded(name, "lamport"))
            return
        self._responses.seen(name)
        if message.sender_id != self.sender_id:
            self._review(message, now)
        if not message.content:
            self._sync_received(message, now)
            return
        if name in self.log or name in self.incoming.waiting:
            self.log.set_hint(name, hint, self.changes)
            self._outputs.append(Discarded(name, "duplicate"))
            return
        self._clock.observe(message.order)
        if self.log.forgotten(message.key):
            # Below the floor of the log: it may have been delivered before, and its place in the order is
            # past.
            self._outputs.append(Discarded(name, "too_old"))
            self.log.declare_lost(name, self.changes)
            self._deliver_all(self.incoming.settle(name))
            return
        self._take_in(message, raw, hint, body, now)
        self._sync.news(now)

    def _take_in(self, message: SdsMessage, raw: bytes, hint: bytes, body: object, now: float) -> None:
        name = message.message_id
        needs, missing = self.incoming.needs(message, self.log)
        if len(self.incoming.missing) + len(missing) > self.settings.max_missing:
            # What depends on this message keeps waiting: it stays missing, and will be requested.
            self._outputs.append(Discarded(name, "missing_full"))
            return
        freed = self.incoming.arrived(message)
        if freed:
            self._deliver_all(freed)
            needs, missing = self.incoming.needs(message, self.log)
        if not needs:
            self._deliver_all([Waiting(message, raw, hint, body, needs)])
            return
        self._note_missing(missing, now)
        self.incoming.add(Waiting(message, raw, hint, body, needs))
        self._bloom.add(name)
        self.changes.store(
            SdsStoredMessage(name, message.order, message.sender_id, hint, SdsState.WAITING, raw)
        )
        while (
            len(self.incoming.waiting) > self.settings.max_waiting
            or self.incoming.bytes > self.settings.max_waiting_bytes
        ):
            self._evict(self.incoming.highest().message)

    def _evict(self, message: SdsMessage) -> None:
        """Drop a waiting message to make room. It is requested again once something refers to it."""
        name = message.message_id
        self.incoming.evict(name)
        self._bloom.discard(name)
        self.changes.remove(name)
        self._outputs.append(Discarded(name, "waiting_full"))

    def _deliver_all(self, ready: list[Waiting]) -> None:
        cascade = Cascade(ready)
        while (waiting := cascade.pop()) is not None:
            self._deliver(waiting)
            cascade.push(self.incoming.settle(waiting.message.message_id))

    def _deliver(self, waiting: Waiting) -> None:
        message, name = waiting.message, waiting.message.message_id
        own = message.sender_id == self.sender_id
        if not waiting.waited:
            self._bloom.add(name)
        self.changes.store(
            SdsStoredMessage(
                name,
                message.order,
                message.sender_id,
                waiting.hint,
                SdsState.DONE if own else SdsState.HELD,
                waiting.raw,
            )
        )
        self.log.insert(message, waiting.raw, waiting.hint, self.changes)
        if own:
            # Ours from before our state was lost: it belongs to the log, but the app sent it itself.
            self._outputs.append(Discarded(name, "own"))
        else:
            self._outputs.append(Deliver(message, waiting.body))

    def _sync_received(self, message: SdsMessage, now: float) -> None:
        self._clock.observe(message.order)
        self.log.note_sync(message.message_id)
        self._deliver_all(self.incoming.settle(message.message_id))
        # The sender of a sync message has what it refers to, so even messages dropped here can be recovered.
        _, missing = self.incoming.needs(message, self.log)
        missing += [entry for entry in message.causal_history if self.log.given_up(entry.message_id)]
        room = self.settings.max_missing - len(self.incoming.missing)
        self._note_missing(missing[: max(0, room)], now)

    def _note_missing(self, entries: list[HistoryEntry], now: float) -> None:
        for entry in entries:
            name = entry.message_id
            known = self.incoming.missing.get(name)
            if known is not None:
                if entry.hint and not known.entry.hint:
                    known.entry = entry
                continue
            delay = self._times.request_delay(name, 0)
            soon = now + self.settings.retrieve_after * self._random.uniform(0.5, 1.5)
            self.incoming.missing[name] = Missing(entry, now, now + delay, soon)

    def _review(self, message: SdsMessage, now: float) -> None:
        """Take from a message what its sender has and what it lacks."""
        named = {entry.message_id for entry in message.causal_history}
        if self.outgoing.pending:
            bloom = decode_bloom(message.form, message.bloom) if message.bloom else None
            for name in self.outgoing.review(message.sender_id, named, bloom):
                self._outputs.append(Acknowledged(name, message.sender_id))
        if self._acknowledges_heads(message.sender_id, named):
            self._sync.said_by_another(now)
        for entry in message.repair_requests:
            self._requested(entry, now)

    def _acknowledges_heads(self, sender_id: str, named: set[str]) -> bool:
        """Return whether the message acknowledges all our heads, none of which its sender wrote."""
        records = self.log.records
        return named.issuperset(self.log.heads) and all(
            records[name].sender_id != sender_id for name in self.log.heads
        )

    def _requested(self, entry: HistoryEntry, now: float) -> None:
        name, settings = entry.message_id, self.settings
        missing = self.incoming.missing.get(name)
        if missing is not None:
            # SDS-R: another participant has requested it already; we request it only if that fails.
            missing.request_at = max(missing.request_at, now + self._times.request_delay(name, 0))
        waiting, record = self.incoming.waiting.get(name), self.log.records.get(name)
        if waiting is not None:
            sender = waiting.message.sender_id
        elif record is not None:
            sender = record.sender_id
        else:
            return
        if not self._times.responsible(name, entry.sender_id or sender):
            return
        at = now + self._times.response_delay(name, sender)
        self._responses.plan(name, at, now, settings.response_gap, settings.max_responses)

    # --- time -----------------------------------------------------------------------------------------------

    def tick(self, now: float, now_ns: int) -> None:
        """Do what is due. Call when `next_time` has come; calling earlier does no harm."""
        again, ended = self.outgoing.due(now)
        self._outputs += [Send(name, self._raw(name), SendKind.AGAIN) for name in again]
        self._outputs += [GaveUp(name) for name in ended]
        for name in self._responses.take(now, self.settings.response_gap):
            if name in self.log.records or name in self.incoming.waiting:
                self._outputs.append(Send(name, self._raw(name), SendKind.REPAIR))
        self._declare_lost(now)
        self._retrieve(now)
        waits = any(missing.request_at <= now for missing in self.incoming.missing.values())
        if self._sync.due(now, waits):
            self._send_sync(now, now_ns)

    def next_time(self) -> float | None:
        """Return when `tick` is due next; None for never. Call it at most about once a second."""
        times = [*self.outgoing.times(), *self._responses.due.values()]
        speak = self._sync.earliest
        for missing in self.incoming.missing.values():
            times += (max(missing.request_at, speak), missing.since + self.settings.lost_after)
            if missing.entry.hint:
                times.append(missing.retrieve_at)
        if self._sync.at is not None:
            times.append(max(self._sync.at, speak))
        return min(times, default=None)

    def _raw(self, name: str) -> bytes | None:
        pending, waiting = self.outgoing.pending.get(name), self.incoming.waiting.get(name)
        if pending is not None and pending.raw is not None:
            return pending.raw
        if waiting is not None:
            return waiting.raw
        record = self.log.records.get(name)
        return None if record is None else record.raw

    def _send_sync(self, now: float, now_ns: int) -> None:
        name = self._new_id(b"", now_ns)
        message = self._message(name, b"", now, now_ns)
        self._sync.sent(now)
        if not message.causal_history and not message.repair_requests:
            return
        self.log.note_sync(name)
        self._outputs.append(Send(name, self._seal(encode_sds(message)), SendKind.SYNC))

    def _declare_lost(self, now: float) -> None:
        after = self.settings.lost_after
        lost = [missing.entry for missing in self.incoming.missing.values() if now - missing.since >= after]
        if not lost:
            return
        if fresh := tuple(entry for entry in lost if not self.log.given_up(entry.message_id)):
            self._outputs.append(Lost(fresh))
        ready: list[Waiting] = []
        for entry in lost:
            self.log.declare_lost(entry.message_id, self.changes)
            ready += self.incoming.settle(entry.message_id)
        self._deliver_all(ready)

    def _retrieve(self, now: float) -> None:
        entries = []
        for missing in self.incoming.missing.values():
            if missing.entry.hint and missing.retrieve_at <= now:
                wait = min(10.0 * 2 ** min(missing.retrievals, 10), self.settings.retrieve_max)
                missing.retrievals += 1
                missing.retrieve_at = now + wait
                entries.append(missing.entry)
        if entries:
            self._outputs.append(Retrieve(tuple(entries)))

    # --- restart --------------------------------------------------------------------------------------------

    def restore(
        self, meta: Meta, rows: Iterable[SdsStoredMessage], pending: Iterable[str], now: float
    ) -> None:
        """Take the stored state; then `receive` the waiting messages again. All times begin afresh.

        `pending` are own messages whose acknowledgement is still wanted: they are retransmitted soon."""
        rows = sorted(rows, key=lambda row: (row.order, row.message_id))
        self._clock.value = meta.clock
        self.log.restore(rows, meta.floor, meta.heads)
        self._bloom.fill(row.message_id for row in rows if row.state is not SdsState.LOST)
        for name in pending:
            if name in self.log:
                self.outgoing.add(name, self._raw(name) or b"", now + self._random.uniform(1.0, 5.0))
        if rows:
            self._sync.news(now)

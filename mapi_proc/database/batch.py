"""A batch: the changes of one input (kernel event, app request, publish result), committed as one
transaction.

A batch is filled on the event loop and executed on the writer thread, so it holds plain tuples and nothing
that belongs to either. Its operations run in the fixed order of `mapi_proc.database.statements`, whatever
the order of the calls: apps forgotten, created, renewed; payloads; journal; acks and drops; positions;
hashes; outbox; channels; then all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import Final, Protocol

from mapi_proc.database.channels import ChannelRows
from mapi_proc.database.journal import JournalRow
from mapi_proc.database.records import AppRecord, KernelPosition, OutboxEntry, OutboxState, Row

NOTE_PREFIX: Final = "note:"

_ROW_OVERHEAD: Final = 64


class CommitListener(Protocol):
    """A stream that is notified of its commits."""

    def committed(self, seq: int) -> None:
        """Record that everything up to `seq` is on disk. Called on the event loop, in order of the
        batches."""


class Batch:
    """Changes that are stored all together or not at all. Created by `Database.batch()`.

    `durable`: the commit is fsynced and survives a host crash, not only a process crash.
    `cost`: approximate bytes that it occupies in the writer's queue.
    """

    __slots__ = (
        "_open_rows",
        "_payload_ids",
        "acks",
        "apps_created",
        "apps_forgotten",
        "channels",
        "cost",
        "delivered_added",
        "drops",
        "durable",
        "hashes_added",
        "journal_rows",
        "listeners",
        "outbox_added",
        "outbox_changed",
        "outbox_finished",
        "outbox_propagated",
        "payloads",
        "positions",
        "refused_sends",
        "rows",
        "streams_renewed",
    )

    def __init__(self, payload_ids: count[int], *, durable: bool = False) -> None:
        self._payload_ids = payload_ids
        self.durable = durable
        self.cost = 0
        self.listeners: dict[CommitListener, int] = {}
        self.apps_forgotten: list[Row] = []
        self.apps_created: list[Row] = []
        self.streams_renewed: list[tuple[int, bytes, bytes]] = []
        self.payloads: list[Row] = []
        self.journal_rows: list[JournalRow] = []
        self._open_rows: dict[int, JournalRow] = {}
        """The last row of each app."""
        self.acks: dict[int, int] = {}
        self.drops: dict[int, tuple[int, int, str]] = {}
        self.positions: dict[str, KernelPosition] = {}
        self.hashes_added: list[Row] = []
        self.delivered_added: list[Row] = []
        self.outbox_added: list[OutboxEntry] = []
        self.refused_sends: frozenset[int] = frozenset()
        """After the commit: entries that were left out, since their request id existed."""
        self.outbox_changed: list[Row] = []
        self.outbox_propagated: list[Row] = []
        self.outbox_finished: list[Row] = []
        self.channels: list[ChannelRows] = []
        self.rows: dict[str, list[Row]] = {}
        """Of all other changes, by the name of their statement (`statements`)."""

    @property
    def empty(self) -> bool:
        """True when there is nothing to store."""
        return self.cost == 0

    def _add(self, statement: str, row: Row, size: int = 0) -> None:
        self.rows.setdefault(statement, []).append(row)
        self.cost += _ROW_OVERHEAD + size

    # --- apps -----------------------------------------------------------------------------------------------

    def create_app(self, app: AppRecord) -> None:
        """Add a named app. An existing name is refused (`BatchRefusedError`)."""
        self.apps_created.append(tuple(app))
        self.cost += _ROW_OVERHEAD

    def app_seen(self, app_id: int, time: int) -> None:
        """Record that the app was connected at `time`; its absence counts from then."""
        self._add("app_seen", (time, app_id))

    def renew_stream(self, app_id: int, old: bytes, new: bytes) -> None:
        """Give the app's stream another id, its journal and its sends included."""
        self.streams_renewed.append((app_id, old, new))
        self.cost += _ROW_OVERHEAD

    def forget_app(self, app_id: int) -> None:
        """Remove the app, its subscriptions and its stream. Its accepted sends stay: they were promised."""
        self.apps_forgotten.append((app_id,))
        self.cost += _ROW_OVERHEAD

    def subscribe(self, app_id: int, topics: Iterable[str]) -> None:
        """Add subscriptions; existing ones stay."""
        for topic in topics:
            self._add("subscribe", (app_id, topic), len(topic))

    def unsubscribe(self, app_id: int, topics: Iterable[str]) -> None:
        """Remove subscriptions. A batch must not both add and remove the same one."""
        for topic in topics:
            self._add("unsubscribe", (app_id, topic), len(topic))

    # --- app streams (called by `mapi_proc.streams`) --------------------------------------------------------

    def share_payload(self, payload: bytes) -> int:
        """Store a payload once for several apps. Pass the returned id to each `journal`."""
        payload_id = next(self._payload_ids)
        self.payloads.append((payload_id, payload))
        self.cost += len(payload) + _ROW_OVERHEAD
        return payload_id

    def journal(
        self, app_id: int, seq: int, time: int, header: bytes, payload: bytes, payload_id: int = 0
    ) -> None:
        """Append an event (header, payload) to an app's stream. With a `payload_id`, only the header is
        stored here.
        """
        row = None if payload_id else self._open_rows.get(app_id)
        if row is None or not row.add(seq, time, header, payload):
            row = self._open_rows[app_id] = JournalRow(app_id, seq, time, header, payload, payload_id)
            self.journal_rows.append(row)
        self.cost += len(header) + _ROW_OVERHEAD + (0 if payload_id else len(payload))

    def ack(self, app_id: int, seq: int) -> None:
        """Move the app's position to `seq` and remove the events up to it."""
        self.acks[app_id] = seq
        self.cost += _ROW_OVERHEAD

    def drop(self, app_id: int, seq: int, time: int, reason: str) -> None:
        """Record that the stream's bounds removed everything up to `seq`."""
        self.drops[app_id] = (seq, time, reason)
        self.cost += _ROW_OVERHEAD

    # --- kernel streams and de-duplication ------------------------------------------------------------------

    def position(self, position: KernelPosition) -> None:
        """Store how far a kernel stream has been processed. The last call in a batch wins."""
        self.positions[position.stream] = position
        self.cost += _ROW_OVERHEAD

    def remember(self, shard: int, time: int, hashes: bytes) -> None:
        """Remember message hashes (n × 32 bytes, concatenated: one row for all that a turn brought)."""
        self.hashes_added.append((shard, time, hashes))
        self.cost += len(hashes) + _ROW_OVERHEAD

    def clamp_hashes(self, shard: int, now: int) -> None:
        """After the clock was set back, treat hashes with a later time as seen now."""
        self._add("clamp_hashes", (now, shard, now))

    def evict_hashes(self, shard: int, before: int) -> None:
        """Forget the shard's hashes that were seen before this time."""
        self._add("evict_hashes", (shard, before))

    # --- history ------------------------------------------------------------------------------------------

    def delivered(self, app_id: int, time: int, hashes: bytes) -> None:
        """Remember the hashes delivered to an app (n × 32 bytes, concatenated)."""
        self.delivered_added.append((app_id, time, hashes))
        self.cost += len(hashes) + _ROW_OVERHEAD

    def evict_delivered(self, before: int) -> None:
        """Forget the deliveries before this time."""
        self._add("evict_delivered", (before,))

    def left(self, app_id: int, topics: Iterable[str], time: int) -> None:
        """Record that the app left these topics at `time`; it may later ask for their history from then
        on."""
        for topic in topics:
            self._add("left", (app_id, topic, time), len(topic))

    def want_history(self, app_id: int, topic: str, start: int, end: int) -> None:
        """Store a history job: the topic's messages of this time span, until `end_history`.

        Several spans of one topic are merged into one from the earliest start to the latest end.
        """
        self._add("want_history", (app_id, topic, start, end), len(topic))

    def end_history(self, app_id: int, topic: str) -> None:
        """Remove a history job that is done or no longer wanted."""
        self._add("end_history", (app_id, topic))

    # --- outbox ---------------------------------------------------------------------------------------------

    def put_send(self, entry: OutboxEntry) -> None:
        """Add an accepted send to the outbox.

        If (scope, request id) exists, the entry alone is left out: see `refused_sends`.
        """
        self.outbox_added.append(entry)
        self.cost += _ROW_OVERHEAD * 2 + len(entry.payload) + len(entry.meta) + len(entry.content_topic)

    def change_send(
        self,
        entry_id: int,
        state: OutboxState,
        *,
        attempts: int,
        timestamp: int,
        message_hash: bytes,
        first_attempt: int,
        propagated: int,
    ) -> None:
        """Store the state of an unfinished send."""
        row = (int(state), attempts, timestamp, message_hash, first_attempt, propagated, entry_id)
        self.outbox_changed.append(row)
        self.cost += _ROW_OVERHEAD * 2

    def propagate_send(self, entry_id: int) -> None:
        """Store that a send propagated with its first attempt: nothing else of its row changes."""
        self.outbox_propagated.append((entry_id,))
        self.cost += _ROW_OVERHEAD

    def finish_send(
        self, entry_id: int, state: OutboxState, time: int, detail: str = "", attempts: int = 0
    ) -> None:
        """Store the final state and remove the payload; the request id stays. The first final state wins."""
        self.outbox_finished.append((int(state), time, detail, attempts, entry_id))
        self.cost += _ROW_OVERHEAD + len(detail)

    def evict_requests(self, before: int) -> None:
        """Forget finished sends accepted before this time (request ids are kept for 24 h)."""
        self._add("evict_requests", (before,))

    # --- channels -------------------------------------------------------------------------------------------

    def channel(self, rows: ChannelRows) -> None:
        """Store the changes that one input made to a channel."""
        self.channels.append(rows)
        self.cost += rows.cost

    # --- small things ---------------------------------------------------------------------------------------

    def note(self, key: str, value: bytes) -> None:
        """Store a small named value, such as a rate limiter's count. Read back as `Snapshot.notes`."""
        self._add("note", (NOTE_PREFIX + key, value), len(value))


OnCommitted = Callable[[], None]
OnFailed = Callable[[Exception], None]

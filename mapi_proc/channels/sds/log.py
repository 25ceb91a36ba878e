"""The delivered messages of a channel: ids known, messages kept for repair, and the newest ones.

Everything here is kept by (Lamport time, id), the order of the log that all participants share, and forgotten
from its low end. The `floor` is the last one forgotten: what is at or below it counts as known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

from mapi_proc.channels.sds.message import HistoryEntry, SdsMessage, entry_size
from mapi_proc.channels.sds.settings import SdsSettings
from mapi_proc.channels.sds.state import Changes, SdsState, SdsStoredMessage

_MAX_ASIDE = 2_000
"""Ids of lost and of sync messages that are remembered."""


@dataclass(slots=True)
class Record:
    """A message kept for repair. `raw` is None when its bytes are on disk only."""

    order: int
    sender_id: str
    hint: bytes
    raw: bytes | None


class Log:
    """See the module."""

    def __init__(self, settings: SdsSettings) -> None:
        self._settings = settings
        self._known: dict[str, int] = {}
        self._by_age: list[tuple[int, str]] = []
        self._lost: OrderedDict[str, None] = OrderedDict()
        self._syncs: OrderedDict[str, None] = OrderedDict()
        self.raw_bytes = 0
        self._raw_order: OrderedDict[str, int] = OrderedDict()
        self.records: OrderedDict[str, Record] = OrderedDict()
        self.heads: dict[str, None] = {}
        self.floor: tuple[int, str] = (0, "")

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._known

    def settled(self, message_id: str) -> bool:
        """Return whether dependents need not wait for the message: delivered, lost, or without content."""
        return message_id in self._known or message_id in self._lost or message_id in self._syncs

    def given_up(self, message_id: str) -> bool:
        """Return whether the message was declared lost, and has not arrived since."""
        return message_id in self._lost

    def forgotten(self, key: tuple[int, str]) -> bool:
        """Return whether a place in the log is at or below the floor."""
        return key <= self.floor

    def ordered(self) -> list[tuple[int, str]]:
        """Return the keys of all remembered messages, in the log's order."""
        return sorted((order, name) for name, order in self._known.items())

    def causal_history(self) -> tuple[HistoryEntry, ...]:
        """Return the references for a new message, oldest first: the newest delivered messages, and every
        message that no other refers to. Without the latter, a message that only its sender has could stay
        unknown for ever."""
        records, settings, room = self.records, self._settings, self._settings.max_references
        newest: list[str] = []
        for name in reversed(records):
            if len(newest) >= settings.causal_history:
                break
            newest.append(name)
        entries: dict[str, HistoryEntry] = {}
        for name in (*list(self.heads)[: settings.max_heads], *newest):
            if name in records and name not in entries:
                entry = HistoryEntry(name, records[name].hint, records[name].sender_id)
                room -= entry_size(entry)
                if room < 0:
                    break
                entries[name] = entry
        if not entries.keys() >= self.heads.keys():
            for name in [name for name in self.heads if name in entries]:  # the next refers to the others
                del self.heads[name]
                self.heads[name] = None
        return tuple(sorted(entries.values(), key=lambda entry: (records[entry.message_id].order, entry[0])))

    def insert(self, message: SdsMessage, raw: bytes, hint: bytes, changes: Changes) -> None:
        """Add a delivered message."""
        name = message.message_id
        # What this message refers to is not a head any more; the next message will refer to this one.
        for entry in message.causal_history:
            self.heads.pop(entry.message_id, None)
        self.heads[name] = None
        self._lost.pop(name, None)
        self._remember(name, message.order)
        self._keep(name, Record(message.order, message.sender_id, hint, raw), changes)
        self._forget(changes)

    def restore(self, rows: Iterable[SdsStoredMessage], floor: tuple[int, str], heads: Iterable[str]) -> None:
        """Take stored rows of messages delivered or lost, in the log's order."""
        nothing = Changes()  # bounds that are tighter now take effect with the next message
        for row in rows:
            if row.state is SdsState.LOST:
                self._lost[row.message_id] = None
                continue
            self._remember(row.message_id, row.order)
            if row.raw is not None:
                record = Record(row.order, row.sender_id, row.hint, row.raw or None)
                self._keep(row.message_id, record, nothing)
        self.floor = floor
        self.heads = {name: None for name in heads if name in self.records}

    def declare_lost(self, message_id: str, changes: Changes) -> None:
        """Declare a message lost: nothing waits for it any more."""
        changes.store(SdsStoredMessage(message_id, 0, "", b"", SdsState.LOST, None))
        _remember_aside(self._lost, message_id, changes)

    def note_sync(self, message_id: str) -> None:
        """Remember a sync message: nim-sds puts them into its history, so later messages may refer to it."""
        _remember_aside(self._syncs, message_id)

    def set_hint(self, message_id: str, hint: bytes, changes: Changes) -> None:
        """Set the hash under which stores have the message, unless one is known."""
        record = self.records.get(message_id)
        if record is not None and not record.hint:
            record.hint = hint
            changes.hints[message_id] = hint

    def _remember(self, name: str, order: int) -> None:
        self._known[name] = order
        heappush(self._by_age, (order, name))

    def _keep(self, name: str, record: Record, changes: Changes) -> None:
        self.records[name] = record
        if record.raw is not None:
            self._raw_order[name] = len(record.raw)
            self.raw_bytes += len(record.raw)
        while self.raw_bytes > self._settings.max_history_bytes:
            oldest, size = self._raw_order.popitem(last=False)
            self.raw_bytes -= size
            self.records[oldest].raw = None
        while len(self.records) > self._settings.max_history:
            oldest, _ = self.records.popitem(last=False)
            self._drop_raw(oldest)
            self.heads.pop(oldest, None)
            changes.stripped.add(oldest)

    def _drop_raw(self, name: str) -> None:
        self.raw_bytes -= self._raw_order.pop(name, 0)

    def _forget(self, changes: Changes) -> None:
        while len(self._known) > self._settings.max_known:
            self.floor = heappop(self._by_age)
            name = self.floor[1]
            del self._known[name]
            self.heads.pop(name, None)
            if self.records.pop(name, None) is not None:
                self._drop_raw(name)
            changes.remove(name)


def _remember_aside(ids: OrderedDict[str, None], name: str, changes: Changes | None = None) -> None:
    ids[name] = None
    if len(ids) > _MAX_ASIDE:
        oldest, _ = ids.popitem(last=False)
        if changes is not None:
            changes.remove(oldest)

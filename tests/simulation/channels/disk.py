"""What a participant's disk holds: the changes of a channel applied as a database would."""

from __future__ import annotations

from dataclasses import dataclass, field

from mapi_proc.channels.events import ChannelChanges, EndedRequest, StoredChannel, StoredRequest
from mapi_proc.channels.sds.state import Changes, Meta, SdsState, SdsStoredMessage
from mapi_proc.channels.segmentation.join import SetKey, Slot


@dataclass
class Disk:
    """Rows by message id, pending requests, and the channel's single values."""

    meta: Meta = field(default_factory=Meta)
    rows: dict[str, SdsStoredMessage] = field(default_factory=dict)
    requests: dict[bytes, StoredRequest] = field(default_factory=dict)
    leftovers: dict[SetKey, frozenset[Slot]] = field(default_factory=dict)

    def has(self, message_id: str) -> bool:
        return message_id in self.rows

    def raw(self, message_id: str) -> bytes | None:
        return self.rows[message_id].raw

    def load(self) -> StoredChannel:
        return StoredChannel(
            self.meta, list(self.rows.values()), list(self.requests.values()), dict(self.leftovers)
        )

    def apply(self, changes: ChannelChanges) -> None:
        self.apply_messages(changes.messages)
        for name, request in changes.requests.items():
            if isinstance(request, EndedRequest):
                self.requests.pop(name, None)
            else:
                self.requests[name] = request
        for key, slots in changes.leftovers.items():
            if slots is None:
                self.leftovers.pop(key, None)
            else:
                self.leftovers[key] = slots

    def apply_messages(self, changes: Changes) -> None:
        self.rows.update(changes.put)
        for name, state in changes.states.items():
            if name in self.rows:
                self.rows[name] = self.rows[name]._replace(state=state)
        for name, hint in changes.hints.items():
            if name in self.rows:
                self.rows[name] = self.rows[name]._replace(hint=hint)
        for name in changes.stripped:
            if name in self.rows and self.rows[name].state not in (SdsState.HELD, SdsState.OPENED):
                self.rows[name] = self.rows[name]._replace(raw=None)
        for name in changes.removed:
            self.rows.pop(name, None)
        if changes.meta is not None:
            self.meta = changes.meta

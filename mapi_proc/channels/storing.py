"""A channel's changes as rows of the database, and back."""

from __future__ import annotations

from typing import Any

from msgpack import packb, unpackb

from mapi_proc.channels.events import ChannelChanges, EndedRequest, StoredChannel, StoredRequest
from mapi_proc.channels.sds.state import Changes, Meta, SdsState, SdsStoredMessage
from mapi_proc.database.channels import ChannelContents, ChannelRecord, ChannelRows
from mapi_proc.database.records import DamagedError


def channel_rows(number: int, changes: ChannelChanges, now_ns: int) -> ChannelRows | None:
    """Return the rows of a channel's changes; None if there are none. `now_ns` dates the ends of sends."""
    messages = changes.messages
    if messages == Changes() and not changes.requests and not changes.leftovers:
        return None
    rows = ChannelRows(
        number,
        messages=[
            (row.message_id, row.order, row.sender_id, row.hint, int(row.state), row.raw)
            for row in messages.put.values()
        ],
        states=[(int(state), name) for name, state in messages.states.items()],
        hints=[(hint, name) for name, hint in messages.hints.items()],
        stripped=sorted(messages.stripped),
        removed=sorted(messages.removed),
        state=None if messages.meta is None else packb(messages.meta),
    )
    for request_id, request in changes.requests.items():
        if isinstance(request, EndedRequest):
            rows.requests_ended.append((now_ns, int(request.sent), request.end, request.detail, request_id))
        else:
            packed = packb(request.segments)
            flags = (int(request.ephemeral), int(request.sent))
            rows.requests.append((request_id, packed, request.needed, *flags, request.fingerprint))
    for (sender_id, payload_hash, length), slots in changes.leftovers.items():
        if slots is None:
            rows.leftovers_ended.append((sender_id, payload_hash, length))
        else:
            rows.leftovers.append((sender_id, payload_hash, length, packb(sorted(slots))))
    return rows


def stored_channel(record: ChannelRecord, contents: ChannelContents) -> StoredChannel:
    """Restore a channel's state from its rows. Raises `DamagedError`."""
    try:
        return StoredChannel(
            _meta(record.state),
            [
                SdsStoredMessage(name, time, sender, hint, SdsState(state), raw)
                for name, time, sender, hint, state, raw in contents.messages
            ],
            [
                StoredRequest(name, tuple(map(str, unpackb(segments))), needed, bool(flag), bool(sent), mark)
                for name, segments, needed, flag, sent, mark in contents.requests
            ],
            {
                (sender, payload_hash, length): frozenset(
                    (bool(parity), int(position)) for parity, position in unpackb(slots)
                )
                for sender, payload_hash, length, slots in contents.leftovers
            },
        )
    except (ValueError, TypeError) as error:
        raise DamagedError(f"channel {record.channel}: {error}") from error


def _meta(packed: bytes) -> Meta:
    if not packed:
        return Meta()
    value: Any = unpackb(packed)
    clock, (order, name), heads = value
    return Meta(int(clock), (int(order), str(name)), tuple(map(str, heads)))

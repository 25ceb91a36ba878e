"""A channel's outputs as events of the app's stream."""

from __future__ import annotations

from ipc_schema.mapi.event_codec import pack_fields
from ipc_schema.mapi.events import AppEventKind
from mapi_proc.channels.events import (
    ChannelOutput,
    Delivered,
    DeliveryError,
    MessageLost,
    Received,
    SealedSegment,
    SendError,
    Sent,
    SyncStatus,
)


def app_event(channel_id: str, output: ChannelOutput) -> tuple[AppEventKind, bytes, bytes]:
    """Return kind, packed fields and payload. Raises TypeError for an output that is not an event."""
    match output:
        case Received(sender_id, message_id, payload, lamport):
            fields = pack_fields(channel_id, sender_id, message_id, lamport)
            return AppEventKind.CHANNEL_MESSAGE_RECEIVED, fields, payload
        case SealedSegment(sender_id, message_id, content):
            fields = pack_fields(channel_id, sender_id, message_id)
            return AppEventKind.CHANNEL_SEGMENT_RECEIVED, fields, content
        case Sent(request_id):
            return AppEventKind.CHANNEL_MESSAGE_SENT, pack_fields(channel_id, request_id), b""
        case Delivered(request_id, by):
            return AppEventKind.CHANNEL_MESSAGE_DELIVERED, pack_fields(channel_id, request_id, by), b""
        case SendError(request_id, error):
            return AppEventKind.CHANNEL_MESSAGE_ERROR, pack_fields(channel_id, request_id, error), b""
        case DeliveryError(request_id, error):
            return AppEventKind.CHANNEL_DELIVERY_ERROR, pack_fields(channel_id, request_id, error), b""
        case MessageLost(payload_hash, message_ids, reason):
            fields = pack_fields(channel_id, payload_hash, message_ids, reason)
            return AppEventKind.CHANNEL_MESSAGE_LOST, fields, b""
        case SyncStatus(missing):
            state = "syncing" if missing else "synced"
            return AppEventKind.CHANNEL_SYNC, pack_fields(channel_id, state, missing), b""
    raise TypeError(f"{type(output).__name__} is not an event of an app")

"""Values for the database's tests."""

from __future__ import annotations

from mapi_proc.database import AppRecord, OutboxEntry

STREAM = b"s" * 16


def app_record(app_id: int = 1, name: str = "app", stream_id: bytes = STREAM) -> AppRecord:
    return AppRecord(app_id, name, uid=1000, stream_id=stream_id, created=10, last_seen=20)


def send_entry(entry_id: int = 1, request_id: bytes = b"r" * 16, payload: bytes = b"hello") -> OutboxEntry:
    return OutboxEntry(
        entry_id,
        scope=STREAM,
        request_id=request_id,
        fingerprint=b"f" * 32,
        content_topic="/app/1/chat/proto",
        payload=payload,
        meta=b"m",
        ephemeral=False,
        accepted=1_000,
    )

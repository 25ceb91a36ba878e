"""store.status, store.sync, store.verify, store.import."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.store import blob_messages
from ipc_schema.kernel.store_admin import (
    MAX_IMPORT,
    STORE_IMPORT,
    STORE_STATUS,
    STORE_SYNC,
    STORE_VERIFY,
    StoreGapRecord,
    StoreImportReply,
    StoreRefusal,
    StoreResumeRecord,
    StoreSessionRecord,
    StoreStatusReply,
    StoreSyncRecord,
    StoreSyncRequest,
    StoreTopicRecord,
    StoreVerifyReply,
    StoreVerifyRequest,
)
from ipc_schema.message import (
    MessageDecodeError,
    MessageEncodeError,
    WakuMessage,
    encode_message,
    message_hash,
)
from ipc_schema.server import Answer, Call, Route
from ipc_schema.topics import PubsubTopic, TopicError
from kernel_proc.archive.api import (
    ArchivedMessage,
    ArchiveState,
    ArchiveUnavailable,
    HistoryQuery,
    TopicSpan,
)
from kernel_proc.archive.service import MessageArchive
from kernel_proc.ipc.methods.store import archive_errors, own_archive
from kernel_proc.p2p.api import PeerIdText
from kernel_proc.protocols.resume import StoreResume
from kernel_proc.protocols.sync.service import StoreSync, SyncOutcome

PAGE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnStore:
    """The node's own archive and what completes it; `archive` None: store is off.

    `is_signed`: whether a message is signed as its shard demands.
    """

    archive: MessageArchive | None
    sync: StoreSync | None
    resume: StoreResume | None
    peer_id: PeerIdText
    database: str
    retention: str
    cluster: int
    max_message_size: int
    is_signed: Callable[[str, WakuMessage], bool]


def store_admin_routes(store: OwnStore) -> Mapping[str, Route]:
    """Return the methods about the node's own archive."""

    async def status(_call: Call) -> Answer:
        archive = own_archive(store.archive)
        with archive_errors(STORE_STATUS):
            try:
                spans = await archive.spans()
            except ArchiveUnavailable:
                if archive.state is not ArchiveState.STALLED:
                    raise
                spans = []  # the reason, and what waits, can still be reported
        return _status(store, archive, spans).to_body(), ()

    async def sync(call: Call) -> Answer:
        request = call.read(StoreSyncRequest)
        own_archive(store.archive)
        if store.sync is None:
            raise IpcError(ErrorCode.NOT_READY, "store-sync is off on this node", retriable=False)
        return _session(await store.sync.sync(request.peer, call.answer_by)).to_body(), ()

    async def verify(call: Call) -> Answer:
        request = call.read(StoreVerifyRequest)
        with archive_errors(STORE_VERIFY):
            reply = await _verify(own_archive(store.archive), request)
        return reply.to_body(), ()

    async def take(call: Call) -> Answer:
        archive = own_archive(store.archive)
        messages = blob_messages(STORE_IMPORT, call.blobs)
        if len(messages) > MAX_IMPORT:
            raise IpcError(ErrorCode.BAD_REQUEST, f"{STORE_IMPORT}: at most {MAX_IMPORT} messages")
        with archive_errors(STORE_IMPORT):
            reply = await _import(store, archive, messages)
        return reply.to_body(), ()

    return {
        STORE_STATUS: Route(status),
        STORE_SYNC: Route(sync),
        STORE_VERIFY: Route(verify),
        STORE_IMPORT: Route(take),
    }


# --- status -----------------------------------------------------------------------------------------------


def _status(store: OwnStore, archive: MessageArchive, spans: Iterable[TopicSpan]) -> StoreStatusReply:
    topics = tuple(
        StoreTopicRecord(
            pubsub_topic=span.pubsub_topic, messages=span.messages, oldest=span.oldest, newest=span.newest
        )
        for span in spans
    )
    values = {name: value for name, labels, value in archive.samples() if not labels}
    size = values.get("archive_size_bytes")
    backlog = archive.backlog()
    lag = backlog.replica_lag
    return StoreStatusReply(
        state=str(archive.state),
        reason=archive.reason,
        database=store.database,
        peer_id=store.peer_id,
        messages=sum(topic.messages for topic in topics),
        bytes=None if size is None else int(size),
        waiting=backlog.messages,
        retention=store.retention,
        topics=topics,
        sync=None if store.sync is None else _sync(store.sync),
        resume=None if store.resume is None else _resume(store.resume),
        spooled=backlog.on_disk,
        spooled_bytes=backlog.disk_bytes,
        away_ms=int(backlog.away_seconds * 1000),
        replica_lag_ms=None if lag is None else int(lag * 1000),
    )


def _sync(sync: StoreSync) -> StoreSyncRecord:
    window = sync.stock.window()
    return StoreSyncRecord(
        ready=sync.stock.ready,
        messages=len(sync.stock),
        start=window.start,
        end=window.end,
        peers=len(sync.partners()),
        sessions=sync.sessions,
        last=None if sync.last is None else _session(sync.last),
    )


def _session(outcome: SyncOutcome) -> StoreSessionRecord:
    return StoreSessionRecord(
        peer=outcome.peer_id,
        at_ms=outcome.at // 1_000_000,
        took_ms=int(outcome.seconds * 1000),
        round_trips=outcome.round_trips,
        missing=outcome.missing,
        received=outcome.received,
        to_send=outcome.to_send,
        sent=outcome.sent,
        complete=not outcome.cut_short,
        error=outcome.error,
    )


def _resume(resume: StoreResume) -> StoreResumeRecord:
    return StoreResumeRecord(
        state=str(resume.state),
        added=resume.added,
        gaps=tuple(
            StoreGapRecord(pubsub_topic=gap.pubsub_topic, start=gap.start, done=gap.done)
            for gap in resume.gaps
        ),
        error=resume.error,
    )


# --- verify -----------------------------------------------------------------------------------------------


async def _verify(archive: MessageArchive, request: StoreVerifyRequest) -> StoreVerifyReply:
    checked, bad, cursor = 0, list[bytes](), request.cursor
    while checked < request.limit:
        page = await archive.query(
            HistoryQuery(
                pubsub_topic=request.pubsub_topic,
                cursor=cursor,
                forward=True,
                limit=min(PAGE, request.limit - checked),
                include_data=True,
            )
        )
        bad += await trio.to_thread.run_sync(partial(_wrong, page.messages))
        checked += len(page.messages)
        cursor = page.cursor
        if cursor is None:
            break
    return StoreVerifyReply(checked=checked, bad=tuple(bad), cursor=cursor)


def _wrong(messages: Iterable[ArchivedMessage]) -> list[bytes]:
    """Return the hashes that are not those of their messages."""
    found = []
    for one in messages:
        try:
            message = one.message
        except MessageDecodeError:
            message = None
        if message is None or message_hash(one.pubsub_topic or "", message) != one.message_hash:
            found.append(one.message_hash)
    return found


# --- import -----------------------------------------------------------------------------------------------


async def _import(
    store: OwnStore, archive: MessageArchive, messages: list[tuple[str, WakuMessage]]
) -> StoreImportReply:
    refused: list[StoreRefusal] = []
    wanted: dict[bytes, tuple[str, WakuMessage]] = {}
    repeated = 0
    for number, (topic, message) in enumerate(messages):
        reason = _reason_against(store, topic, message)
        if reason is not None:
            refused.append(StoreRefusal(number=number, reason=reason))
            continue
        digest = message_hash(topic, message)
        repeated += digest in wanted
        wanted[digest] = (topic, message)
    known: set[bytes] = set()
    if wanted:
        page = await archive.query(HistoryQuery(hashes=tuple(wanted), limit=PAGE))
        known = {one.message_hash for one in page.messages}
    for digest, (topic, message) in wanted.items():
        if digest not in known and not await archive.insert(topic, message, digest):
            raise ArchiveUnavailable("the archive is closing")
    await archive.flush()
    return StoreImportReply(
        stored=len(wanted) - len(known), known=len(known) + repeated, refused=tuple(refused)
    )


def _reason_against(store: OwnStore, topic: str, message: WakuMessage) -> str | None:
    try:
        place = PubsubTopic.parse(topic)
        size = len(encode_message(message))
    except (TopicError, MessageEncodeError) as error:
        return str(error)
    if place.cluster != store.cluster:
        return f"cluster {place.cluster}, the node is in {store.cluster}"
    if message.ephemeral:
        return "ephemeral"
    if size > store.max_message_size:
        return f"{size} bytes, at most {store.max_message_size} are allowed"
    return None if store.is_signed(topic, message) else "not signed by the shard's key"

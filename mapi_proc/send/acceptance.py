"""Accept sends: refuse at once what can be, persist before accepting, recognise repeats (SPEC.md, 4.2).

Accepted means on disk, surviving a host crash. The request id is the idempotency key within the app's stream:
concurrent twins are joined, a repeat gets the first answer again, and another body under the same id is a
conflict.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.methods import MAX_TIMESTAMP_LEAD_NS, SendRequest
from ipc_schema.message import WakuMessage, encode_message
from ipc_schema.sizes import relay_frame_size, too_large_text
from ipc_schema.topics import shard_topic
from mapi_proc.database import (
    Database,
    DatabaseBusyError,
    DatabaseClosedError,
    OutboxEntry,
    RequestExistsError,
)
from mapi_proc.network import AppNetwork
from mapi_proc.send.fairness import Room
from mapi_proc.send.task import SendTask
from mapi_proc.streams import AppStream

__all__ = ["Acceptance", "fingerprint"]

REQUEST_MEMORY_NS: Final = 24 * 3600 * 1_000_000_000
"""How long a request id is remembered after acceptance."""
_RECENT: Final = 4096
"""Request ids in memory; older ones are looked up on disk."""
_EVICT_EVERY_NS: Final = 600 * 1_000_000_000


def fingerprint(request: SendRequest, payload: bytes) -> bytes:
    """Hash the whole body of a send, to distinguish a repeat from a conflict."""
    topic = request.content_topic.encode()
    # Lengths first: without them two different splits into topic, meta and payload would hash alike.
    digest = sha256(b"%d:%d:%d:" % (len(topic), len(request.meta), request.ephemeral))
    for part in (topic, request.meta, payload):
        digest.update(part)
    if request.timestamp is not None:
        digest.update(b":%d" % request.timestamp)
    return digest.digest()


class Acceptance:
    """Accepts sends.

    `accepted(entry, shard)` is called when one is on disk. Until then its room is reserved here: of a burst
    that is still on its way to the disk, no more is let in than there is room for.
    """

    def __init__(
        self,
        database: Database,
        network: Callable[[], AppNetwork],
        *,
        now_ns: Callable[[], int],
        wall_ns: Callable[[], int],
        room: Room,
        accepted: Callable[[OutboxEntry, int], None],
        next_entry_id: int,
    ) -> None:
        self._database = database
        self._network = network
        self._now_ns = now_ns
        self._wall_ns = wall_ns
        self._room = room
        self._accepted = accepted
        self._entry_ids = itertools.count(next_entry_id)
        self._recent: OrderedDict[tuple[bytes, bytes], tuple[bytes, asyncio.Future[None] | None]] = (
            OrderedDict()
        )
        self._evict_at = 0
        self.repeated = 0

    def check(self, request: SendRequest, payload: bytes) -> int:
        """Refuse what can be refused at once. Return the shard. Raises IpcError."""
        network = self._network()
        if network.info.rln_required:
            raise IpcError(
                ErrorCode.RLN_REQUIRED,
                f"network {network.info.preset or network.info.cluster} needs an RLN proof with each message",
            )
        if not payload:
            raise IpcError(ErrorCode.BAD_REQUEST, "payload: empty")
        if request.timestamp is not None:
            ahead = request.timestamp - self._wall_ns()
            if ahead > MAX_TIMESTAMP_LEAD_NS:
                raise IpcError(
                    ErrorCode.BAD_REQUEST,
                    f"timestamp: {ahead / 1e9:.0f} s ahead of this host's clock, "
                    f"at most {MAX_TIMESTAMP_LEAD_NS // 1_000_000_000} are accepted",
                )
        try:
            return network.shard_of_checked(request.content_topic)
        except IpcError as error:
            raise IpcError(error.code, f"Failed to auto-subscribe before sending: {error.message}") from error

    def too_large(self, task: SendTask) -> str:
        """Return the reference's text if the message exceeds the network's maximum size, otherwise an empty
        string.

        As in the reference, such a message is accepted, and its outcome is an error.
        """
        info = self._network().info
        message = WakuMessage(task.payload, task.content_topic, 0, task.timestamp, task.meta)
        size = relay_frame_size(len(encode_message(message)), shard_topic(info.cluster, task.shard))
        return too_large_text(info.max_message_size) if size > info.max_message_size else ""

    async def accept(self, stream: AppStream, request: SendRequest, payload: bytes, shard: int) -> bool:
        """Accept a checked send. Return, once it is on disk, whether it is a repeat."""
        mark = fingerprint(request, payload)
        key = (stream.stream_id, request.request_id)
        known = self._recent.get(key)
        if known is not None:
            return await self._repeat(mark, known[0], known[1])
        # Reserve before the disk write, not after it: a burst must not pass the bound while it is being
        # written.
        self._room.reserve(stream.stream_id, len(payload))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve)
        self._recent[key] = (mark, done)
        entry = OutboxEntry(
            entry_id=next(self._entry_ids),
            scope=stream.stream_id,
            request_id=request.request_id,
            fingerprint=mark,
            content_topic=request.content_topic,
            payload=payload,
            meta=request.meta,
            ephemeral=request.ephemeral,
            accepted=self._now_ns(),
            timestamp=request.timestamp or 0,
        )

        def committed() -> None:
            self._recent[key] = (mark, None)
            self._trim_recent()
            self._room.give_back(stream.stream_id, len(payload))  # `accepted` takes it for the send
            self._accepted(entry, shard)
            if not done.done():
                done.set_result(None)

        def failed(error: Exception) -> None:
            self._recent.pop(key, None)
            self._room.give_back(stream.stream_id, len(payload))
            if not done.done():
                done.set_exception(error)

        # Durable: synced to the disk before the app is told that the send is accepted.
        batch = self._database.batch(durable=True)
        batch.put_send(entry)
        self._evict_old(batch.evict_requests)
        try:
            self._database.submit(batch, committed, failed)
        except (DatabaseBusyError, DatabaseClosedError) as error:
            failed(error)
        try:
            # Shielded: a client that goes away must not cancel a transaction that is already on its way.
            await asyncio.shield(done)
        except RequestExistsError:
            stored = await self._database.find_request(*key)
            if stored is None:
                raise
            return await self._repeat(mark, stored.fingerprint, None)
        except DatabaseBusyError as error:
            raise IpcError(ErrorCode.BUSY, "the disk is behind", retry_after_ms=200) from error
        except DatabaseClosedError as error:
            raise IpcError(ErrorCode.NOT_READY, "shutting down") from error
        return False

    async def _repeat(self, mark: bytes, first: bytes, done: asyncio.Future[None] | None) -> bool:
        if mark != first:
            raise IpcError(ErrorCode.CONFLICT, "this request id was used for another message")
        if done is not None:
            try:
                await asyncio.shield(done)
            except (DatabaseBusyError, DatabaseClosedError, RequestExistsError) as error:
                raise IpcError(ErrorCode.BUSY, "its first try was not stored", retry_after_ms=200) from error
        self.repeated += 1
        return True

    def _trim_recent(self) -> None:
        while len(self._recent) > _RECENT:
            key, (_, done) = next(iter(self._recent.items()))
            if done is not None:
                break  # still on its way to the disk
            del self._recent[key]

    def _evict_old(self, evict: Callable[[int], None]) -> None:
        now = self._now_ns()
        if now >= self._evict_at:
            self._evict_at = now + _EVICT_EVERY_NS
            evict(now - REQUEST_MEMORY_NS)


def _retrieve(done: asyncio.Future[None]) -> None:
    """Retrieve the exception of a future whose waiter is gone, so that asyncio does not log it."""
    if not done.cancelled():
        done.exception()

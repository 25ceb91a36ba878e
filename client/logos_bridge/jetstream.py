"""The bridge's connection to NATS JetStream: streams, buckets, and the few operations that it is built on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from ipc_schema.config.bridge import BridgeConfig
from logos_bridge.ack_inbox import AckInbox
from logos_bridge.congestion import CongestionWindow, backoff
from logos_bridge.headers import EXPECTED_SEQUENCE, MESSAGE_ID
from logos_bridge.layout import Layout
from logos_bridge.nats_options import connect_options
from logos_bridge.pull import Pull
from logos_bridge.stream_setup import ensure_streams

log = logging.getLogger(__name__)

T = TypeVar("T")

_TIMEOUT: Final = 5.0
_OPERATIONS: Final = 512
"""Most operations that wait for an answer at once, besides messages on their way out."""
_PAGE: Final = 500
_WRONG_LAST_SEQUENCE: Final = 10071
"""Server's error code: the message expects another last sequence of its subject."""
_FAILURES: Final = (nats.errors.Error, TimeoutError, OSError)
"""What a server that is away, electing or overloaded causes: worth another try."""


class WrongRevisionError(Exception):
    """Another writer was first."""


class Stored(NamedTuple):
    """A message that a stream holds."""

    subject: str
    headers: Mapping[str, str]
    data: bytes
    seq: int


@dataclass(slots=True)
class LinkCounters:
    """Counters of the connection."""

    reconnects: int = 0
    errors: int = 0
    retries: int = 0
    last_error: str = field(default="")


class JetStreamLink:
    """One connection. `open` waits for a server and makes sure that streams and buckets exist."""

    def __init__(self, config: BridgeConfig) -> None:
        self.layout = Layout(config.nats.nats_prefix)
        self.counters = LinkCounters()
        self._config = config
        self._client = Client()
        self._js: JetStreamContext | None = None
        self._acks: AckInbox | None = None
        self._up = asyncio.Event()
        self._lost = asyncio.Event()
        self._opened = False
        self.congestion = CongestionWindow(_OPERATIONS)

    # -- opening and closing ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, however long that takes. Raises `StartError` for files that cannot be used."""
        options, failures = connect_options(self._config.nats), 0
        while True:
            try:
                await self._client.connect(
                    **options,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnect,
                    reconnected_cb=self._on_reconnect,
                )
                self._js = self._client.jetstream(timeout=_TIMEOUT)
                self._acks = AckInbox(self._client)
                await self._acks.open()
                await ensure_streams(self._js, self.layout, self._config)
            except _FAILURES as error:
                # Also what the server refuses: a cluster that starts has no room for replicas yet.
                self._failed(error)
                log.warning("NATS cannot be used yet: %s", self.counters.last_error)
                await self._drop()
                failures += 1
                await asyncio.sleep(backoff(failures))
            else:
                self._opened = True
                self._up.set()
                log.info("connected to NATS server %s", self.server)
                return

    async def close(self) -> None:
        await self._drop()

    async def _drop(self) -> None:
        self._opened = False
        self._up.clear()
        with contextlib.suppress(*_FAILURES):
            await self._client.close()
        self._client = Client()

    async def _on_error(self, error: Exception) -> None:
        self._failed(error)
        log.debug("NATS: %s", self.counters.last_error)

    async def _on_disconnect(self) -> None:
        self._up.clear()
        self._lost.set()

    async def _on_reconnect(self) -> None:
        self._up.set()
        self.counters.reconnects += 1
        log.info("connected again, to NATS server %s", self.server)

    def _failed(self, error: BaseException) -> None:
        self.counters.errors += 1
        self.counters.last_error = f"{type(error).__name__}: {error}"[:300]

    @property
    def connected(self) -> bool:
        """Whether a server is connected now."""
        return self._client.is_connected

    async def up(self) -> None:
        """Wait for a connected server."""
        await self._up.wait()

    async def lost(self, seconds: float) -> bool:
        """Return whether the connection was lost since the last call, or is within so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._lost.wait()
        lost = self._lost.is_set()
        self._lost.clear()
        return lost

    @property
    def closed(self) -> bool:
        """Whether the library has given the connection up: it does when a server sends an error."""
        return self._opened and self._client.is_closed

    @property
    def server(self) -> str:
        """Address of the connected server; empty while there is none."""
        return self._client.connected_url.netloc if self.connected and self._client.connected_url else ""

    @property
    def js(self) -> JetStreamContext:
        """The library's context. Call after `open`."""
        assert self._js is not None, "open first"
        return self._js

    @property
    def acks(self) -> AckInbox:
        """Publishes messages without waiting for each. Call after `open`."""
        assert self._acks is not None, "open first"
        return self._acks

    # -- operations ------------------------------------------------------------------------------------------

    async def store(self, subject: str, data: bytes, headers: Mapping[str, str]) -> int:
        """Publish until it is stored; returns its sequence. It needs a `Nats-Msg-Id`, since it may be
        published several times."""

        async def publish() -> int:
            return (await self.js.publish(subject, data, headers=dict(headers))).seq

        return await self._until_answered(publish)

    async def put(
        self,
        bucket: str,
        key: str,
        data: bytes,
        headers: Mapping[str, str],
        expected: int,
        *,
        ahead: bool = False,
    ) -> int:
        """Write a key if `expected` is its revision (0: it does not exist). Return the new revision.

        `ahead`: before other operations that wait.

        Raises `WrongRevisionError`, also when our own write was stored but its answer lost: the caller reads
        the key to see whose it is.
        """
        subject = f"$KV.{bucket}.{key}"
        fields = {**headers, EXPECTED_SEQUENCE: str(expected)}

        async def publish() -> int:
            try:
                return (await self.js.publish(subject, data, headers=fields)).seq
            except nats.js.errors.APIError as error:
                if error.err_code == _WRONG_LAST_SEQUENCE:
                    raise WrongRevisionError(f"{subject}: {error.description}") from None
                raise

        return await self._until_answered(publish, ahead=ahead)

    async def get(self, bucket: str, key: str) -> Stored | None:
        """Read a key; None if it does not exist."""

        async def read() -> Stored | None:
            try:
                raw = await self.js.get_last_msg(f"KV_{bucket}", f"$KV.{bucket}.{key}")
            except nats.js.errors.NotFoundError:
                return None
            return Stored(raw.subject or "", raw.headers or {}, raw.data or b"", raw.seq or 0)

        return await self._until_answered(read)

    async def holds(self, stream: str, seq: int) -> bool:
        """Return whether a stream has a message, as its leader knows."""
        return await self._until_answered(lambda: self._holds(stream, seq))

    async def _holds(self, stream: str, seq: int) -> bool:
        try:
            await self.js.get_msg(stream, seq)
        except nats.js.errors.NotFoundError:
            return False
        return True

    async def delete(self, stream: str, seq: int) -> bool:
        """Delete one message of a stream. Return False if it is not there (any more)."""

        async def delete() -> bool:
            try:
                return bool(await self.js.delete_msg(stream, seq))
            except nats.js.errors.APIError:
                # Only the text says why it failed, and the text differs between versions.
                if await self._holds(stream, seq):
                    raise
                return False

        return await self._until_answered(delete)

    async def _until_answered(self, operation: Callable[[], Awaitable[T]], *, ahead: bool = False) -> T:
        """Repeat an operation until NATS answers it: one that it refuses for another reason than what it
        holds may succeed later, when it has a leader or room."""
        failures = 0
        while True:
            await self._up.wait()
            ticket, answered = await self.congestion.enter(ahead=ahead), True
            try:
                return await operation()
            except _FAILURES as error:
                answered, failures = False, failures + 1
                self._failed(error)
            finally:
                self.congestion.leave(ticket, answered=answered)
            self.counters.retries += 1
            await asyncio.sleep(backoff(failures))

    async def scan(
        self, stream: str, subject: str, *, since: datetime | None = None, data: bool = True
    ) -> AsyncGenerator[Stored, None]:
        """Read what a stream holds of a subject: since a time, or the last message of each subject.

        Raises a failure of NATS: a part is not the whole.
        """
        config = api.ConsumerConfig(
            filter_subject=subject,
            ack_policy=api.AckPolicy.NONE,
            deliver_policy=api.DeliverPolicy.LAST_PER_SUBJECT
            if since is None
            else api.DeliverPolicy.BY_START_TIME,
            opt_start_time=since,
            headers_only=None if data else True,
            inactive_threshold=30.0,
            mem_storage=True,
        )
        info = await self.js.add_consumer(stream, config)
        # What comes later is not waited for: in a stream that is written to, there would be no end.
        left = info.num_pending or 0
        page: list[Msg] = []
        pull = Pull(self._client, stream, info.name, page.append)
        try:
            await pull.open()
            while left > 0:
                asked = min(_PAGE, left)
                # Fewer: what was left has been deleted meanwhile.
                left = left - asked if await pull.request(asked) == asked else 0
                for message in page:
                    yield _stored(message)
                page.clear()
        finally:
            with contextlib.suppress(*_FAILURES):
                await pull.close()
            await self._forget(stream, info.name)

    async def _forget(self, stream: str, consumer: str) -> None:
        with contextlib.suppress(*_FAILURES):  # it ends by itself when nothing asks for more
            await self.js.delete_consumer(stream, consumer)

    async def ids_since(self, stream: str, subject: str, since_ns: int) -> AsyncGenerator[str, None]:
        """Read the `Nats-Msg-Id` of everything stored since a time. Raises a failure of NATS."""
        since = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=since_ns // 1_000)
        async with contextlib.aclosing(self.scan(stream, subject, since=since, data=False)) as messages:
            async for message in messages:
                yield message.headers.get(MESSAGE_ID, "")

    async def queue_consumer(self, *, ack_wait: float, max_pending: int, take: Callable[[Msg], None]) -> Pull:
        """Return the requests by which all bridges share the work queue."""
        layout = self.layout
        config = api.ConsumerConfig(
            durable_name=layout.consumer,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ack_wait,
            max_ack_pending=max_pending,
        )

        async def add() -> None:
            # Refused: it exists, with other settings.
            with contextlib.suppress(nats.js.errors.BadRequestError):
                await self.js.add_consumer(layout.sends, config)

        await self._until_answered(add)
        pull = Pull(self._client, layout.sends, layout.consumer, take)
        await pull.open()
        return pull

    async def queue_created(self) -> str:
        """Return when the work queue was created, which distinguishes two of one name."""

        async def ask() -> str:
            # Not of the library's StreamInfo, which leaves it out.
            subject = f"$JS.API.STREAM.INFO.{self.layout.sends}"
            info = json.loads((await self._client.request(subject, b"", timeout=_TIMEOUT)).data)
            if "created" not in info:
                raise nats.errors.Error(f"{subject}: {info.get('error')}")
            return str(info["created"])

        return await self._until_answered(ask)

    async def queue_length(self) -> int:
        """Return how many sends wait in the queue. Raises a failure of NATS."""
        return (await self.js.stream_info(self.layout.sends)).state.messages


def _stored(message: Msg) -> Stored:
    return Stored(message.subject, message.headers or {}, message.data, message.metadata.sequence.stream)

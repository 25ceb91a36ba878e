"""The bridge's connection to NATS JetStream: streams, buckets, and the few operations that it is built on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import stat
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from ipc_schema.config.bridge import NatsConfig
from logos_bridge.headers import EXPECTED_SEQUENCE
from logos_bridge.id_set import IdSet
from logos_bridge.layout import Layout
from logos_process.exits import ExitCode, StartError

__all__ = ["JetStreamLink", "Stored", "WrongRevisionError"]

log = logging.getLogger(__name__)

_TIMEOUT: Final = 5.0
_RETRY: Final = 0.5
_RETRY_MAX: Final = 5.0
_PAGE: Final = 500
_WRONG_LAST_SEQUENCE: Final = 10071
"""Server's error code: the message expects another last sequence of its subject."""
_PING_SECONDS: Final = 5
_MAX_PENDING: Final = 8_192
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

    def __init__(self, config: NatsConfig) -> None:
        self.layout = Layout(config.prefix)
        self.counters = LinkCounters()
        self._config = config
        self._client = Client()
        self._js: JetStreamContext | None = None

    # -- opening and closing ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, however long that takes. Raises `StartError` for files that cannot be used."""
        options, wait = self._options(), _RETRY
        while True:
            try:
                await self._client.connect(**options)
                self._js = self._client.jetstream(timeout=_TIMEOUT, publish_async_max_pending=_MAX_PENDING)
                await self._ensure_all()
            except _FAILURES as error:
                # Also what the server refuses: a cluster that starts has no room for replicas yet.
                self._failed(error)
                log.warning("NATS cannot be used yet: %s", self.counters.last_error)
                await self._drop()
                await asyncio.sleep(wait)
                wait = min(wait * 2, _RETRY_MAX)
            else:
                log.info("connected to NATS server %s", self.server)
                return

    async def close(self) -> None:
        """Disconnect."""
        await self._drop()

    async def _drop(self) -> None:
        with contextlib.suppress(*_FAILURES):
            await self._client.close()
        self._client = Client()

    def _options(self) -> dict[str, Any]:
        config = self._config
        options: dict[str, Any] = {
            "servers": list(config.urls),
            "name": "logos-bridge",
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": _RETRY,
            "connect_timeout": 3,
            "ping_interval": _PING_SECONDS,
            "max_outstanding_pings": 2,
            "error_cb": self._on_error,
            "reconnected_cb": self._on_reconnect,
        }
        for key, name, path in (
            ("user_credentials", "nats-credentials", config.credentials),
            ("nkeys_seed", "nats-nkey-seed", config.nkey_seed),
        ):
            if path is not None:
                _check_secret(name, path)
                options[key] = path
        tls = _tls(config)
        if tls is not None:
            options["tls"] = tls
        return options

    async def _on_error(self, error: Exception) -> None:
        self._failed(error)
        log.debug("NATS: %s", self.counters.last_error)

    async def _on_reconnect(self) -> None:
        self.counters.reconnects += 1
        log.info("connected again, to NATS server %s", self.server)

    def _failed(self, error: BaseException) -> None:
        self.counters.errors += 1
        self.counters.last_error = f"{type(error).__name__}: {error}"[:300]

    @property
    def connected(self) -> bool:
        """Whether a server is connected now."""
        return self._client.is_connected

    @property
    def server(self) -> str:
        """Address of the connected server; empty while there is none."""
        return self._client.connected_url.netloc if self.connected and self._client.connected_url else ""

    @property
    def js(self) -> JetStreamContext:
        """The library's context. Call after `open`."""
        assert self._js is not None, "open first"
        return self._js

    # -- streams ---------------------------------------------------------------------------------------------

    async def _ensure_all(self) -> None:
        layout, config, prefix = self.layout, self._config, self._config.prefix
        kept = {"max_age": config.max_age, "max_bytes": config.max_bytes or -1}
        await self._ensure(layout.messages, [f"{prefix}.messages.>"], **kept)
        await self._ensure(layout.fates, [f"{prefix}.fates.>"], **kept)
        await self._ensure(layout.dead, [f"{prefix}.dead.>"], **kept)
        await self._ensure(layout.sends, [f"{prefix}.sends.>"], retention=api.RetentionPolicy.WORK_QUEUE)
        for bucket in (layout.state_bucket, layout.open_bucket):
            # A bucket as the clients of NATS know it, except that a key can be deleted without a trace: an
            # open send would otherwise leave a marker for ever.
            await self._ensure(
                f"KV_{bucket}",
                [f"$KV.{bucket}.>"],
                max_msgs_per_subject=1,
                allow_rollup_hdrs=True,
                allow_direct=True,
                discard=api.DiscardPolicy.NEW,
            )

    async def _ensure(self, name: str, subjects: list[str], **settings: Any) -> None:
        window = self._config.duplicate_window
        try:
            found = (await self.js.stream_info(name)).config
        except nats.js.errors.NotFoundError:
            config = api.StreamConfig(
                name=name,
                subjects=subjects,
                num_replicas=self._config.replicas,
                storage=api.StorageType.FILE,
                duplicate_window=window,
                **settings,
            )
            try:
                found = (await self.js.add_stream(config)).config
            except nats.js.errors.BadRequestError as error:
                try:
                    found = (await self.js.stream_info(name)).config  # another bridge has made it
                except nats.js.errors.NotFoundError:
                    raise error from None
        if name == self.layout.messages and found.duplicate_window < window:
            log.warning(
                "stream %s notices duplicates for %g s only, less than bridge-duplicate-window",
                name,
                found.duplicate_window,
            )

    # -- operations ------------------------------------------------------------------------------------------

    async def store(self, subject: str, data: bytes, headers: Mapping[str, str]) -> int:
        """Publish until it is stored; returns its sequence. It needs a `Nats-Msg-Id`, since it may be
        published several times."""
        while True:
            try:
                return (await self.js.publish(subject, data, headers=dict(headers))).seq
            except _FAILURES as error:
                await self._again(error)

    async def put(self, bucket: str, key: str, data: bytes, headers: Mapping[str, str], expected: int) -> int:
        """Write a key if `expected` is its revision (0: it does not exist). Return the new revision.

        Raises `WrongRevisionError`, also when our own write was stored but its answer lost: the caller reads
        the key to see whose it is.
        """
        return await self.store_expected(f"$KV.{bucket}.{key}", data, headers, expected)

    async def store_expected(
        self, subject: str, data: bytes, headers: Mapping[str, str], expected: int
    ) -> int:
        """Publish if the subject's last sequence is the expected one. Raises `WrongRevisionError`."""
        fields = {**headers, EXPECTED_SEQUENCE: str(expected)}
        while True:
            try:
                return (await self.js.publish(subject, data, headers=fields)).seq
            except nats.js.errors.APIError as error:
                if error.err_code == _WRONG_LAST_SEQUENCE:
                    raise WrongRevisionError(f"{subject}: {error.description}") from None
                await self._again(error)
            except _FAILURES as error:
                await self._again(error)

    async def get(self, bucket: str, key: str) -> Stored | None:
        """Read a key; None if it does not exist."""
        while True:
            try:
                raw = await self.js.get_last_msg(f"KV_{bucket}", f"$KV.{bucket}.{key}")
            except nats.js.errors.NotFoundError:
                return None
            except _FAILURES as error:
                await self._again(error)
            else:
                return Stored(raw.subject or "", raw.headers or {}, raw.data or b"", raw.seq or 0)

    async def holds(self, stream: str, seq: int) -> bool:
        """Return whether a stream has a message, as its leader knows."""
        while True:
            try:
                await self.js.get_msg(stream, seq)
            except nats.js.errors.NotFoundError:
                return False
            except _FAILURES as error:
                await self._again(error)
            else:
                return True

    async def delete(self, stream: str, seq: int) -> bool:
        """Delete one message of a stream. Return False if it is not there (any more)."""
        while True:
            try:
                return bool(await self.js.delete_msg(stream, seq))
            except nats.js.errors.APIError as error:
                # Why it failed is told in the text only, and the text differs between versions.
                if not await self.holds(stream, seq):
                    return False
                await self._again(error)
            except _FAILURES as error:
                await self._again(error)

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
        left = info.num_pending or 0
        if not left:
            await self._forget(stream, info.name)
            return
        subscription = await self.js.pull_subscribe_bind(consumer=info.name, stream=stream)
        try:
            while left:
                try:
                    page = await subscription.fetch(min(_PAGE, max(left, 2)), timeout=_TIMEOUT)
                except TimeoutError:
                    if (await subscription.consumer_info()).num_pending:
                        raise
                    return  # what was left has been deleted meanwhile
                for message in page:
                    left = message.metadata.num_pending
                    yield _stored(message)
        finally:
            with contextlib.suppress(*_FAILURES):
                await subscription.unsubscribe()
            await self._forget(stream, info.name)

    async def _forget(self, stream: str, consumer: str) -> None:
        with contextlib.suppress(*_FAILURES):  # it ends by itself when nothing asks for more
            await self.js.delete_consumer(stream, consumer)

    async def ids_since(self, stream: str, subject: str, since_ns: int) -> IdSet:
        """Read the `Nats-Msg-Id` of everything stored since a time. Raises a failure of NATS."""
        since = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=since_ns // 1_000)
        found = IdSet()
        try:
            async with contextlib.aclosing(self.scan(stream, subject, since=since, data=False)) as messages:
                async for message in messages:
                    found.add([message.headers.get("Nats-Msg-Id", "")])
        except BaseException:
            found.close()
            raise
        return found

    async def queue_consumer(self, *, ack_wait: float, max_pending: int) -> JetStreamContext.PullSubscription:
        """Return the subscription by which all bridges share the work queue."""
        layout = self.layout
        config = api.ConsumerConfig(
            durable_name=layout.consumer,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ack_wait,
            max_ack_pending=max_pending,
        )
        while True:
            try:
                await self.js.add_consumer(layout.sends, config)
                return await self.js.pull_subscribe_bind(consumer=layout.consumer, stream=layout.sends)
            except _FAILURES as error:
                if isinstance(error, nats.js.errors.BadRequestError):  # it exists, with other settings
                    return await self.js.pull_subscribe_bind(consumer=layout.consumer, stream=layout.sends)
                await self._again(error)

    async def queue_created(self) -> str:
        """Return when the work queue was created, which tells two of one name apart."""
        while True:
            try:
                # Not of the library's StreamInfo, which leaves it out.
                answer = await self._client.request(
                    f"$JS.API.STREAM.INFO.{self.layout.sends}", b"", timeout=_TIMEOUT
                )
                return str(json.loads(answer.data)["created"])
            except (*_FAILURES, KeyError, ValueError) as error:
                await self._again(error)

    async def queue_length(self) -> int:
        """Return how many sends wait in the queue. Raises a failure of NATS."""
        return (await self.js.stream_info(self.layout.sends)).state.messages

    async def _again(self, error: BaseException) -> None:
        self._failed(error)
        self.counters.retries += 1
        log.debug("NATS: %s; trying again", self.counters.last_error)
        await asyncio.sleep(_RETRY)


def _stored(message: Msg) -> Stored:
    return Stored(message.subject, message.headers or {}, message.data, message.metadata.sequence.stream)


def _check_secret(name: str, path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise StartError.of(f"{name}: {path}", error) from error
    if stat.S_IMODE(mode) & 0o077:
        raise StartError(f"{name}: {path} can be read by other users: make it 0600", ExitCode.CONFIG)


def _tls(config: NatsConfig) -> ssl.SSLContext | None:
    if config.tls_ca is None and config.tls_cert is None:
        return None
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
        if config.tls_cert is not None:
            context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"nats-tls-ca, nats-tls-cert: {error}", ExitCode.CONFIG) from error
    return context

"""All channels of all apps: created, closed, restored, fed with what arrives and with time (SPEC.md 4.5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Final
from uuid import uuid4

from ipc_schema.config.mapi import MapiConfig
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.channels import (
    MAX_PENDING_SHOWN,
    ChannelCreateReply,
    ChannelCreateRequest,
    ChannelFindSendRequest,
    ChannelInfo,
    ChannelOpenedRequest,
    ChannelSendRequest,
    ChannelSplitReply,
    ChannelStatusReply,
    PendingChannelSend,
)
from ipc_schema.steady import SteadyClock
from ipc_schema.topics import TopicError
from mapi_proc.apps import App, AppRegistry
from mapi_proc.channels.app_events import app_event
from mapi_proc.channels.channel import ChannelCore
from mapi_proc.channels.departures import HeldDepartures
from mapi_proc.channels.encryption import Cipher
from mapi_proc.channels.events import ChannelOutput
from mapi_proc.channels.feed import ChannelFeed
from mapi_proc.channels.figures import ChannelFigures, buffers
from mapi_proc.channels.host import ChannelHost
from mapi_proc.channels.keeping import (
    KeptSettings,
    channel_settings,
    cipher_of,
    pack_keys,
    read_settings,
    wanted_settings,
)
from mapi_proc.channels.known import KnownChannel, check_same
from mapi_proc.channels.retrieval import Retrieval
from mapi_proc.channels.sending import ChannelSending
from mapi_proc.channels.storing import stored_channel
from mapi_proc.channels.transmitter import Transmitter
from mapi_proc.clocks import Clocks
from mapi_proc.database import (
    Batch,
    ChannelContents,
    ChannelRecord,
    ChannelRows,
    Database,
)
from mapi_proc.database.channels import load_channel, load_channels
from mapi_proc.database.records import DamagedError
from mapi_proc.disk import Disk
from mapi_proc.network import AppNetwork, CurrentNetwork
from mapi_proc.receive.stores import StoreHistory
from mapi_proc.send.service import SendService
from mapi_proc.shards import FollowedShards
from mapi_proc.streams import AppStream
from mapi_proc.subscriptions import SubscriptionTable
from mapi_proc.write_batch import Turn

log = logging.getLogger(__name__)

_TICK_S: Final = 0.5
_AT_ONCE: Final = 50
"""Channels ticked before other tasks run."""
_FORGET_S: Final = 600.0
_REQUEST_MEMORY_NS: Final = 24 * 3600 * 1_000_000_000


@dataclass(kw_only=True, eq=False)
class ChannelService:
    """`await run()` until cancelled."""

    config: MapiConfig
    database: Database
    turn: Turn
    apps: AppRegistry
    table: SubscriptionTable[AppStream]
    shards: FollowedShards
    network: CurrentNetwork
    stores: StoreHistory
    sends: SendService
    clocks: Clocks
    steady: SteadyClock

    def __post_init__(self) -> None:
        self._disk = Disk(self.database)
        self._channels: dict[App, dict[str, KnownChannel]] = {}
        self._next = 1
        self._work: set[asyncio.Task[None]] = set()
        self._transmitter = Transmitter(
            self.sends.publish_aside,
            self.sends.limiter,
            lambda: self.network.cluster,
            self.clocks.now_ns,
            self.steady,
        )
        self._retrieval = Retrieval(self.stores.stores, self._shard_of, self._spawn)
        self._departures = HeldDepartures(self._transmitter, self.database, self.turn, self._shard_of)
        self._sending = ChannelSending(self.database, self.turn, self._disk, self.network)
        self._figures = ChannelFigures()

    def _spawn(self, task: asyncio.Task[None]) -> None:
        self._work.add(task)
        task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("retrieval from stores failed", exc_info=error)

    def _shard_of(self, topic: str) -> int | None:
        try:
            return self.network.shard_of(topic)
        except (IpcError, TopicError):
            return None

    # --- from outside ---------------------------------------------------------------------------------------

    def set_online(self, online: bool) -> None:
        """Record whether the kernel is reachable."""
        self._transmitter.set_online(online)

    def wake(self) -> None:
        """Retry at once: peers appeared."""
        self._transmitter.wake()

    def adopt(self, _: AppNetwork) -> None:
        """Start on a network. The subscriptions' `adopt` is called next, and follows the shards."""
        for channel in self._all():
            if channel.feed is not None:
                self.table.subscribe(channel.feed, [channel.record.content_topic])

    def restore(self, stored: Iterable[tuple[ChannelRecord, ChannelContents]]) -> None:
        """Restore what the database holds, before the network is adopted."""
        apps = {app.app_id: app for app in self.apps if app.durable}
        for record, contents in stored:
            self._next = max(self._next, record.channel + 1)
            app = apps.get(record.app_id)
            if app is None:
                continue
            try:
                channel = KnownChannel(app, record, read_settings(record.settings))
                self._channels.setdefault(app, {})[record.name] = channel
                if not record.open or (channel.settings.encrypted and not record.secret):
                    continue
                self._begin(channel, cipher_of(record.secret) if record.secret else None)
                assert channel.host is not None
                channel.host.restore(stored_channel(record, contents))
            except DamagedError as error:
                log.error("channel %r of app %s cannot be opened: %s", record.name, app.name, error)

    def drop(self, app: App) -> None:
        """Close an app's channels; their rows are deleted with the app's record."""
        for channel in self._channels.pop(app, {}).values():
            self._end(channel)

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._transmitter.run(), name="channel-transmitter")
                group.create_task(self._tick(), name="channel-ticks")
        finally:
            for task in self._work:
                task.cancel()

    async def _tick(self) -> None:
        clock, database, turn = self.clocks.running, self.database, self.turn
        forget_at = clock() + _FORGET_S
        while True:
            await asyncio.sleep(_TICK_S)
            now, done = clock(), 0
            forget, before = now >= forget_at, self.steady() - _REQUEST_MEMORY_NS
            if forget:
                forget_at = now + _FORGET_S
            for channel in self._all():
                host = channel.host
                if host is None or database.congested:
                    continue
                if forget and channel.app.durable:
                    rows = ChannelRows(channel.record.channel, requests_forgotten=before)
                    turn.batch.channel(rows)
                if host.due is not None and host.due <= now:
                    host.tick()
                    done += 1
                    if done % _AT_ONCE == 0:
                        await asyncio.sleep(0)

    def _all(self) -> Iterator[KnownChannel]:
        for channels in tuple(self._channels.values()):
            yield from tuple(channels.values())

    # --- an app's requests ----------------------------------------------------------------------------------

    async def create(self, app: App, request: ChannelCreateRequest) -> ChannelCreateReply:
        """Create a channel, or open one that is closed or locked. Raises IpcError."""
        settings, topic = wanted_settings(request), request.content_topic
        _ = self.network()
        try:
            self.table.resolve(topic)
        except TopicError as error:
            text = f"failed to subscribe to content topic: {error}"
            raise IpcError(ErrorCode.BAD_REQUEST, text) from error
        if app.durable:
            self._disk.check()
        channels = self._channels.setdefault(app, {})
        channel = channels.get(request.channel_id)
        existed = channel is not None
        if channel is None:
            channel = self._new(app, request, settings)
            channels[request.channel_id] = channel
        else:
            check_same(channel, request, settings)
        channel.opening = True
        try:
            await self._open(channel, request, existed)
        except BaseException:
            self._end(channel)
            if not existed:
                channels.pop(request.channel_id, None)
            raise
        finally:
            channel.opening = False
        return ChannelCreateReply(sender_id=channel.record.sender_id, existed=existed)

    def _new(self, app: App, request: ChannelCreateRequest, settings: KeptSettings) -> KnownChannel:
        most = self.config.resolved.options.channels.max_channels_per_app
        if len(self._channels[app]) >= most:
            raise IpcError(ErrorCode.BAD_REQUEST, f"too many channels: at most {most}")
        record = ChannelRecord(
            channel=self._next,
            app_id=app.app_id,
            name=request.channel_id,
            content_topic=request.content_topic,
            sender_id=request.sender_id or uuid4().hex,
            settings=settings.pack(),
        )
        self._next += 1
        return KnownChannel(app, record, settings)

    async def _open(self, channel: KnownChannel, request: ChannelCreateRequest, existed: bool) -> None:
        app, database = channel.app, self.database
        secret = pack_keys(request.keys) if request.keep_keys else channel.record.secret
        if request.keys and not request.keep_keys:
            secret = b""
        record = channel.record = channel.record._replace(open=1, secret=secret)
        if app.durable:
            rows = ChannelRows(record.channel, created=None if existed else record)
            if existed:
                rows.opened = (1, secret)
            batch = database.batch(durable=True)
            batch.channel(rows)
            await self._disk.commit(batch)
        keys = pack_keys(request.keys) if request.keys else secret
        self._begin(channel, cipher_of(keys) if keys else None)
        assert channel.host is not None
        if existed and app.durable:
            try:
                (row,) = [one for one in await database.read(load_channels) if one.channel == record.channel]
                contents = await database.read(load_channel, record.channel)
                channel.host.restore(stored_channel(row, contents), notify_again=True)
            except DamagedError as error:
                raise IpcError(
                    ErrorCode.INTERNAL, f"the channel's stored state is damaged: {error}"
                ) from error
        assert channel.feed is not None
        change = self.table.subscribe(channel.feed, [record.content_topic])
        for error_text in change.errors.values():
            raise IpcError(ErrorCode.BAD_REQUEST, f"failed to subscribe to content topic: {error_text}")
        if change.shards_gained:
            self.shards.follow(change.shards_gained)
        self.shards.topics_changed()
        await self.shards.wait_heard(change)

    def _begin(self, channel: KnownChannel, cipher: Cipher | None) -> None:
        record, turn, durable = channel.record, self.turn, channel.app.durable
        stream, now_ns = channel.app.stream, self.clocks.now_ns

        def notify(output: ChannelOutput, batch: Batch | None) -> None:
            kind, fields, payload = app_event(record.name, output)
            stream.append(kind, now_ns(), fields, payload, batch)

        core = ChannelCore(
            record.name,
            record.sender_id,
            channel_settings(self.config, channel.settings, on_disk=durable),
            Random(SystemRandom().getrandbits(64)),  # noqa: S311 (jitter, nothing secret)
            cipher,
        )
        channel.host = ChannelHost(
            record,
            core,
            notify=notify,
            batch=(lambda: turn.batch) if durable else (lambda: None),
            transmit=self._departures.transmit,
            retrieve=self._retrieval,
            clocks=self.clocks,
            steady=self.steady,
            figures=self._figures,
        )
        channel.feed = ChannelFeed(channel.host, durable, asyncio.get_running_loop().call_soon)

    def _end(self, channel: KnownChannel) -> None:
        host, feed, channel.host, channel.feed = channel.host, channel.feed, None, None
        if host is not None:
            host.closed = True
            self._transmitter.forget(host)
        if feed is not None:
            change = self.table.remove(feed)
            self.shards.leave(change.shards_lost)

    def exists(self, app: App, channel_id: str) -> bool:
        channel = self._channels.get(app, {}).get(channel_id)
        return channel is not None and channel.host is not None

    def list(self, app: App) -> Sequence[ChannelInfo]:
        return [channel.info() for _, channel in sorted(self._channels.get(app, {}).items())]

    def status(self, app: App, channel_id: str) -> ChannelStatusReply:
        """Return what an open channel waits for. Raises IpcError."""
        core = self._opened(app, channel_id)[1].core
        return ChannelStatusReply(
            missing=len(core.sds.incoming.missing),
            waiting=len(core.sds.incoming.waiting),
            joining=core.joiner.sets,
            unacknowledged=len(core.requests),
            history=len(core.sds.log.records),
            unopened=len(core.unopened),
            sends=tuple(
                PendingChannelSend(request_id=one.request_id, sent=one.sent)
                for one in core.requests.first(MAX_PENDING_SHOWN)
            ),
        )

    async def close(self, app: App, channel_id: str, *, forget: bool = False) -> None:
        """Stop receiving and sending; keep what is stored, or delete it. Raises IpcError."""
        channel = self._known(app, channel_id)
        if app.durable:
            self._disk.check()
        self.turn.flush()  # otherwise its last changes would reach the disk behind its end
        self._end(channel)
        record = channel.record = channel.record._replace(open=0)
        if forget or not app.durable:
            del self._channels[app][channel_id]
        if app.durable:
            batch = self.database.batch()
            opened = None if forget else (0, record.secret)
            batch.channel(ChannelRows(record.channel, opened=opened, forgotten=forget))
            await self._disk.commit(batch)

    async def forget(self, app: App, channel_id: str) -> None:
        """Close it and delete what is stored. Raises IpcError."""
        await self.close(app, channel_id, forget=True)

    async def send(self, app: App, request: ChannelSendRequest, blobs: Sequence[bytes]) -> bool:
        """Accept a send and wait until it is on disk. Return True for a repeat. Raises IpcError."""
        return await self._sending.send(*self._opened(app, request.channel_id), request, blobs)

    async def find_send(self, app: App, request: ChannelFindSendRequest) -> PendingChannelSend | None:
        """Return a send of a channel, open or not. Raises IpcError."""
        return await self._sending.find(self._known(app, request.channel_id), request.request_id)

    def split(
        self, app: App, channel_id: str, blobs: Sequence[bytes]
    ) -> tuple[ChannelSplitReply, Sequence[bytes]]:
        """Return the segments of a payload for the app to encrypt. Raises IpcError."""
        return self._sending.split(self._opened(app, channel_id)[1], blobs)

    async def opened(self, app: App, request: ChannelOpenedRequest, blobs: Sequence[bytes]) -> None:
        """Take a segment that the app has decrypted. Raises IpcError."""
        await self._sending.opened(*self._opened(app, request.channel_id), request, blobs)

    def figures(self) -> dict[str, object]:
        """Return `channels` of control's `health`."""
        every = list(self._all())
        cores = [channel.host.core for channel in every if channel.host is not None]
        states = {"open": len(cores), "locked": sum(channel.locked for channel in every)}
        return {
            "channels": {**states, "closed": len(every) - sum(states.values())},
            **self._figures.to_body(),
            "attempts": dict(self._transmitter.counters),
            "retrievals": {"asked": self._retrieval.asked, "found": self._retrieval.found},
            "buffers": buffers(cores, len(self._transmitter)),
        }

    def _known(self, app: App, channel_id: str) -> KnownChannel:
        channel = self._channels.get(app, {}).get(channel_id)
        if channel is None:
            raise IpcError(ErrorCode.BAD_REQUEST, f"unknown channel: {channel_id}")
        if channel.opening:
            raise IpcError(ErrorCode.BUSY, f"channel {channel_id} is being opened", retry_after_ms=100)
        return channel

    def _opened(self, app: App, channel_id: str) -> tuple[KnownChannel, ChannelHost]:
        channel = self._known(app, channel_id)
        if channel.host is None:
            locked = "channel is locked: create it with its keys"
            raise IpcError(ErrorCode.BAD_REQUEST, locked if channel.locked else "channel is closed")
        return channel, channel.host

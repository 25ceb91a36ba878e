"""The way out: the kernel's message streams to JetStream (SPEC.md, 3.1 and 3.2).

The feed of the client detects gaps and fills them from the kernel's ring. What the ring does not have either,
and what came while the node had no peers, becomes a time span that `store_fill` fetches from stores. A
JetStream that is slow or away holds the reader back; the feed then leaves messages in the kernel's ring,
and the kernel is never slowed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import replace
from typing import Final

from ipc_schema.config.bridge import BridgeConfig
from ipc_schema.message import format_hash
from ipc_schema.steady import SteadyClock
from ipc_schema.streams import StreamState
from ipc_schema.streams.coverage import holes
from ipc_schema.topics import autoshard
from logos_bridge.figures import BridgeFigures
from logos_bridge.headers import message_headers
from logos_bridge.jetstream import JetStreamLink, WrongRevisionError
from logos_bridge.label_clock import UNKNOWN_NS, LabelClock
from logos_bridge.positions import OutPosition, PositionError, first_span
from logos_bridge.shard_stream import Publication, ShardStream
from logos_bridge.store_fill import StoreFill
from logos_bridge.subjects import encode_topic
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient, KernelFeed
from logos_client.kernel_events import KernelFound, KernelLost, KernelMessage, StreamLoss, source_name
from logos_process.exits import StartError
from logos_process.host_clock import boot_id, boot_ns

log = logging.getLogger(__name__)

_SAVE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 10.0
_RETRY: Final = 1.0
_BYTES: Final = 32 << 20
_SETTLED_NS: Final = 2_000_000_000
"""A gap shows within two heartbeats."""


class Outward:
    """One bridge's way out. `run` works until it is cancelled."""

    def __init__(
        self,
        config: BridgeConfig,
        kernel: KernelClient,
        peer_id: str,
        link: JetStreamLink,
        figures: BridgeFigures,
    ) -> None:
        self._kernel = kernel
        self._peer_id = peer_id
        self._link = link
        self._figures = figures
        self._run_id = os.urandom(8).hex()
        self._topics = frozenset(config.outward.bridge_content_topic)
        network = kernel.network
        shards = _shards(config, network.shard_count)
        self.streams = {
            shard: ShardStream(
                link,
                figures,
                shard,
                link.layout.shard_subject(network.cluster, shard),
                config.outward.bridge_duplicate_window,
                max(1 << 20, _BYTES // max(1, len(shards))),
            )
            for shard in shards
        }
        self._named = {f"m/{network.cluster}/{shard}": stream for shard, stream in self.streams.items()}
        self._clock = LabelClock(SteadyClock(time.time_ns, boot_ns, boot_id()), self._clock_stepped)
        self._fill = StoreFill(
            kernel,
            peer_id,
            link,
            figures,
            list(self.streams.values()),
            self._topics,
            config.outward.bridge_max_age,
            self._clock,
        )
        self._feed: KernelFeed | None = None
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Publish until cancelled."""
        states = await self._lease()
        for state in states:
            await self._load(self.streams[state.shard], state)
        async with await self._open() as self._feed, asyncio.TaskGroup() as group:
            group.create_task(self._read(self._feed), name="out: read")
            group.create_task(self._keep(), name="out: positions")
            group.create_task(self._attend(), name="out: answers")
            group.create_task(self._look(), name="out: coverage")
            group.create_task(self._fill.run(), name="out: stores")
            for stream in self.streams.values():
                group.create_task(stream.run(), name=f"out: shard {stream.shard}")

    # -- start ---------------------------------------------------------------------------------------------

    async def _lease(self) -> list[StreamState]:
        while True:
            try:
                return await self._kernel.lease(self.streams)
            except LogosError as error:
                self._figures.trouble("out", f"no lease: {error.message}")
                await asyncio.sleep(_RETRY)

    async def _load(self, stream: ShardStream, state: StreamState) -> None:
        """Find where to go on: the node's own position, else the first message that the kernel still has."""
        now = self._clock()
        stream.read_ns = stream.covered_ns = now
        found = await self._link.get(self._link.layout.state_bucket, self._key(stream))
        if found is not None:
            stream.revision = found.seq
            try:
                stream.position = self._relabelled(OutPosition.decode(found.data))
            except PositionError as error:
                log.error("shard %d: %s: begins with what the kernel still has", stream.shard, error)
        if stream.position.epoch:
            stream.read_ns = stream.position.time_ns
            if stream.position.epoch == state.epoch:
                stream.covered_ns = stream.position.time_ns
            return
        spans = () if (span := first_span(await self._others(stream), now)) is None else (span,)
        stream.position = OutPosition(
            epoch=state.epoch, seq=max(0, state.first - 1), time_ns=now, spans=spans
        )

    def _relabelled(self, position: OutPosition) -> OutPosition:
        """Label a position's times by the clock as it is now."""
        if position.stamp is not None:
            return position.moved(self._clock.since(position.stamp))
        now = self._clock()
        return position.moved(now - UNKNOWN_NS - position.time_ns) if position.time_ns > now else position

    def _clock_stepped(self, by: int) -> None:
        log.warning("the wall clock was set by %+.0f s", by / 1e9)
        for stream in self.streams.values():
            stream.clock_stepped(by)

    async def _others(self, stream: ShardStream) -> list[OutPosition]:
        layout = self._link.layout
        key = layout.position_key(">", self._kernel.network.cluster, stream.shard)
        found = []
        async for entry in self._link.scan(f"KV_{layout.state_bucket}", f"$KV.{layout.state_bucket}.{key}"):
            try:
                found.append(OutPosition.decode(entry.data))
            except PositionError as error:
                log.warning("%s: %s", entry.subject, error)
        return found

    def _key(self, stream: ShardStream) -> str:
        return self._link.layout.position_key(self._peer_id, self._kernel.network.cluster, stream.shard)

    async def _open(self) -> KernelFeed:
        after = {
            stream.shard: (stream.position.epoch, stream.position.seq) for stream in self.streams.values()
        }
        while True:
            feed = self._kernel.events(shards=self.streams, after=after)
            try:
                await feed.__aenter__()
            except LogosError as error:
                self._figures.trouble("out", f"no events: {error.message}")
                await asyncio.sleep(_RETRY)
            else:
                self._update_figures()
                self._figures.trouble("out", "")
                return feed

    # -- the messages --------------------------------------------------------------------------------------

    async def _read(self, feed: KernelFeed) -> None:
        async for event in feed:
            match event:
                case KernelMessage():
                    await self._take(self._named[event.stream], event)
                case StreamLoss():
                    stream = self._named[event.stream]
                    log.warning("shard %d: %s: asking stores", stream.shard, event.reason)
                    now = self._clock()
                    stream.lost((min(stream.read_ns, now), now))
                case KernelLost():
                    self._figures.trouble("kernel", event.reason)
                case KernelFound():
                    self._figures.trouble("kernel", "")

    async def _take(self, stream: ShardStream, event: KernelMessage) -> None:
        now = self._clock()
        time_ns = min(event.time_ns, now)  # the kernel's label may be older than a step of the clock
        stream.read_ns = max(stream.read_ns, time_ns)
        if self._topics and event.content_topic not in self._topics:
            stream.passed(event.epoch, event.seq, time_ns)
            return
        if stream.guard.reading_needed(time_ns, now, self._loop.time()) is not None:
            await self._fill.read_ids(stream, time_ns)
        digest = format_hash(event.message_hash)
        if stream.guard.known(digest):
            self._figures.count("bridge_out_messages", "result", "known")
            stream.passed(event.epoch, event.seq, time_ns)
            return
        await stream.publish(
            Publication(
                event.epoch,
                event.seq,
                time_ns,
                f"{stream.subject}.{encode_topic(event.content_topic)}",
                event.payload,
                message_headers(digest, event, source_name(event.source)),
            )
        )

    # -- positions -----------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Save positions. This waits for as long as NATS is away."""
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            for stream in self.streams.values():
                if self._drained and stream.idle:
                    now = self._clock()
                    settled = min(max(stream.position.time_ns, now - _SETTLED_NS), now)
                    stream.position = replace(stream.position, time_ns=settled)
                    stream.read_ns = min(max(stream.read_ns, settled), now)
                if self._link.connected:
                    await self._save(stream)

    @property
    def _drained(self) -> bool:
        """Whether all that the kernel has sent was read."""
        return self._feed is not None and not self._feed.buffered_bytes and self._kernel.connected

    async def _attend(self) -> None:
        """Notice what gets no answer, and report how far behind JetStream is."""
        while True:
            lost = await self._link.lost(_SAVE_SECONDS)
            for stream in self.streams.values():
                stream.expire(lost=lost)
            self._update_figures()

    async def _save(self, stream: ShardStream) -> None:
        stamp = self._clock.stamp()
        position = replace(stream.position, owner=self._run_id, stamp=stamp)
        if position == stream.saved:
            return
        bucket = self._link.layout.state_bucket
        try:
            stream.revision = await self._link.put(
                bucket, self._key(stream), position.encode(), {}, stream.revision
            )
        except WrongRevisionError:
            await self._reread(stream)
        else:
            stream.saved = position

    async def _reread(self, stream: ShardStream) -> None:
        """Take the revision of a key that was written meanwhile: by us, if an answer was lost."""
        found = await self._link.get(self._link.layout.state_bucket, self._key(stream))
        stream.revision = found.seq if found is not None else 0
        if found is None:
            return
        rival = OutPosition.decode(found.data)
        if rival.owner != self._run_id:
            # Published twice does no harm. What the other one knows to be missing must not be forgotten.
            self._figures.count("bridge_position_conflicts")
            log.warning("shard %d: another process writes the position of this node too", stream.shard)
            stream.position = stream.position.missing(*self._relabelled(rival).spans)

    async def _look(self) -> None:
        """Look for times in which the node had no peer on a shard."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                states = await self._kernel.lease(self.streams)
                await self._kernel.release(self.streams)  # of this time alone: the feed holds its own
            except LogosError as error:
                log.debug("no coverage: %s", error)
                continue
            for state in states:
                self._judge(self.streams[state.shard], state)

    def _judge(self, stream: ShardStream, state: StreamState) -> None:
        now = self._clock()
        found = holes(state.coverage, stream.covered_ns, now)
        stream.covered_ns = now
        if found and found[-1][1] >= now:
            stream.covered_ns = found.pop()[0]  # still open: its end is to come
        if found:
            log.warning("shard %d: no peers for %d time(s): asking stores", stream.shard, len(found))
            stream.lost(*found)

    def _update_figures(self) -> None:
        now, figures = self._clock(), self._figures
        shards = {}
        for shard, stream in self.streams.items():
            position = stream.position
            lag = 0.0 if self._drained and stream.idle else max(0, now - position.time_ns) / 1e9
            figures.gauge("bridge_out_lag_seconds", lag, "shard", str(shard))
            figures.gauge("bridge_out_missing_spans", len(position.spans), "shard", str(shard))
            figures.gauge("bridge_out_ids", len(stream.guard), "shard", str(shard))
            shards[str(shard)] = {
                "epoch": position.epoch.hex(),
                "seq": position.seq,
                "lagSeconds": round(lag, 3),
                "missing": [list(span) for span in position.spans],
            }
        figures.gauge("bridge_out_window", sum(stream.pending for stream in self.streams.values()))
        figures.facts["out"] = shards
        worst = max((float(one["lagSeconds"]) for one in shards.values()), default=0.0)  # type: ignore[arg-type]
        figures.trouble("lag", f"JetStream is {worst:.0f} s behind" if worst > 30 else "")
        figures.trouble("stores", self._fill.trouble)


def _shards(config: BridgeConfig, shard_count: int) -> tuple[int, ...]:
    if config.outward.bridge_shard:
        return config.outward.bridge_shard
    if not shard_count:
        raise StartError("bridge-shard: this network has no autosharding: name its shards")
    if config.outward.bridge_content_topic:
        return tuple(sorted({autoshard(topic, shard_count) for topic in config.outward.bridge_content_topic}))
    return tuple(range(shard_count))

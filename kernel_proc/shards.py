"""The shards of the node: leases and configuration decide, relay and event streams follow.

This is the single place that keeps relay subscription, recording and coverage of a shard in step: a shard is
joined with its first holder (a lease, or the operator's configuration) and left with the last one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.events import SOURCE_FILTER, SOURCE_RELAY
from ipc_schema.kernel.records import ShardHealth
from ipc_schema.leases import LeaseTable
from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.streams import StreamState
from ipc_schema.topics import MAX_SHARD, shard_topic
from kernel_proc.health import shard_health
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.metrics import Registry, Sample
from kernel_proc.protocols.filter.client import FilterClient
from kernel_proc.relay.seen import SeenCache
from kernel_proc.relay.service import RelayService
from logos_process.logs import fields

log = logging.getLogger(__name__)

EXPIRY_SECONDS: Final = 0.5
"""Interval between checks for expired leases."""
MAX_LEASES: Final = 65_536
RECENT_SECONDS: Final = 120.0
RECENT_KEPT: Final = 50_000
"""How long, and (twice) how many messages are remembered, to recognise those received through both relay
and filter."""
SIZE_BOUNDS_KB: Final = (0, 1, 3, 5, 15, 50, 75, 100, 125, 150, 500, 700, 1000)
"""nwaku's buckets of `histogram_message_size`, in kB."""


MessageSink = Callable[[str, WakuMessage, bytes, int], None]
"""Called with each new message of the joined shards: pubsub topic, message, message hash, source
(SOURCE_*)."""


@dataclass(slots=True, eq=False)
class _Joined:
    """A joined shard, with its traffic since then."""

    shard: int
    messages: int = 0
    bytes: int = 0
    largest: int = 0


class Shards:
    """The holders of shards, and the consequences.

    Messages come from the relay, unless it is off, and from the filter client, if there is one; without
    either, no shard can be joined. `static` are the configured shards, joined by `start`. `changed` is called
    when a shard was joined or left, or when the peers that push it changed. Lease times are seconds of
    `clock`.
    """

    def __init__(
        self,
        publisher: EventPublisher,
        *,
        cluster: int,
        shard_count: int,
        lease_ttl: float,
        static: Iterable[int],
        registry: Registry,
        clock: Callable[[], float] = trio.current_time,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._publisher = publisher
        self._cluster = cluster
        self._count = shard_count
        self._static = frozenset(static)
        self._leases = LeaseTable(lease_ttl)
        self.lease_ttl = lease_ttl
        self._clock = clock
        self._changed = changed
        self._relay: RelayService | None = None
        self.filter_client: FilterClient | None = None
        """A further source of messages; set before `start`."""
        self._recent: SeenCache | None = None
        self._started = False
        self._joined: dict[str, _Joined] = {}
        self._sinks: list[MessageSink] = []
        self._sizes = registry.histogram("histogram_message_size", SIZE_BOUNDS_KB)
        self._from_relay = registry.counter("node_messages", type="relay")
        self._from_filter = registry.counter("node_messages", type="filter")
        registry.add_source(self._samples)

    def start(self, relay: RelayService | None) -> None:
        """Set the relay (None: it is off) and join the configured shards."""
        self._relay = relay
        self._started = relay is not None or self.filter_client is not None
        for shard in sorted(self._static):
            self._join(shard)

    # --- leases ---

    def check(self, shard: int) -> str:
        """Return the pubsub topic of a shard of this network. Raise `IpcError` (`bad_request`) for any
        other."""
        if not 0 <= shard < (self._count or MAX_SHARD + 1):
            known = (
                f"the network has {self._count} (from 0)" if self._count else f"0 to {MAX_SHARD} are possible"
            )
            raise IpcError(ErrorCode.BAD_REQUEST, f"shard {shard} does not exist: {known}")
        return shard_topic(self._cluster, shard)

    def acquire(self, consumer: str, shards: Sequence[int]) -> list[StreamState]:
        """Lease shards to a consumer, or renew its leases: all or none. Raise `IpcError`."""
        for shard in shards:
            self.check(shard)
        if not self._started:
            raise IpcError(ErrorCode.NOT_READY, "relay is off on this node", retriable=False)
        now = self._clock()
        self.expire()
        wanted = dict.fromkeys(shards)
        # Renewals take no room: even at the limit, a lease must not expire because its renewal is refused.
        new = sum(not self._leases.is_held(consumer, shard) for shard in wanted)
        if new and len(self._leases) + new > MAX_LEASES:
            raise IpcError(ErrorCode.BUSY, f"{MAX_LEASES} leases are held", retry_after_ms=10_000)
        for shard in wanted:
            self._leases.acquire(consumer, shard, now)
            self._join(shard)
        return [self._publisher.state(shard) for shard in shards]

    def release(self, consumer: str, shards: Sequence[int]) -> list[int]:
        """Release leases. Return the shards that the consumer had leased."""
        released = [shard for shard in dict.fromkeys(shards) if self._leases.is_held(consumer, shard)]
        for shard in released:
            self._leases.release(consumer, shard)
            self._leave_unless_held(shard)
        if released and self.filter_client is not None:
            self.filter_client.leases_ended()
        return released

    def holds_lease(self, consumer: str) -> bool:
        return self._leases.holds_any(consumer)

    def is_leased(self, consumer: str, topic: str) -> bool:
        joined = self._joined.get(topic)
        return joined is not None and self._leases.is_held(consumer, joined.shard)

    def expire(self) -> None:
        """End expired leases."""
        before = len(self._leases)
        for shard in self._leases.expire(self._clock()):
            log.info("lease expired", extra=fields(shard=shard))
            self._leave_unless_held(shard)
        if self.filter_client is not None and len(self._leases) != before:
            self.filter_client.leases_ended()
        self._expire_recent()

    async def run(self) -> None:
        """Expire leases until cancelled."""
        while True:
            await trio.sleep(EXPIRY_SECONDS)
            self.expire()

    def _join(self, shard: int) -> None:
        topic = self.check(shard)
        if topic in self._joined or not self._started:
            return
        self._joined[topic] = _Joined(shard)
        self._publisher.activate(shard)
        if self._relay is not None:
            self._relay.subscribe(topic)
        self.relay_changed((topic,))
        log.info("shard joined", extra=fields(shard=shard, topic=topic))
        self._changed()

    def _leave_unless_held(self, shard: int) -> None:
        topic = shard_topic(self._cluster, shard)
        if shard in self._static or self._leases.is_active(shard) or topic not in self._joined:
            return
        del self._joined[topic]
        if self._relay is not None:
            self._relay.unsubscribe(topic)
        self._publisher.set_covered(shard, covered=False)
        self._publisher.deactivate(shard)
        log.info("shard left", extra=fields(shard=shard, topic=topic))
        self._changed()

    # --- messages from the relay ---

    def on_message(self, topic: str, message: WakuMessage, size: int) -> None:
        """Handle a new valid message of `size` encoded bytes."""
        joined = self._joined.get(topic)
        if joined is None:
            return
        joined.messages += 1
        joined.bytes += size
        if size > joined.largest:
            joined.largest = size
        self._sizes.observe(size / 1000)
        self._from_relay.value += 1
        self.deliver(topic, message, message_hash(topic, message), SOURCE_RELAY)

    # --- delivery ---

    def add_sink(self, sink: MessageSink) -> None:
        """Pass every new message to `sink` too; it must neither block nor raise."""
        self._sinks.append(sink)

    def deliver(self, topic: str, message: WakuMessage, digest: bytes, source: int) -> None:
        """Deliver a new message from any source to its shard's stream and to the sinks, if the node is on
        the shard. None of them waits for another."""
        joined = self._joined.get(topic)
        if joined is None:
            return
        if self._recent is None or self._is_new(digest):
            self._publisher.publish_message(joined.shard, message, digest, source)
        for sink in self._sinks:
            sink(topic, message, digest, source)

    def deliver_filtered(self, topic: str, message: WakuMessage, digest: bytes) -> bool:
        """Deliver a pushed message to its shard's stream. Return False if it is already there or the node is
        not on the shard.

        It does not go to the sinks: it has not passed the relay's validators, so it is neither archived nor
        pushed on.
        """
        joined = self._joined.get(topic)
        if joined is None or not self._is_new(digest):
            return False
        self._from_filter.value += 1
        self._publisher.publish_message(joined.shard, message, digest, SOURCE_FILTER)
        return True

    def _is_new(self, digest: bytes) -> bool:
        """Return whether the message is not on its stream yet, as far as we remember, and remember it."""
        recent = self._recent
        if recent is None:
            recent = self._recent = SeenCache(RECENT_SECONDS, RECENT_KEPT, self._clock())
        if digest in recent:
            return False
        recent.add(digest, self._clock())
        return True

    def _expire_recent(self) -> None:
        """Expire remembered messages. Only nodes that use filter pay for their memory."""
        recent = self._recent
        if recent is None:
            return
        recent.expire(self._clock())
        if not recent and not (self.filter_client is not None and self.filter_client.interests):
            self._recent = None

    def relay_changed(self, topics: Iterable[str]) -> None:
        """Update coverage after changes in the mesh or the subscribers of these topics."""
        relay, client = self._relay, self.filter_client
        for topic in topics:
            joined = self._joined.get(topic)
            if joined is not None:
                # A subscribed peer outside the mesh gossips its messages (IHAVE, gossipsub-v1.0): the shard
                # remains covered while peers refuse our GRAFT, as nim-libp2p does for a minute after a lost
                # stream.
                covered = bool(
                    relay is not None and (relay.mesh_peers(topic) or relay.topic_peers(topic))
                ) or bool(client is not None and client.interests.strength(topic))
                self._publisher.set_covered(joined.shard, covered=covered)

    def filter_changed(self, topics: Iterable[str]) -> None:
        """Update coverage after changes in the peers that push these topics."""
        if self._recent is None and self.filter_client is not None and self.filter_client.interests:
            self._recent = SeenCache(RECENT_SECONDS, RECENT_KEPT, self._clock())
        self.relay_changed(topics)
        self._changed()

    # --- inspection ---

    def joined(self) -> list[int]:
        return [joined.shard for joined in self._joined.values()]

    def states(self) -> list[StreamState]:
        return [self._publisher.state(shard) for shard in self._publisher.active_shards()]

    def health(self) -> list[ShardHealth]:
        """Return the health of the joined shards; with autosharding also of the others (NOT_SUBSCRIBED)."""
        shards = range(self._count) if self._count else sorted(self.joined())
        return [self._health(shard) for shard in shards]

    def _health(self, shard: int) -> ShardHealth:
        topic = shard_topic(self._cluster, shard)
        relay = self._relay
        return shard_health(
            shard,
            topic,
            len(relay.mesh_peers(topic)) if relay else 0,
            len(relay.topic_peers(topic)) if relay else 0,
            subscribed=topic in self._joined,
            pushing=self.filter_client.interests.strength(topic) if self.filter_client is not None else 0,
        )

    def _samples(self) -> Iterable[Sample]:
        for joined in self._joined.values():
            labels = {"shard": str(joined.shard)}
            average = joined.bytes / joined.messages if joined.messages else 0
            yield "relay_avg_msg_bytes_per_shard", labels, average
            yield "relay_max_msg_bytes_per_shard", labels, joined.largest
            yield "relay_total_msg_bytes_per_shard", labels, joined.bytes

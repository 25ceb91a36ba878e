"""The blocking form of `logos_client.KernelClient`. Threads, forks and Ctrl-C: see the package's text.

with KernelClient.connect(run_dir) as kernel:
    print(kernel.info()["MyPeerId"])
    with kernel.events(shards=[0]) as feed:
        for event in feed:
            print(event)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import zmq

from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.methods import ConnectResult, KernelLimits, OptionRecord, RelayPublishReply
from ipc_schema.kernel.records import NodeHealth, PeerRecord
from ipc_schema.paths import KernelEndpoints
from ipc_schema.streams import StreamState
from logos_client import _feed, control, kernel
from logos_client._connection import DEFAULT_TIMEOUT
from logos_client._feed import FeedCounters
from logos_client.blocking._base import BlockingClient, EventTap, here, open_client
from logos_client.blocking._discovery import DiscoveryMethods
from logos_client.blocking._portal import Portal
from logos_client.blocking._services import ServiceMethods
from logos_client.blocking.control import ControlClient
from logos_client.exceptions import ClosedError, ForkedError
from logos_client.kernel import DEFAULT_FEED_BYTES
from logos_client.kernel_events import KernelEvent

__all__ = ["KernelClient", "KernelFeed"]


class KernelClient(ServiceMethods, DiscoveryMethods, BlockingClient):
    """A consumer of a kernel. Made by `connect`.

    It reconnects by itself, says hello again and takes its leases again.
    """

    def __init__(self, portal: Portal, client: kernel.KernelClient) -> None:
        """Not for apps: see `connect`."""
        super().__init__(portal)
        self._client: kernel.KernelClient = client

    def __repr__(self) -> str:
        return f"<blocking.{repr(self._client)[1:]}"

    # -- opening ---------------------------------------------------------------------------------------------

    @classmethod
    def connect(
        cls,
        where: str | Path | KernelEndpoints,
        *,
        name: str | None = None,
        kind: str = "tool",
        timeout: float | None = DEFAULT_TIMEOUT,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> Self:
        """Connect to a kernel.

        `where`: the node's run directory, or its endpoints. `name`: the consumer's (`[a-z0-9._-]{1,64}`):
        leases belong to it and are continued by the next connection under it; without one the kernel makes
        one up. `kind`: `"tool"`, `"app"` or `"mapi"`. `timeout`: seconds to wait for the kernel, None for
        ever.

        Raises `NotReadyError`, `UnsupportedVersionError`, `UnauthorisedError`, `BadRequestError`.
        """

        async def open_kernel() -> kernel.KernelClient:
            return await kernel.KernelClient.connect(
                where, name=name, kind=kind, timeout=timeout, context=context
            )

        return cls(*open_client("kernel client", open_kernel))

    # -- what is known ---------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the kernel is there now."""
        return self._portal.open and self._client.connected

    @property
    def instance(self) -> bytes:
        """Random per start of the kernel."""
        return self._client.instance

    @property
    def consumer(self) -> str:
        """The name under which the kernel knows us."""
        return self._client.consumer

    @property
    def network(self) -> NetworkInfo:
        """The network the node is on."""
        return self._client.network

    @property
    def limits(self) -> KernelLimits:
        """The kernel's limits."""
        return self._client.limits

    @property
    def server(self) -> str:
        """Name and version of the kernel."""
        return self._client.server

    # -- relay -----------------------------------------------------------------------------------------------

    def publish(
        self,
        content_topic: str,
        payload: bytes,
        *,
        pubsub_topic: str | None = None,
        shard: int | None = None,
        timestamp: int | None = None,
        meta: bytes = b"",
        version: int = 0,
        ephemeral: bool = False,
        proof: bytes = b"",
        force: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> RelayPublishReply:
        """Publish a message; how many peers it went to, and its hash.

        Without topic and shard the content topic decides (autosharding); without `timestamp` (ns) the
        kernel stamps now. The same bytes again are no error and go nowhere (`duplicate`), unless `force`.

        Raises `NoPeersError` (`detail` has message_hash and timestamp; local readers get the message all
        the same), `TooLargeError`, `BadRequestError`, `PeerRestartedError` (publishing the same again, with
        the same timestamp, is safe).
        """
        return self._portal.call(
            self._client.publish,
            content_topic,
            payload,
            pubsub_topic=pubsub_topic,
            shard=shard,
            timestamp=timestamp,
            meta=meta,
            version=version,
            ephemeral=ephemeral,
            proof=proof,
            force=force,
            timeout=timeout,
        )

    def relay_peers(self, pubsub_topic: str | None = None) -> dict[str, tuple[str, ...]]:
        """Pubsub topic → peers that are subscribed to it."""
        return self._portal.call(self._client.relay_peers, pubsub_topic)

    def mesh(self, pubsub_topic: str | None = None) -> dict[str, tuple[str, ...]]:
        """Pubsub topic → peers in its mesh."""
        return self._portal.call(self._client.mesh, pubsub_topic)

    # -- peers and node --------------------------------------------------------------------------------------

    def peers(self) -> list[PeerRecord]:
        """All connected peers: how each was found (`origin`), what it serves, its shards, score and mesh."""
        return self._portal.call(self._client.peers)

    def connect_peers(self, addresses: str | Iterable[str], *, timeout: float = 30.0) -> list[ConnectResult]:
        """Dial multiaddresses; what became of each."""
        return self._portal.call(self._client.connect_peers, here(addresses), timeout=timeout)

    def disconnect_peer(self, peer_id: str) -> bool:
        """Disconnect a peer; False: it was not connected."""
        return self._portal.call(self._client.disconnect_peer, peer_id)

    def health(self) -> NodeHealth:
        """State of the node, of each protocol and shard, and of its event loop."""
        return self._portal.call(self._client.health)

    def info(self, ids: Iterable[str] | None = None) -> dict[str, object]:
        """Facts about the node: Version, Metrics, MyMultiaddresses, MyENR, MyPeerId, MyBoundPorts,
        MaxMessageSize."""
        return self._portal.call(self._client.info, None if ids is None else here(ids))

    def config(self) -> list[OptionRecord]:
        """Each configuration option with its value and where that came from."""
        return self._portal.call(self._client.config)

    def metrics(self) -> list[tuple[str, dict[str, str], float]]:
        """(name, labels, value) of each sample."""
        return self._portal.call(self._client.metrics)

    def control(self, *, timeout: float | None = 5.0) -> ControlClient:
        """The kernel's control socket: health, shutdown, log level. A client of its own, to be closed."""
        self._portal.check()

        async def open_control() -> control.ControlClient:
            return await self._client.control(timeout=timeout)

        return ControlClient(*open_client("control", open_control))

    # -- streams ---------------------------------------------------------------------------------------------

    def lease(self, shards: Iterable[int]) -> list[StreamState]:
        """Make the kernel take part in shards and record them, until `release` or `close`; renewed by
        itself."""
        return self._portal.call(self._client.lease, list(shards))

    def release(self, shards: Iterable[int]) -> None:
        """Undo `lease` for these shards (each as often as it was leased)."""
        self._portal.call(self._client.release, list(shards))

    def events(
        self,
        *,
        shards: Iterable[int] = (),
        health: bool = False,
        peers: bool = False,
        lease: bool = True,
        max_bytes: int = DEFAULT_FEED_BYTES,
    ) -> KernelFeed:
        """A feed of events: enter it as a context, iterate over it.

        `shards`: messages of these, leased for as long as the feed is open unless `lease` is False (then
        there is no replay, and nothing comes while nobody else leases them). `health`, `peers`: those
        streams too. `max_bytes`: what may wait here.

        Entering raises `NotReadyError` when the subscriptions do not come into force.
        """

        wanted = list(shards)

        async def make() -> _feed.KernelFeed:
            return self._client.events(
                shards=wanted, health=health, peers=peers, lease=lease, max_bytes=max_bytes
            )

        return KernelFeed(self._portal, self._portal.call(make))

    def replay(self, stream: str, epoch: bytes, after: int) -> tuple[list[tuple[bytes, bytes]], bool]:
        """One page of a stream behind `after`, as (header, payload) frames, and whether it was the last page.

        Raises `TrimmedError`, `EpochChangedError`, `BusyError` (one replay of a consumer at a time).
        """
        return self._portal.call(self._client.replay, stream, epoch, after)


class KernelFeed:
    """Events of some of the kernel's streams, in each stream's order. Made by `KernelClient.events`.

        with client.events(shards=[0]) as feed:
            for event in feed:
                if isinstance(event, KernelMessage): ...

    A gap in a message stream is filled by replay, and a `StreamLoss` where it cannot be. When the reader is
    slow, live events are left in the kernel's ring at `max_bytes`, and asked for once there is room:
    nothing piles up here. It ends with its client at the latest.
    """

    def __init__(self, portal: Portal, feed: _feed.KernelFeed) -> None:
        """Not for apps: see `KernelClient.events`."""
        self._portal = portal
        self._feed = feed

        async def take() -> KernelEvent | None:
            return await anext(feed, None)

        self._events: EventTap[KernelEvent] = EventTap(portal, take)

    def __enter__(self) -> Self:
        """Lease the shards, subscribe, and wait until the subscriptions are in force."""
        self._portal.call(self._feed.__aenter__)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unsubscribe, and give the leases back."""
        if self._portal.open:
            with contextlib.suppress(ClosedError):  # another thread has closed the client meanwhile
                self._portal.call(self._feed.close)

    def __iter__(self) -> Iterator[KernelEvent]:
        return self

    def __next__(self) -> KernelEvent:
        try:
            return self.next_event()
        except ForkedError:
            raise
        except ClosedError:
            raise StopIteration from None

    def next_event(self, timeout: float | None = None) -> KernelEvent:
        """The next event. Raises `DeadlineError` when there is none within `timeout` seconds, `ClosedError`
        when none can come any more, RuntimeError while another thread waits for it."""
        return self._events.next(timeout)

    @property
    def counters(self) -> FeedCounters:
        """What happened to events on their way in."""
        return self._feed.counters

    @property
    def buffered_bytes(self) -> int:
        """What the events that wait here cost in memory, roughly."""
        return self._feed.buffered_bytes

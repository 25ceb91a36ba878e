"""The client of a kernel, for operators' tools and for programs that want the relay without a Messaging API.

    async with KernelClient.connect(run_dir) as kernel:
        print((await kernel.info())["MyPeerId"])
        async with kernel.events(shards=[0]) as feed:
            async for event in feed:
                print(event)

The event classes are in `logos_client.kernel_events`, the errors in `logos_client.exceptions`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import zmq

from ipc_schema.control import HEALTH
from ipc_schema.errors import IpcError
from ipc_schema.frames import Reply
from ipc_schema.hello import HelloRequest, NetworkInfo
from ipc_schema.kernel import methods
from ipc_schema.kernel.events import HEALTH_TOPIC, PEERS_TOPIC, stream_name, stream_topic
from ipc_schema.kernel.methods import KernelHello, KernelLimits
from ipc_schema.names import check_name
from ipc_schema.paths import KernelEndpoints
from ipc_schema.streams import StreamState
from logos_client._arguments import kernel_at, need_server
from logos_client._connection import DEFAULT_TIMEOUT, RequestConnection
from logos_client._connection_types import ConnectionSettings
from logos_client._discovery import DiscoveryMethods
from logos_client._feed import KernelFeed
from logos_client._leases import LeaseKeeper
from logos_client._node import NodeMethods
from logos_client._opening import Opening
from logos_client._process import HomeProcess
from logos_client._services import ServiceMethods, StorePage
from logos_client._store_admin import StoreAdminMethods
from logos_client.control import ControlClient
from logos_client.exceptions import ClosedError, public_errors

__all__ = ["DEFAULT_FEED_BYTES", "KernelClient", "KernelFeed", "StorePage"]

log: logging.Logger = logging.getLogger(__name__)

_MAX_FRAME: Final = 64 << 20
_CONTROL_TIMEOUT: Final = 1.0
DEFAULT_FEED_BYTES: Final = 8 << 20


class KernelClient(NodeMethods, ServiceMethods, DiscoveryMethods, StoreAdminMethods):
    """A consumer of a kernel, on the running asyncio loop. Created by `connect`.

    It reconnects by itself, repeats its hello and reacquires its leases. Use it from the loop (and so the
    thread) that created it; after a fork it raises `ForkedError` in the child. For other threads, and
    programs without a loop, there is `logos_client.blocking`.
    """

    def __init__(
        self,
        endpoints: KernelEndpoints,
        *,
        name: str | None,
        kind: str,
        context: zmq.Context[zmq.Socket[bytes]] | None,
    ) -> None:
        """Internal: use `connect`."""
        self.replay_lock: asyncio.Lock = asyncio.Lock()
        self._home = HomeProcess()
        self.events_endpoint: str = endpoints.events
        self._endpoints = endpoints
        self._name = name
        self._kind = kind
        self._context = context
        self._hello: KernelHello | None = None
        self._control: RequestConnection | None = None
        self._feeds: set[KernelFeed] = set()
        self._closed = False
        settings = ConnectionSettings(
            hello=self._hello_body,
            on_hello=self._greeted,
            on_down=self._lost,
            on_refused=lambda error: self._lost(str(error)),
            max_frame=_MAX_FRAME,
        )
        self._connection = RequestConnection(endpoints.requests, settings, context=context)
        self._leases = LeaseKeeper(self._connection)

    # -- opening and closing ---------------------------------------------------------------------------------

    @classmethod
    def connect(
        cls,
        where: str | Path | KernelEndpoints,
        *,
        name: str | None = None,
        kind: str = "tool",
        timeout: float | None = DEFAULT_TIMEOUT,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> Opening[Self]:
        """Connect to a kernel: `await` it, or enter it as a context.

        `where`: the node's run directory, or its endpoints. `name`: the consumer's (`[a-z0-9._-]{1,64}`):
        leases belong to it and are continued by its next connection; without one the kernel generates one.
        `kind`: `"tool"`, `"app"` or `"mapi"`. `timeout`: seconds to wait for the kernel, None for ever.

        Raises `NotReadyError`, `UnsupportedVersionError`, `UnauthorisedError`, `BadRequestError`.
        """

        endpoints = kernel_at(where)

        async def open_client() -> Self:
            with public_errors():
                if name is not None:
                    check_name(name)
                client = cls(endpoints, name=name, kind=kind, context=context)
                try:
                    await client._connection.wait_ready(timeout)
                except BaseException:
                    await client.close()
                    raise
                return client

        return Opening(open_client)

    async def close(self) -> None:
        """Close the feeds, release the leases, disconnect."""
        if self._closed or self._home.left:
            return
        for feed in list(self._feeds):
            await feed.close()
        self._closed = True
        await self._leases.close()
        if self._control is not None:
            await self._control.close()
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._connection.state.value
        return f"<KernelClient {self.consumer!r} at {self._connection.endpoint}: {state}>"

    # -- what is known ---------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the kernel is connected now."""
        return self._connection.ready

    @property
    def instance(self) -> bytes:
        """Random id of the kernel's process, new at each start."""
        return self._connection.instance or b""

    @property
    def consumer(self) -> str:
        """The name under which the kernel knows us."""
        return self._greeting.consumer

    @property
    def network(self) -> NetworkInfo:
        """The network the node is on."""
        return self._greeting.network

    @property
    def limits(self) -> KernelLimits:
        """The kernel's limits."""
        return self._greeting.limits

    @property
    def server(self) -> str:
        """Name and version of the kernel."""
        return self._greeting.server

    @property
    def _greeting(self) -> KernelHello:
        assert self._hello is not None, "connect returns after the hello"
        return self._hello

    def control(self, *, timeout: float | None = 5.0) -> Opening[ControlClient]:
        """Connect to the kernel's control socket: health, shutdown, log level."""
        return ControlClient.connect(self._endpoints.control, timeout=timeout, context=self._context)

    # -- streams ---------------------------------------------------------------------------------------------

    async def lease(self, shards: Iterable[int]) -> list[StreamState]:
        """Make the kernel join shards and record them, until `release` or `close`; renewed automatically."""
        wanted = tuple(shards)
        with public_errors():
            return list(await self.hold(wanted))

    async def release(self, shards: Iterable[int]) -> None:
        """Undo `lease` for these shards (as often as they were leased)."""
        self._check_open()
        with public_errors():
            await self._leases.release(tuple(shards))

    def events(
        self,
        *,
        shards: Iterable[int] = (),
        health: bool = False,
        peers: bool = False,
        lease: bool = True,
        after: Mapping[int, tuple[bytes, int]] | None = None,
        max_bytes: int = DEFAULT_FEED_BYTES,
    ) -> KernelFeed:
        """Return a feed of events: enter it as a context, then iterate over it.

        `shards`: their messages, leased while the feed is open unless `lease` is False (then there is no
        replay, and no messages unless another consumer leases them). `health`, `peers`: those streams too.
        `after`: shard → (epoch, seq) of the last message handled by an earlier feed: the kernel's ring
        delivers what came since, and a `StreamLoss` reports what it no longer has. `max_bytes`: bound of the
        buffer here.

        Entering raises `NotReadyError` if the subscriptions do not come into force.
        """
        self._check_open()
        wanted = tuple(shards)
        cluster = self.network.cluster
        streams = {stream_topic(cluster, shard): stream_name(cluster, shard) for shard in wanted}
        if health:
            streams[HEALTH_TOPIC] = HEALTH_TOPIC[:-1].decode()
        if peers:
            streams[PEERS_TOPIC] = PEERS_TOPIC[:-1].decode()
        if not streams:
            raise ValueError("a feed of no stream: name shards, health or peers")
        feed = KernelFeed(
            self,
            streams=streams,
            shards=wanted,
            lease=lease,
            after={stream_name(cluster, shard): position for shard, position in (after or {}).items()},
            max_bytes=max_bytes,
            context=self._context,
        )
        self._feeds.add(feed)
        return feed

    async def replay(self, stream: str, epoch: bytes, after: int) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Return one page of a stream behind `after`, as (header, payload) frames, and whether it was the
        last page.

        Raises `TrimmedError`, `EpochChangedError`, `BusyError` (one replay per consumer at a time).
        """
        request = methods.StreamReplayRequest(stream=stream, epoch=epoch, after=after)
        self._check_open()
        with public_errors():
            async with self.replay_lock:
                reply = await self.ask(methods.STREAM_REPLAY, request.to_body())
            page = methods.StreamReplayReply.from_body(reply.body)
            return methods.replayed_events(page, reply.blobs), page.complete

    # -- for feeds -------------------------------------------------------------------------------------------

    async def ask(
        self, method: str, body: Mapping[str, object] | None = None, blobs: Sequence[bytes] = ()
    ) -> Reply:
        """For feeds: make one request. Raises `IpcError`."""
        return await self._connection.request(method, body, blobs)

    @property
    def heartbeat(self) -> float:
        """For feeds: seconds between heartbeats."""
        return self._greeting.heartbeat_ms / 1000

    async def answers(self) -> bool:
        """For feeds: whether the control socket answers."""
        if self._control is None:
            self._control = RequestConnection(self._endpoints.control, context=self._context)
        try:
            await self._control.request(HEALTH, timeout=_CONTROL_TIMEOUT)
        except IpcError as error:
            log.debug("asking %s: %s", self._endpoints.control, error)
            return False
        return True

    async def hold(self, shards: Sequence[int]) -> Sequence[StreamState]:
        """For feeds: `lease`. Raises `IpcError`."""
        self._check_open()
        return await self._leases.hold(shards)

    async def drop(self, feed: KernelFeed, shards: Sequence[int]) -> None:
        """For feeds: end one."""
        self._feeds.discard(feed)
        try:
            await self._leases.release(shards)
        except IpcError as error:
            log.debug("releasing %s: %s", list(shards), error)

    # -- the connection --------------------------------------------------------------------------------------

    def _hello_body(self) -> dict[str, object]:
        return HelloRequest(kind=self._kind, name=self._name).to_body()

    def _greeted(self, reply: Reply) -> None:
        need_server(reply.body.get("server"), "logos-kernel", "a kernel: apps use MessagingClient")
        hello = KernelHello.from_body(reply.body, "hello: the reply is not that of a kernel")
        before, self._hello = self._hello, hello
        if hello.events:
            self.events_endpoint = hello.events
        self._leases.renew_every = hello.limits.lease_renew_ms / 1000
        self._leases.renew_now()
        if before is not None:
            for feed in self._feeds:
                feed.found(hello.instance, restarted=hello.instance != before.instance)

    def _lost(self, reason: str) -> None:
        for feed in self._feeds:
            feed.lost(reason)

    async def _reply(
        self,
        method: str,
        body: Mapping[str, object] | None = None,
        blobs: Sequence[bytes] = (),
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Reply:
        self._check_open()
        with public_errors():
            return await self._connection.request(method, body, blobs, timeout=timeout)

    def _check_open(self) -> None:
        self._home.check()
        if self._closed:
            raise ClosedError

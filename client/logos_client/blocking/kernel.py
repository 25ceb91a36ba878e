"""The blocking form of `logos_client.KernelClient`. For threads, forks and Ctrl-C see
`logos_client.blocking`.

with KernelClient.connect(run_dir) as kernel:
    print(kernel.info()["MyPeerId"])
    with kernel.events(shards=[0]) as feed:
        for event in feed:
            print(event)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

import zmq

from ipc_schema.paths import KernelEndpoints
from logos_client import _feed, control, kernel
from logos_client._connection import DEFAULT_TIMEOUT
from logos_client._feed import FeedCounters
from logos_client.blocking._base import EventTap, open_client
from logos_client.blocking._kernel_calls import KernelCalls
from logos_client.blocking._portal import Portal
from logos_client.blocking.control import ControlClient
from logos_client.exceptions import ClosedError, ForkedError
from logos_client.kernel import DEFAULT_FEED_BYTES
from logos_client.kernel_events import KernelEvent

__all__ = ["KernelClient", "KernelFeed"]


class KernelClient(KernelCalls):
    """A consumer of a kernel. Created by `connect`.

    It reconnects by itself, repeats its hello and reacquires its leases.
    """

    def __init__(self, portal: Portal, client: kernel.KernelClient) -> None:
        """Internal: use `connect`."""
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
        leases belong to it and are continued by its next connection; without one the kernel generates one.
        `kind`: `"tool"`, `"app"` or `"mapi"`. `timeout`: seconds to wait for the kernel, None for ever.

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
        """Whether the kernel is connected now."""
        return self._portal.open and self._client.connected

    # -- peers and node --------------------------------------------------------------------------------------

    def control(self, *, timeout: float | None = 5.0) -> ControlClient:
        """Connect to the kernel's control socket (health, shutdown, log level).

        Close that client yourself.
        """
        self._portal.check()

        async def open_control() -> control.ControlClient:
            return await self._client.control(timeout=timeout)

        return ControlClient(*open_client("control", open_control))

    # -- streams ---------------------------------------------------------------------------------------------

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

        wanted = list(shards)

        async def make() -> _feed.KernelFeed:
            return self._client.events(
                shards=wanted, health=health, peers=peers, lease=lease, after=after, max_bytes=max_bytes
            )

        return KernelFeed(self._portal, self._portal.call(make))


class KernelFeed:
    """Events of some of the kernel's streams, each stream in order. Created by `KernelClient.events`.

        with client.events(shards=[0]) as feed:
            for event in feed:
                if isinstance(event, KernelMessage): ...

    A gap in a message stream is filled by replay, or reported as a `StreamLoss`. Above `max_bytes` a slow
    reader's live events are left in the kernel's ring and replayed once there is room: memory stays bounded
    here. It ends with its client at the latest.
    """

    def __init__(self, portal: Portal, feed: _feed.KernelFeed) -> None:
        """Internal: use `KernelClient.events`."""
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
        """Unsubscribe and release the leases."""
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
        """Return the next event.

        Raises `DeadlineError` if there is none within `timeout` seconds, `ClosedError` if there can be no
        more, RuntimeError while another thread waits for it.
        """
        return self._events.next(timeout)

    @property
    def counters(self) -> FeedCounters:
        """Counters of incoming events."""
        return self._feed.counters

    @property
    def buffered_bytes(self) -> int:
        """Approximate memory of the buffered events."""
        return self._feed.buffered_bytes

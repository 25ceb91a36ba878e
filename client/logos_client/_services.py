"""What a kernel's client asks of other nodes: history, publishing, pushes, records of peers.

All of these name a peer or leave the choice to the kernel, which then tries good ones until one has done it.
What peers answered is in the `detail` of an error: `attempts`, of `peer`, `error` and, where the peer itself
refused, `status`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from ipc_schema.kernel.filter import (
    FILTER_PING,
    FILTER_SUBSCRIBE,
    FILTER_SUBSCRIBERS,
    FILTER_UNSUBSCRIBE,
    FilterPingReply,
    FilterPingRequest,
    FilterSubscriber,
    FilterSubscribeReply,
    FilterSubscribeRequest,
    FilterSubscribersReply,
    FilterUnsubscribeReply,
    FilterUnsubscribeRequest,
)
from ipc_schema.kernel.lightpush import LIGHTPUSH_PUBLISH, LightpushPublishReply, LightpushPublishRequest
from ipc_schema.kernel.peer_exchange import PEER_EXCHANGE_REQUEST, PeerExchangeReply, PeerExchangeRequest
from ipc_schema.kernel.store import (
    STORE_QUERY,
    StoredMessage,
    StoreQueryReply,
    StoreQueryRequest,
    stored_messages,
)
from logos_client._arguments import as_bytes, as_text
from logos_client._calls import Calls, texts
from logos_client.exceptions import public_errors

__all__ = ["PEER_TIMEOUT", "ServiceMethods", "StorePage"]

PEER_TIMEOUT: Final = 30.0
"""Seconds for what other nodes are asked: several may be tried, one after the other."""


class StorePage(NamedTuple):
    """What a store has of what it was asked for. Oldest first, whichever the direction."""

    peer: str
    """Who answered: the peer id."""
    hashes: tuple[bytes, ...]
    messages: tuple[StoredMessage, ...]
    """One for each hash, with its pubsub topic; none where no data was asked for."""
    cursor: bytes | None
    """For the next page in the direction of the query; None: there is nothing more."""


class ServiceMethods(Calls):
    """The part of a `KernelClient` that is about other nodes' services."""

    # -- store -----------------------------------------------------------------------------------------------

    async def store_query(
        self,
        content_topics: str | Iterable[str] = (),
        *,
        pubsub_topic: str | None = None,
        time_start: int | None = None,
        time_end: int | None = None,
        hashes: Iterable[bytes] = (),
        cursor: bytes | None = None,
        forward: bool = True,
        limit: int = 20,
        include_data: bool = False,
        max_messages: int | None = None,
        peer: str | None = None,
        timeout: float = PEER_TIMEOUT,
    ) -> StorePage:
        """Ask a store for history; what is given must all hold for a message (13/WAKU2-STORE).

            page = await kernel.store_query("/app/1/chat/proto", include_data=True, forward=False)
            for stored in page.messages:                        # the newest twenty, the oldest of them first
                print(stored.message.timestamp, stored.message.payload)
            if page.cursor is not None:                                                  # those before them
                page = await kernel.store_query(
                    "/app/1/chat/proto", include_data=True, forward=False, cursor=page.cursor, peer=page.peer
                )
            here = await kernel.store_query(hashes=some, limit=100)  # which of these a store has: here.hashes

        Times are in nanoseconds, both inclusive. One page of at most `limit` (100) messages is asked for;
        with `max_messages` (2000) pages are followed until so many have come or there are no more, and a
        cursor says that something is left. Continue a cursor at the same `peer`: stores differ. `peer`: a
        peer id or multiaddr; the node's own peer id is its own archive; None: a good one, and others if it
        fails.

        Raises `NoPeersError` (nobody answered; `detail`: attempts), `BadRequestError` (a cursor that the
        store does not know, too), `NotReadyError` (own archive off or down), `RateLimitedError`,
        `DeadlineError`.
        """
        request = StoreQueryRequest(
            pubsub_topic=pubsub_topic,
            content_topics=texts(content_topics),
            time_start=time_start,
            time_end=time_end,
            hashes=tuple(hashes),
            cursor=cursor,
            forward=forward,
            limit=limit,
            include_data=include_data,
            max_messages=max_messages,
            peer=peer,
        )
        reply = await self._reply(STORE_QUERY, request.to_body(), timeout=timeout)
        with public_errors():
            page = StoreQueryReply.from_body(reply.body)
            messages = stored_messages(page, reply.blobs) if include_data else ()
        return StorePage(page.peer, page.hashes, tuple(messages), page.cursor)

    # -- lightpush -------------------------------------------------------------------------------------------

    async def lightpush_publish(
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
        peer: str | None = None,
        timeout: float = PEER_TIMEOUT,
    ) -> LightpushPublishReply:
        """Have another node publish a message (19/WAKU2-LIGHTPUSH): the way of a node without relay.

            done = await kernel.lightpush_publish("/app/1/chat/proto", b"hello")
            print(done.message_hash.hex(), "went to", done.relay_peers, "peers of", done.peer)

        Topic, shard and timestamp (ns) as for `publish`. `peer`: a peer id or multiaddr; None: good ones are
        tried until one has done it.

        Raises `NoPeersError` (nobody did it; `detail` has message_hash, timestamp and the attempts: the same
        again, with the same timestamp, is safe), `BadRequestError` (also: refused by the peer),
        `TooLargeError`, `RateLimitedError`, `DeadlineError`.
        """
        request = LightpushPublishRequest(
            content_topic=as_text("content topic", content_topic),
            pubsub_topic=pubsub_topic,
            shard=shard,
            timestamp=timestamp,
            meta=as_bytes("meta", meta),
            version=version,
            ephemeral=ephemeral,
            proof=proof,
            peer=peer,
        )
        return await self._call(
            LightpushPublishReply,
            LIGHTPUSH_PUBLISH,
            request.to_body(),
            [as_bytes("payload", payload)],
            timeout=timeout,
        )

    # -- filter ----------------------------------------------------------------------------------------------

    async def filter_subscribe(
        self,
        content_topics: str | Iterable[str],
        *,
        pubsub_topic: str | None = None,
        shard: int | None = None,
        peer: str | None = None,
        exclude: Iterable[str] = (),
        timeout: float = PEER_TIMEOUT,
    ) -> FilterSubscribeReply:
        """Have another node push messages to this one (12/WAKU2-FILTER): on its event stream they are like
        all others, with `SOURCE_FILTER`.

            async with kernel.events(shards=[0]) as feed:           # the lease that a subscription lasts by
                held = await kernel.filter_subscribe("/app/1/chat/proto")
                more = await kernel.filter_subscribe("/app/1/chat/proto", exclude=[held.peer])  # a second one
                async for event in feed:
                    ...

        All content topics must be of one shard, and a lease on it must be held; what is subscribed to ends
        with the lease. A subscription is lost when its peer leaves: `filter_ping` tells, and it is for the
        caller to subscribe anew. `peer`: a peer id or multiaddr; None: good ones that are not in `exclude`
        are tried until one has done it.

        Raises `NoPeersError` (nobody did it; `detail`: attempts), `BadRequestError` (no lease, too),
        `BusyError`, `RateLimitedError`, `DeadlineError`.
        """
        request = FilterSubscribeRequest(
            content_topics=texts(content_topics),
            pubsub_topic=pubsub_topic,
            shard=shard,
            peer=peer,
            exclude=tuple(exclude),
        )
        return await self._call(FilterSubscribeReply, FILTER_SUBSCRIBE, request.to_body(), timeout=timeout)

    async def filter_unsubscribe(
        self,
        content_topics: str | Iterable[str] = (),
        *,
        pubsub_topic: str | None = None,
        shard: int | None = None,
        peer: str | None = None,
        timeout: float = PEER_TIMEOUT,
    ) -> FilterUnsubscribeReply:
        """Give up content topics of one shard (none named: all), at one peer or at all of them.

            left = await kernel.filter_unsubscribe("/app/1/chat/proto")
            print(left.held)                               # pubsub topic → peer → content topics it still has

        The peers are told only of what no other consumer of the kernel wants. `errors` of the reply says who
        could not be told; it is rid of all the same. Raises `BadRequestError`, `DeadlineError`.
        """
        request = FilterUnsubscribeRequest(
            content_topics=texts(content_topics), pubsub_topic=pubsub_topic, shard=shard, peer=peer
        )
        return await self._call(
            FilterUnsubscribeReply, FILTER_UNSUBSCRIBE, request.to_body(), timeout=timeout
        )

    async def filter_ping(self, peer: str | None = None, *, timeout: float = PEER_TIMEOUT) -> FilterPingReply:
        """Ask a peer (None: all that hold something for this consumer) whether it still has its
        subscriptions: `status` 200 it has, 404 it has not, None no answer.

            for found in (await kernel.filter_ping()).peers:
                print(found.peer, found.status, found.error)

        Services forget subscribers that they do not hear of for five minutes. Raises `DeadlineError`.
        """
        request = FilterPingRequest(peer=peer)
        return await self._call(FilterPingReply, FILTER_PING, request.to_body(), timeout=timeout)

    async def filter_subscribers(self) -> tuple[FilterSubscriber, ...]:
        """List the light clients that this node's own filter service pushes to, as many as fit a reply.

            for one in await kernel.filter_subscribers():
                print(one.peer, len(one.criteria), "content topics")

        Raises `NotReadyError` (filter is off on this node).
        """
        return (await self._call(FilterSubscribersReply, FILTER_SUBSCRIBERS)).subscribers

    # -- peer exchange ---------------------------------------------------------------------------------------

    async def peer_exchange(
        self, count: int = 5, *, peer: str | None = None, timeout: float = PEER_TIMEOUT
    ) -> PeerExchangeReply:
        """Ask another node for records of at most `count` (60) peers (34/WAKU2-PEER-EXCHANGE).

            found = await kernel.peer_exchange(20)
            print(found.peer, "knows", len(found.enrs), "peers")

        `enrs` are signed records in RLP (EIP-778), as they came. `peer`: a peer id or multiaddr; None: good
        ones are tried. Raises `NoPeersError` (`detail`: attempts), `BadRequestError`, `RateLimitedError`,
        `DeadlineError`.
        """
        request = PeerExchangeRequest(count=count, peer=peer)
        return await self._call(PeerExchangeReply, PEER_EXCHANGE_REQUEST, request.to_body(), timeout=timeout)

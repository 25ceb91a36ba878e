"""The kernel client's requests to other nodes: store, lightpush, filter, peer exchange.

Each names a peer or leaves the choice to the kernel, which then tries good ones until one succeeds. The
peers' answers are in the `detail` of an error: `attempts`, each with `peer`, `error` and, if the peer
itself refused, `status`.
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

PEER_TIMEOUT: Final = 30.0
"""Timeout in seconds of requests to other nodes: several may be tried in sequence."""


class StorePage(NamedTuple):
    """One page of a store's answer, oldest first whatever the direction."""

    peer: str
    """Peer id of the store that answered."""
    hashes: tuple[bytes, ...]
    messages: tuple[StoredMessage, ...]
    """One per hash, with its pubsub topic; empty unless data was requested."""
    cursor: bytes | None
    """Cursor of the next page in the query's direction; None: no more."""


class ServiceMethods(Calls):
    """The part of a `KernelClient` that uses other nodes' services."""

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
        """Query a store for history; a message must match every criterion given (13/WAKU2-STORE).

            page = await kernel.store_query("/app/1/chat/proto", include_data=True, forward=False)
            for stored in page.messages:                        # the newest twenty, the oldest of them first
                print(stored.message.timestamp, stored.message.payload)
            if page.cursor is not None:                                                  # those before them
                page = await kernel.store_query(
                    "/app/1/chat/proto", include_data=True, forward=False, cursor=page.cursor, peer=page.peer
                )
            here = await kernel.store_query(hashes=some, limit=100)  # which of these a store has: here.hashes

        Times are in nanoseconds, both inclusive. One page of at most `limit` (100) messages is requested;
        with `max_messages` (2000), pages are followed until there are that many or no more, and a cursor
        shows that some are left. Continue a cursor at the same `peer`: stores differ. `peer`: a peer id or
        multiaddr; the node's own peer id is its own archive; None: a good one, and others if it fails.

        Raises `NoPeersError` (no peer answered; `detail`: attempts), `BadRequestError` (including a cursor
        unknown to the store), `NotReadyError` (own archive off or down), `RateLimitedError`,
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
        """Publish a message through another node (19/WAKU2-LIGHTPUSH), as a node without relay does.

            done = await kernel.lightpush_publish("/app/1/chat/proto", b"hello")
            print(done.message_hash.hex(), "went to", done.relay_peers, "peers of", done.peer)

        Topic, shard and timestamp (ns) as for `publish`. `peer`: a peer id or multiaddr; None: good ones
        are tried until one succeeds.

        Raises `NoPeersError` (no peer succeeded; `detail` has message_hash, timestamp and the attempts:
        repeating with the same timestamp is safe), `BadRequestError` (also: refused by the peer),
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
        """Subscribe at another node, which then pushes messages to this one (12/WAKU2-FILTER).

        On the kernel's event stream they have `SOURCE_FILTER`.

            async with kernel.events(shards=[0]) as feed:           # the lease that a subscription lasts by
                held = await kernel.filter_subscribe("/app/1/chat/proto")
                more = await kernel.filter_subscribe("/app/1/chat/proto", exclude=[held.peer])  # a second one
                async for event in feed:
                    ...

        All content topics must belong to one shard on which a lease is held; the subscription ends with the
        lease. It is lost when its peer disconnects: `filter_ping` shows that, and the caller must subscribe
        again. `peer`: a peer id or multiaddr; None: good ones that are not in `exclude` are tried until one
        succeeds.

        Raises `NoPeersError` (no peer succeeded; `detail`: attempts), `BadRequestError` (including: no
        lease), `BusyError`, `RateLimitedError`, `DeadlineError`.
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
        """Unsubscribe from content topics of one shard (none given: all), at one peer or at all of them.

            left = await kernel.filter_unsubscribe("/app/1/chat/proto")
            print(left.held)                               # pubsub topic → peer → content topics it still has

        Peers are only asked to drop what no other consumer of the kernel wants. `errors` of the reply lists
        peers that could not be reached; the subscription is dropped all the same. Raises `BadRequestError`,
        `DeadlineError`.
        """
        request = FilterUnsubscribeRequest(
            content_topics=texts(content_topics), pubsub_topic=pubsub_topic, shard=shard, peer=peer
        )
        return await self._call(
            FilterUnsubscribeReply, FILTER_UNSUBSCRIBE, request.to_body(), timeout=timeout
        )

    async def filter_ping(self, peer: str | None = None, *, timeout: float = PEER_TIMEOUT) -> FilterPingReply:
        """Ask a peer (None: all that hold something for this consumer) whether it still has its
        subscriptions.

        `status`: 200 it has, 404 it has not, None no answer.

            for found in (await kernel.filter_ping()).peers:
                print(found.peer, found.status, found.error)

        Services drop subscribers that are silent for five minutes. Raises `DeadlineError`.
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
        """Request records of at most `count` (60) peers from another node (34/WAKU2-PEER-EXCHANGE).

            found = await kernel.peer_exchange(20)
            print(found.peer, "knows", len(found.enrs), "peers")

        `enrs` are signed records in RLP (EIP-778), as received. `peer`: a peer id or multiaddr; None: good
        ones are tried. Raises `NoPeersError` (`detail`: attempts), `BadRequestError`, `RateLimitedError`,
        `DeadlineError`.
        """
        request = PeerExchangeRequest(count=count, peer=peer)
        return await self._call(PeerExchangeReply, PEER_EXCHANGE_REQUEST, request.to_body(), timeout=timeout)

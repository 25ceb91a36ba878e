"""The blocking form of what a kernel's client asks of other nodes. The peers, the attempts: see the asyncio
form."""

from __future__ import annotations

from collections.abc import Iterable

from ipc_schema.kernel.filter import FilterPingReply, FilterSubscribeReply, FilterUnsubscribeReply
from ipc_schema.kernel.lightpush import LightpushPublishReply
from ipc_schema.kernel.peer_exchange import PeerExchangeReply
from logos_client._services import PEER_TIMEOUT, StorePage
from logos_client._services import ServiceMethods as AsyncServiceMethods
from logos_client.blocking._base import here
from logos_client.blocking._portal import Portal

__all__ = ["ServiceMethods"]


class ServiceMethods:
    """The part of a `KernelClient` that is about other nodes' services."""

    _portal: Portal
    _client: AsyncServiceMethods

    def store_query(
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

            page = kernel.store_query("/app/1/chat/proto", include_data=True, forward=False)
            for stored in page.messages:                        # the newest twenty, the oldest of them first
                print(stored.message.timestamp, stored.message.payload)
            here = kernel.store_query(hashes=some, limit=100)        # which of these a store has: here.hashes

        Times are in nanoseconds, both inclusive. One page of at most `limit` (100) messages is asked for;
        with `max_messages` (2000) pages are followed until so many have come or there are no more, and a
        cursor says that something is left. Continue a cursor at the same `peer`: stores differ. `peer`: a
        peer id or multiaddr; the node's own peer id is its own archive; None: a good one, and others if it
        fails.

        Raises `NoPeersError` (nobody answered; `detail`: attempts), `BadRequestError` (a cursor that the
        store does not know, too), `NotReadyError` (own archive off or down), `RateLimitedError`,
        `DeadlineError`.
        """
        return self._portal.call(
            self._client.store_query,
            here(content_topics),
            pubsub_topic=pubsub_topic,
            time_start=time_start,
            time_end=time_end,
            hashes=list(hashes),
            cursor=cursor,
            forward=forward,
            limit=limit,
            include_data=include_data,
            max_messages=max_messages,
            peer=peer,
            timeout=timeout,
        )

    def lightpush_publish(
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

            done = kernel.lightpush_publish("/app/1/chat/proto", b"hello")
            print(done.message_hash.hex(), "went to", done.relay_peers, "peers of", done.peer)

        Topic, shard and timestamp (ns) as for `publish`. `peer`: a peer id or multiaddr; None: good ones are
        tried until one has done it.

        Raises `NoPeersError` (nobody did it; `detail` has message_hash, timestamp and the attempts: the same
        again, with the same timestamp, is safe), `BadRequestError` (also: refused by the peer),
        `TooLargeError`, `RateLimitedError`, `DeadlineError`.
        """
        return self._portal.call(
            self._client.lightpush_publish,
            content_topic,
            payload,
            pubsub_topic=pubsub_topic,
            shard=shard,
            timestamp=timestamp,
            meta=meta,
            version=version,
            ephemeral=ephemeral,
            proof=proof,
            peer=peer,
            timeout=timeout,
        )

    def filter_subscribe(
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

            with kernel.events(shards=[0]) as feed:                 # the lease that a subscription lasts by
                held = kernel.filter_subscribe("/app/1/chat/proto")
                for event in feed:
                    ...

        All content topics must be of one shard, and a lease on it must be held; what is subscribed to ends
        with the lease. A subscription is lost when its peer leaves: `filter_ping` tells, and it is for the
        caller to subscribe anew. `peer`: a peer id or multiaddr; None: good ones that are not in `exclude`
        are tried until one has done it.

        Raises `NoPeersError` (nobody did it; `detail`: attempts), `BadRequestError` (no lease, too),
        `BusyError`, `RateLimitedError`, `DeadlineError`.
        """
        return self._portal.call(
            self._client.filter_subscribe,
            here(content_topics),
            pubsub_topic=pubsub_topic,
            shard=shard,
            peer=peer,
            exclude=list(exclude),
            timeout=timeout,
        )

    def filter_unsubscribe(
        self,
        content_topics: str | Iterable[str] = (),
        *,
        pubsub_topic: str | None = None,
        shard: int | None = None,
        peer: str | None = None,
        timeout: float = PEER_TIMEOUT,
    ) -> FilterUnsubscribeReply:
        """Give up content topics of one shard (none named: all), at one peer or at all of them.

            left = kernel.filter_unsubscribe("/app/1/chat/proto")
            print(left.held)                               # pubsub topic → peer → content topics it still has

        The peers are told only of what no other consumer of the kernel wants. `errors` of the reply says who
        could not be told; it is rid of all the same. Raises `BadRequestError`, `DeadlineError`.
        """
        return self._portal.call(
            self._client.filter_unsubscribe,
            here(content_topics),
            pubsub_topic=pubsub_topic,
            shard=shard,
            peer=peer,
            timeout=timeout,
        )

    def filter_ping(self, peer: str | None = None, *, timeout: float = PEER_TIMEOUT) -> FilterPingReply:
        """Ask a peer (None: all that hold something for this consumer) whether it still has its
        subscriptions: `status` 200 it has, 404 it has not, None no answer.

            for found in kernel.filter_ping().peers:
                print(found.peer, found.status, found.error)

        Services forget subscribers that they do not hear of for five minutes. Raises `DeadlineError`.
        """
        return self._portal.call(self._client.filter_ping, peer, timeout=timeout)

    def peer_exchange(
        self, count: int = 5, *, peer: str | None = None, timeout: float = PEER_TIMEOUT
    ) -> PeerExchangeReply:
        """Ask another node for records of at most `count` (60) peers (34/WAKU2-PEER-EXCHANGE).

            found = kernel.peer_exchange(20)
            print(found.peer, "knows", len(found.enrs), "peers")

        `enrs` are signed records in RLP (EIP-778), as they came. `peer`: a peer id or multiaddr; None: good
        ones are tried. Raises `NoPeersError` (`detail`: attempts), `BadRequestError`, `RateLimitedError`,
        `DeadlineError`.
        """
        return self._portal.call(self._client.peer_exchange, count, peer=peer, timeout=timeout)

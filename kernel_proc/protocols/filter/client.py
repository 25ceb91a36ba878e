"""Filter client (12/WAKU2-FILTER): subscribe to service peers for this node's consumers, and receive pushes.

Mechanism only: the caller decides which peers to use, how many, and when to replace them. Subscriptions are
kept alive with a ping per minute (service nodes expire idle subscribers), removed when their last consumer
has left, and dropped when the peer disconnects, reports no subscription, or stops answering.

`contacts` makes the requests, `pushes` receives the messages.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, NamedTuple

import trio

from kernel_proc.metrics import Registry, Sample
from kernel_proc.p2p.api import EndCause, Host, HostEvents, PeerIdText
from kernel_proc.protocols.filter.codec import (
    MAX_CONTENT_TOPICS,
    SUBSCRIBE_PROTOCOL,
    FilterResponse,
    RequestType,
    Status,
)
from kernel_proc.protocols.filter.contacts import ClientParams, Contact, Contacts
from kernel_proc.protocols.filter.interests import Interests
from kernel_proc.protocols.filter.pushes import PushReceiver, PushSink
from kernel_proc.protocols.peer_select import ServicePeerChoice
from kernel_proc.protocols.requests import CallError, NoAnswer, PeerUnreachable, RequestRefused
from logos_process.logs import fields

__all__ = ["SERVICE", "ClientParams", "FilterClient", "LeaseEnded", "Pinged"]

log = logging.getLogger(__name__)

SERVICE: Final = "filter"
"""Service name in the peer ranking."""


class LeaseEnded(Exception):
    """The consumer's lease on the shard ended while the subscription was being made."""


class Pinged(NamedTuple):
    """The result of a ping. `status` is the peer's code, None without a response; `problem` explains a
    code other than 2xx."""

    peer_id: PeerIdText
    status: int | None
    problem: str = ""


class FilterClient(HostEvents):
    """This node's filter subscriptions at other peers.

    `is_leased(consumer, pubsub topic)` returns whether the consumer still holds its lease. `changed(pubsub
    topics)` is called when the peers subscribed there have changed.
    """

    def __init__(
        self,
        host: Host,
        peers: ServicePeerChoice,
        registry: Registry,
        sink: PushSink,
        *,
        is_leased: Callable[[str, str], bool],
        changed: Callable[[Collection[str]], None],
        params: ClientParams | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._host = host
        self._peers = peers
        self._is_leased = is_leased
        self._changed = changed
        self._params = params or ClientParams()
        self.interests = Interests()
        self._poke = trio.Event()
        self.counters: Counter[str] = Counter()
        """Monotonic.

        Pushes: delivered, not_new (or no longer wanted), unsolicited, malformed, oversize, invalid. Requests:
        subscribe, unsubscribe, ping, refused, failed. Also `lost`, peers lost together with their
        subscriptions, and `faults`, internal errors.
        """
        self._contacts = Contacts(
            host, self._params, self.counters, self._unresponsive, random_bytes=random_bytes
        )
        self._pushes = PushReceiver(host, self.interests, self.counters, sink)
        host.add_listener(self)
        registry.add_source(self._samples)

    # --- life ---

    def mount(self) -> None:
        """Advertise and accept filter-push: service nodes remove subscribers that do not advertise it."""
        self._pushes.mount()

    async def run(self) -> None:
        """Keep subscriptions alive and remove orphaned ones, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                for peer_id in self.interests.peers():
                    contact = self._contacts.of(peer_id)
                    if not contact.maintained and (contact.due <= now or self._has_orphans(peer_id, contact)):
                        contact.maintained = True
                        nursery.start_soon(self._maintain_logged, peer_id, contact)
                self._poke = trio.Event()
                # Without subscriptions there is nothing to maintain.
                with trio.move_on_after(self._params.tick if self.interests else math.inf):
                    await self._poke.wait()

    def _has_orphans(self, peer_id: PeerIdText, contact: Contact) -> bool:
        # While a request to the peer is running, an apparent orphan may be a subscription in the making.
        return not contact.lock.locked() and not contact.failures and self.interests.has_orphans(peer_id)

    async def _maintain_logged(self, peer_id: PeerIdText, contact: Contact) -> None:
        try:
            await self._maintain(peer_id)
        except CallError as error:
            log.debug("filter peer %s: %s", peer_id, error)
        except Exception:  # a problem with one peer must not end the maintenance of the others
            self.counters["faults"] += 1
            log.exception("maintenance of filter peer %s failed", peer_id)
            contact.due = trio.current_time() + self._params.ping_interval
        finally:
            contact.maintained = False
            self._contacts.tidy(peer_id)

    # --- interface of consumers ---

    async def subscribe(
        self,
        consumer: str,
        topic: str,
        shard: int,
        contents: Sequence[str],
        *,
        deadline: float,
        peer: str | None = None,
        exclude: Collection[str] = (),
    ) -> PeerIdText:
        """Subscribe to content topics of a pubsub topic at one peer. Return the peer's id.

        `peer` is a peer id or a multiaddr. Without it, connected filter peers outside `exclude` are tried,
        best first, until `deadline` (trio clock). Subscribing again at the same peer verifies that it still
        holds the subscription. Raise AllFailed or LeaseEnded.
        """

        async def attempt(peer_id: PeerIdText, seconds: float) -> None:
            with trio.move_on_after(seconds) as scope:
                await self._subscribe_at(consumer, peer_id, topic, contents)
            if scope.cancelled_caught:
                raise NoAnswer(f"not subscribed within {seconds:g} s")

        peer_id, _ = await self._peers.ask(
            SERVICE,
            (SUBSCRIBE_PROTOCOL,),
            attempt,
            named=peer,
            shard=shard,
            deadline=deadline,
            patience=self._params.patience,
            exclude=exclude,
        )
        return peer_id

    async def _subscribe_at(
        self, consumer: str, peer_id: PeerIdText, topic: str, contents: Sequence[str]
    ) -> None:
        interests = self.interests
        async with self._contacts.exclusive(peer_id):
            missing = interests.missing(peer_id, topic, contents)
            # Nothing to add: a ping verifies that the peer still knows us, because servers forget subscribers
            # silently (idle timeout, restart) and 12/WAKU2-FILTER has no notification of that.
            if not missing and not (await self._ping(peer_id)).ok:
                missing = interests.missing(peer_id, topic, contents)
            if missing:
                await self._subscribe_missing(peer_id, topic, missing)
            if not self._host.is_connected(peer_id):
                raise PeerUnreachable(f"{peer_id} has disconnected")
            if not self._is_leased(consumer, topic):
                self._poke.set()
                raise LeaseEnded(topic)
            interests.add(consumer, peer_id, topic, contents)
        self._changed((topic,))

    async def _subscribe_missing(self, peer_id: PeerIdText, topic: str, contents: list[str]) -> None:
        # Register them as orphans first: whatever goes wrong from here on (timeout, cancellation), `run` then
        # removes what the peer may already hold. Pushes can also precede the response.
        self.interests.expect(peer_id, topic, contents)
        self._changed((topic,))
        self._poke.set()
        try:
            for some in _chunks(contents):
                await self._contacts.ask(peer_id, RequestType.SUBSCRIBE, topic, some)
        except PeerUnreachable:
            self.interests.removed(peer_id, {topic: contents})
            raise
        except RequestRefused:
            # Split over several requests, the first ones may have succeeded.
            if len(contents) <= MAX_CONTENT_TOPICS:
                self.interests.removed(peer_id, {topic: contents})
            raise

    async def unsubscribe(
        self, consumer: str, topics: dict[str, Collection[str]], *, peer: str | None = None
    ) -> dict[PeerIdText, str]:
        """Release content topics (by pubsub topic) of a consumer, at one peer (by id) or at all peers.

        Return the errors of the wire requests, by peer. The consumer is released even if they fail; further
        pushes of such a peer are dropped.
        """
        concerned: dict[PeerIdText, None] = {}
        for topic, contents in topics.items():
            concerned |= dict.fromkeys(self.interests.release(consumer, topic, contents, peer))
        self._changed(tuple(topics))
        problems: dict[PeerIdText, str] = {}

        async def take_back(peer_id: PeerIdText) -> None:
            try:
                await self._maintain(peer_id)
            except CallError as error:
                problems[peer_id] = str(error)

        async with trio.open_nursery() as nursery:
            for peer_id in concerned:
                nursery.start_soon(take_back, peer_id)
        return problems

    async def ping(self, peers: Iterable[PeerIdText]) -> list[Pinged]:
        """Ping peers to verify our subscriptions. A peer that answers 404 is treated as holding none."""
        results: dict[PeerIdText, Pinged] = {}

        async def ask(peer_id: PeerIdText) -> None:
            try:
                async with self._contacts.exclusive(peer_id):
                    response = await self._ping(peer_id)
            except RequestRefused as error:
                results[peer_id] = Pinged(peer_id, error.status, str(error))
            except CallError as error:
                results[peer_id] = Pinged(peer_id, None, str(error))
            else:
                results[peer_id] = Pinged(
                    peer_id, response.status, "" if response.ok else response.description or ""
                )

        async with trio.open_nursery() as nursery:
            for peer_id in dict.fromkeys(peers):
                nursery.start_soon(ask, peer_id)
        return list(results.values())

    def leases_ended(self) -> None:
        """Drop the interests of consumers whose lease has expired or was released."""
        ended = [party for party in self.interests.parties() if not self._is_leased(*party)]
        for consumer, topic in ended:
            self.interests.release(consumer, topic, self.interests.wishes(consumer, topic))
        if ended:
            self._changed(tuple({topic for _, topic in ended}))
            self._poke.set()

    # --- requests to peers ---

    async def _maintain(self, peer_id: PeerIdText) -> None:
        """Remove orphans at the peer, and ping it if due. Raise CallError."""
        interests = self.interests
        async with self._contacts.exclusive(peer_id) as contact:
            orphans = interests.orphans(peer_id)
            if orphans:
                if interests.is_all_orphaned(peer_id):
                    await self._contacts.ask(peer_id, RequestType.UNSUBSCRIBE_ALL, allow=Status.NOT_FOUND)
                else:
                    for topic, contents in orphans.items():
                        for some in _chunks(contents):
                            await self._take_back(peer_id, topic, some)
                interests.removed(peer_id, orphans)
            if contact.due <= trio.current_time() and peer_id in interests:
                await self._ping(peer_id)

    async def _take_back(self, peer_id: PeerIdText, topic: str, contents: list[str]) -> None:
        response = await self._contacts.ask(
            peer_id, RequestType.UNSUBSCRIBE, topic, contents, allow=Status.NOT_FOUND
        )
        if not response.ok:
            # 404: the peer lost this subscription, perhaps with all others. Ping at once.
            self._contacts.of(peer_id).due = trio.current_time()

    async def _ping(self, peer_id: PeerIdText) -> FilterResponse:
        response = await self._contacts.ask(peer_id, RequestType.PING, allow=Status.NOT_FOUND)
        if not response.ok:
            self._lose(peer_id, "peer no longer holds our subscriptions")
        return response

    def _unresponsive(self, peer_id: PeerIdText) -> None:
        self._peers.ranking.failed(peer_id, SERVICE)
        self._lose(peer_id, "peer does not answer")

    def _lose(self, peer_id: PeerIdText, reason: str) -> None:
        topics = self.interests.lose(peer_id)
        if topics:
            self.counters["lost"] += 1
            log.info("filter subscriptions lost", extra=fields(peer=peer_id, reason=reason))
            self._changed(topics)

    # --- host events ---

    def peer_disconnected(self, peer_id: PeerIdText, reason: str, cause: EndCause = EndCause.OTHER) -> None:  # noqa: ARG002 - HostEvents
        """Drop the subscriptions at this peer: it can no longer push to us."""
        self._lose(peer_id, reason)
        self._contacts.tidy(peer_id)

    # --- inspection ---

    def _samples(self) -> Iterable[Sample]:
        counters = self.counters
        for outcome in ("delivered", "not_new", "unsolicited", "malformed", "oversize", "invalid"):
            yield "filter_client_pushes", {"outcome": outcome}, counters[outcome]
        for kind in ("subscribe", "unsubscribe", "ping"):
            yield "filter_client_requests", {"type": kind}, counters[kind]
        for kind in ("refused", "failed", "faults"):
            yield "filter_client_errors", {"type": kind}, counters[kind]
        yield "filter_client_peers_lost", {}, counters["lost"]
        yield "filter_client_wishes", {}, len(self.interests)
        yield "filter_client_peers", {}, len(self.interests.peers())


def _chunks(contents: Sequence[str]) -> Iterable[list[str]]:
    for start in range(0, len(contents), MAX_CONTENT_TOPICS):
        yield list(contents[start : start + MAX_CONTENT_TOPICS])

"""Requests of the filter client to its peers: one at a time per peer, with a limit on failures in a row.

Mechanism only: the client decides what to request from which peer.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import trio

from kernel_proc.p2p.api import Host, PeerIdText
from kernel_proc.protocols.filter.codec import (
    SUBSCRIBE_PROTOCOL,
    FilterRequest,
    FilterResponse,
    RequestType,
    Status,
    decode_response,
    encode_request,
)
from kernel_proc.protocols.pacing import Pacer
from kernel_proc.protocols.requests import BadAnswer, CallError, RequestRefused, call

MAX_RESPONSE: Final = 64 * 1024
MAX_REPEATS: Final = 5
"""Maximum repetitions of one request to a peer that answers 429."""


class ClientParams(NamedTuple):
    """Durations in seconds."""

    call_timeout: float = 5.0
    patience: float = 10.0
    """Per peer of a subscribe, including dialling."""
    ping_interval: float = 60.0
    """The interval of js-waku; service nodes expire subscribers that are idle for 300 s."""
    ping_retry: float = 5.0
    max_failures: int = 3
    """Failures in a row after which we treat the peer's subscriptions as lost."""
    tick: float = 1.0


@dataclass(slots=True, eq=False)
class Contact:
    """The state of one peer. Requests to it are serialised with `lock`."""

    due: float
    """When the next ping is due."""
    lock: trio.Lock = field(default_factory=trio.Lock)
    failures: int = 0
    maintained: bool = False


class Contacts:
    """Make requests to peers.

    `counters` (subscribe, unsubscribe, ping, refused, failed) belong to the caller. `unresponsive(peer id)`
    is called for a peer that failed too often in a row.
    """

    def __init__(
        self,
        host: Host,
        params: ClientParams,
        counters: Counter[str],
        unresponsive: Callable[[PeerIdText], None],
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._host = host
        self._params = params
        self._counters = counters
        self._unresponsive = unresponsive
        self._random_bytes = random_bytes
        self._by_peer: dict[PeerIdText, Contact] = {}
        self._pacer: Pacer[PeerIdText] = Pacer(trio.current_time)

    def of(self, peer_id: PeerIdText) -> Contact:
        """Return the state of a peer, creating it if necessary."""
        contact = self._by_peer.get(peer_id)
        if contact is None:
            due = trio.current_time() + self._params.ping_interval
            contact = self._by_peer[peer_id] = Contact(due)
        return contact

    @asynccontextmanager
    async def exclusive(self, peer_id: PeerIdText) -> AsyncIterator[Contact]:
        """Serialise requests to a peer, so that its subscriptions do not change in between."""
        contact = self.of(peer_id)
        try:
            async with contact.lock:
                yield contact
        finally:
            self.tidy(peer_id)

    async def ask(
        self,
        peer_id: PeerIdText,
        kind: RequestType,
        topic: str | None = None,
        contents: Sequence[str] = (),
        *,
        allow: int | None = None,
    ) -> FilterResponse:
        """Make one request. Raise CallError, also for any error status except `allow`.

        A rate-limited request (429) is repeated at the peer's pace. A 429 says nothing about whether the peer
        still holds our subscriptions.
        """
        contact = self.of(peer_id)
        for _ in range(MAX_REPEATS):
            await trio.sleep(self._pacer.reserve(peer_id))
            response = await self._ask_once(peer_id, contact, kind, topic, contents)
            if response.status != Status.TOO_MANY_REQUESTS:
                self._pacer.served(peer_id)
                break
            self._pacer.refused(peer_id)
        if response.ok or response.status == allow:
            contact.failures = 0
            contact.due = trio.current_time() + self._params.ping_interval
            return response
        self._counters["refused"] += 1
        # A 429 proves that the peer is alive, and 12/WAKU2-FILTER has no answer "subscription kept": only
        # ping again soon. An error on anything but a subscribe puts the subscriptions themselves in doubt.
        if response.status == Status.TOO_MANY_REQUESTS:
            contact.due = trio.current_time() + self._params.ping_retry
        elif kind is not RequestType.SUBSCRIBE:
            self._failed(peer_id, contact)
        # 400 is about our request: another peer would refuse it too (12/WAKU2-FILTER status codes).
        final = response.status == Status.BAD_REQUEST
        raise RequestRefused(response.status, response.description or "", final=final)

    async def _ask_once(
        self,
        peer_id: PeerIdText,
        contact: Contact,
        kind: RequestType,
        topic: str | None,
        contents: Sequence[str],
    ) -> FilterResponse:
        self._counters[_COUNTED[kind]] += 1
        request = FilterRequest(self._random_bytes(10).hex(), kind, topic, tuple(contents))
        try:
            response = await call(
                self._host,
                peer_id,
                (SUBSCRIBE_PROTOCOL,),
                encode_request(request),
                decode=decode_response,
                max_response=MAX_RESPONSE,
                deadline=self._params.call_timeout,
            )
            # nwaku checks its rate limit before reading the request, so a 429 carries "N/A" as request id.
            if response.request_id == request.request_id or response.status == Status.TOO_MANY_REQUESTS:
                return response
            raise BadAnswer("response has another request id")
        except CallError:
            self._counters["failed"] += 1
            self._failed(peer_id, contact)
            raise

    def _failed(self, peer_id: PeerIdText, contact: Contact) -> None:
        contact.failures += 1
        contact.due = trio.current_time() + self._params.ping_retry
        if contact.failures >= self._params.max_failures:
            contact.failures = 0
            self._unresponsive(peer_id)

    def tidy(self, peer_id: PeerIdText) -> None:
        """Forget a disconnected peer, unless a request to it is running."""
        contact = self._by_peer.get(peer_id)
        if contact is None or contact.lock.locked() or contact.maintained or self._host.is_connected(peer_id):
            return
        del self._by_peer[peer_id]


_COUNTED: Final = {
    RequestType.PING: "ping",
    RequestType.SUBSCRIBE: "subscribe",
    RequestType.UNSUBSCRIBE: "unsubscribe",
    RequestType.UNSUBSCRIBE_ALL: "unsubscribe",
}

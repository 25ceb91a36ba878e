"""The subscription table of the filter service, with the responses of nwaku. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kernel_proc.protocols.filter.codec import (
    MAX_CONTENT_TOPICS,
    FilterRequest,
    FilterResponse,
    RequestType,
    Status,
)

TOPICS_NEEDED: Final = "pubsubTopic and contentTopics must be specified"
NOT_SUBSCRIBED: Final = "peer has no subscriptions"
TOO_MANY_CRITERIA: Final = "peer has reached maximum number of filter criteria"

_Criterion = tuple[str, str]
"""(pubsub topic, content topic)"""


class FilterLimits(NamedTuple):
    """Limits of the service, by default those of nwaku. Durations in seconds."""

    max_peers: int = 1000
    max_criteria: int = 1000
    """Criteria per peer."""
    timeout: float = 300.0
    """Remove a subscriber that has been idle for this long."""
    max_text: int = 256 * 1024
    """Total characters of a peer's criteria: names may have any length, and they take our memory."""


@dataclass(slots=True, eq=False)
class _Subscriber:
    since: float
    seen: float
    criteria: dict[_Criterion, None] = field(default_factory=dict)
    text: int = 0


class Subscriptions:
    """The table of subscribers. Times are seconds of one monotonic clock."""

    def __init__(self, limits: FilterLimits) -> None:
        self._limits = limits
        self._peers: dict[str, _Subscriber] = {}
        self._by_criterion: dict[_Criterion, dict[str, None]] = {}
        self.criteria = 0
        """Number of criteria of all subscribers."""

    # --- queries ---

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._peers

    def peers(self) -> list[str]:
        return list(self._peers)

    def criteria_of(self, peer_id: str) -> list[tuple[str, str]]:
        """Return the (pubsub topic, content topic) pairs of a peer."""
        subscriber = self._peers.get(peer_id)
        return list(subscriber.criteria) if subscriber is not None else []

    def since(self, peer_id: str) -> float | None:
        """Return when the peer subscribed, None if it has not."""
        subscriber = self._peers.get(peer_id)
        return None if subscriber is None else subscriber.since

    def subscribers(self, pubsub_topic: str, content_topic: str) -> Collection[str]:
        """Return the peers to push a message to, in the order in which they subscribed."""
        return self._by_criterion.get((pubsub_topic, content_topic), ())

    # --- requests ---

    def handle(self, peer_id: str, request: FilterRequest, now: float) -> FilterResponse:
        if request.kind == RequestType.PING:
            return self._ping(peer_id, request, now)
        if request.kind == RequestType.SUBSCRIBE:
            return self._subscribe(peer_id, request, now)
        if request.kind == RequestType.UNSUBSCRIBE:
            return self._unsubscribe(peer_id, request, now)
        if request.kind == RequestType.UNSUBSCRIBE_ALL:
            return _ok(request) if self.remove(peer_id) else _not_found(request)
        # nwaku's behaviour is undefined here (the enum value is not checked).
        return _refused(request, Status.BAD_REQUEST, f"unknown request type {request.kind}")

    def _ping(self, peer_id: str, request: FilterRequest, now: float) -> FilterResponse:
        subscriber = self._peers.get(peer_id)
        if subscriber is None:
            return _not_found(request)
        subscriber.seen = now
        return _ok(request)

    def _subscribe(self, peer_id: str, request: FilterRequest, now: float) -> FilterResponse:
        wanted = _criteria(request)
        if isinstance(wanted, FilterResponse):
            return wanted
        limits, subscriber = self._limits, self._peers.get(peer_id)
        if subscriber is None and len(self._peers) >= limits.max_peers:
            full = f"node has reached maximum number of subscriptions: {limits.max_peers}"
            return _refused(request, Status.SERVICE_UNAVAILABLE, full)
        # As in nwaku, criteria the peer already has count again.
        held = len(subscriber.criteria) if subscriber is not None else 0
        new = [item for item in wanted if subscriber is None or item not in subscriber.criteria]
        text = (subscriber.text if subscriber is not None else 0) + _text(new)
        if held + len(wanted) > limits.max_criteria or text > limits.max_text:
            return _refused(request, Status.SERVICE_UNAVAILABLE, TOO_MANY_CRITERIA)
        if subscriber is None:
            subscriber = self._peers[peer_id] = _Subscriber(now, now)
        for item in new:
            subscriber.criteria[item] = None
            self._by_criterion.setdefault(item, {})[peer_id] = None
        subscriber.text = text
        subscriber.seen = now
        self.criteria += len(new)
        return _ok(request)

    def _unsubscribe(self, peer_id: str, request: FilterRequest, now: float) -> FilterResponse:
        unwanted = _criteria(request)
        if isinstance(unwanted, FilterResponse):
            return unwanted
        subscriber = self._peers.get(peer_id)
        if subscriber is None:
            return _not_found(request)
        subscriber.seen = now
        held = [item for item in unwanted if item in subscriber.criteria]
        for item in held:
            del subscriber.criteria[item]
            self._unlist(peer_id, item)
        subscriber.text -= _text(held)
        # As in nwaku, a subscriber is forgotten with its last criterion.
        if not subscriber.criteria:
            del self._peers[peer_id]
        return _ok(request) if len(held) == len(unwanted) else _not_found(request)

    # --- removal ---

    def remove(self, peer_id: str) -> bool:
        """Remove a peer. Return False if it was not subscribed."""
        subscriber = self._peers.pop(peer_id, None)
        if subscriber is None:
            return False
        for item in subscriber.criteria:
            self._unlist(peer_id, item)
        return True

    def idle(self, now: float) -> list[str]:
        """Return the peers whose idle timeout has passed."""
        oldest = now - self._limits.timeout
        return [peer_id for peer_id, subscriber in self._peers.items() if subscriber.seen < oldest]

    def _unlist(self, peer_id: str, item: _Criterion) -> None:
        self.criteria -= 1
        listed = self._by_criterion[item]
        del listed[peer_id]
        if not listed:
            del self._by_criterion[item]


def _criteria(request: FilterRequest) -> list[_Criterion] | FilterResponse:
    """Return the criteria of a request, or an error response. As in nwaku, topic names are not checked."""
    if not request.pubsub_topic or not request.content_topics:
        return _refused(request, Status.BAD_REQUEST, TOPICS_NEEDED)
    if len(request.content_topics) > MAX_CONTENT_TOPICS:
        text = f"exceeds maximum content topics: {MAX_CONTENT_TOPICS}"
        return _refused(request, Status.BAD_REQUEST, text)
    topic = request.pubsub_topic
    return [(topic, content_topic) for content_topic in dict.fromkeys(request.content_topics)]


def _text(criteria: Iterable[_Criterion]) -> int:
    return sum(len(topic) + len(content_topic) for topic, content_topic in criteria)


def _ok(request: FilterRequest) -> FilterResponse:
    return FilterResponse(request.request_id, Status.OK, "OK")


def _not_found(request: FilterRequest) -> FilterResponse:
    return _refused(request, Status.NOT_FOUND, NOT_SUBSCRIBED)


def _refused(request: FilterRequest, status: Status, text: str) -> FilterResponse:
    return FilterResponse(request.request_id, status, f"{status.name}: {text}")

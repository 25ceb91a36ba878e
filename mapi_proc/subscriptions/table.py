"""Which app subscribes to which content topic, and which shards that needs.

Apps use content topics only. A topic belongs to one shard (autosharding); a shard is wanted while any app
subscribes to a topic on it. Pure: the caller persists, leases shards and notifies apps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from ipc_schema.topics import TopicError

ALREADY_UNSUBSCRIBED: Final = "already unsubscribed"


class Subscriber(Hashable, Protocol):
    """A subscriber: an app's stream. `durable`: its events are written to disk."""

    @property
    def durable(self) -> bool: ...


S = TypeVar("S", bound=Subscriber)


class TopicRoute(Generic[S]):
    """Where the messages of one content topic go. `subscribers` is replaced, never changed in place, so a
    reader may keep iterating the one it got."""

    __slots__ = ("durable", "shard", "subscribers", "topic")

    def __init__(self, topic: str, shard: int) -> None:
        self.topic = topic
        self.shard = shard
        self.subscribers: tuple[S, ...] = ()
        self.durable = False
        """Whether any subscriber is durable."""

    def set(self, subscribers: tuple[S, ...]) -> None:
        self.subscribers = subscribers
        self.durable = any(subscriber.durable for subscriber in subscribers)


class Change(NamedTuple):
    """The effect of a call. `errors` maps a topic to the text for the app; every other topic took effect."""

    errors: dict[str, str]
    changed: list[str]
    """Topics that the subscriber gained or lost now, not those it already had."""
    shards_gained: set[int]
    shards_lost: set[int]


class SubscriptionTable(Generic[S]):
    """All subscriptions of all apps. `routes` is read for every message: one dict look-up."""

    def __init__(self, shard_of: Callable[[str], int], *, max_topics: int) -> None:
        """`shard_of` maps a content topic to its shard or raises TopicError; `max_topics` bounds one app."""
        self._shard_of = shard_of
        self._max_topics = max_topics
        self._topics: dict[S, set[str]] = {}
        self._shard_topics: dict[int, set[str]] = {}
        self.routes: dict[str, TopicRoute[S]] = {}

    @property
    def shards(self) -> set[int]:
        """The shards that some app wants."""
        return set(self._shard_topics)

    def topics_of(self, subscriber: S) -> list[str]:
        """Return the subscriber's content topics, sorted."""
        return sorted(self._topics.get(subscriber, ()))

    def has(self, subscriber: S, topic: str) -> bool:
        return topic in self._topics.get(subscriber, ())

    def topics_on(self, shard: int) -> set[str]:
        """Return all content topics wanted on a shard (a copy)."""
        return set(self._shard_topics.get(shard, ()))

    def subscribers_on(self, shard: int) -> dict[S, list[str]]:
        """Return each subscriber with topics on the shard, and those topics, sorted."""
        found: dict[S, list[str]] = {}
        for topic in sorted(self._shard_topics.get(shard, ())):
            for subscriber in self.routes[topic].subscribers:
                found.setdefault(subscriber, []).append(topic)
        return found

    def shard_of(self, topic: str) -> int | None:
        """Return the shard of a subscribed topic; None if it has no subscriber."""
        route = self.routes.get(topic)
        return route.shard if route is not None else None

    def durable_on(self, shard: int) -> bool:
        """Return whether any subscriber with a topic on the shard is durable."""
        return any(self.routes[topic].durable for topic in self._shard_topics.get(shard, ()))

    def by_shard(self) -> dict[int, set[str]]:
        """Return all content topics wanted, by shard (copies)."""
        return {shard: set(topics) for shard, topics in self._shard_topics.items()}

    def resolve(self, topic: str) -> int:
        """Return the shard of a content topic. Raises TopicError with the text for the app."""
        return self._shard_of(topic)

    def move(self, shard_of: Callable[[str], int]) -> dict[S, dict[str, str]]:
        """Move every subscription to its shard of another network.

        Return those that cannot be kept, as errors per subscriber. `routes` stays the same object.
        """
        self._shard_of = shard_of
        kept = self._topics
        self._topics, self._shard_topics = {}, {}
        self.routes.clear()
        lost = {subscriber: self.subscribe(subscriber, topics).errors for subscriber, topics in kept.items()}
        return {subscriber: errors for subscriber, errors in lost.items() if errors}

    def subscribe(self, subscriber: S, topics: Iterable[str]) -> Change:
        """Add topics; those that the subscriber already has are neither an error nor a change."""
        change = Change({}, [], set(), set())
        own = self._topics.get(subscriber, set())
        for topic in topics:
            if topic in own:
                continue
            if len(own) >= self._max_topics:
                change.errors[topic] = f"too many content topics: at most {self._max_topics}"
                continue
            try:
                shard = self.resolve(topic)
            except TopicError as error:
                change.errors[topic] = str(error)
                continue
            route = self.routes.get(topic)
            if route is None:
                route = self.routes[topic] = TopicRoute(topic, shard)
                on_shard = self._shard_topics.setdefault(shard, set())
                if not on_shard:
                    change.shards_gained.add(shard)
                on_shard.add(topic)
            route.set((*route.subscribers, subscriber))
            own.add(topic)
            change.changed.append(topic)
        if own:
            self._topics[subscriber] = own
        return change

    def unsubscribe(self, subscriber: S, topics: Iterable[str]) -> Change:
        """Remove topics; one that the subscriber does not have is an error for that topic."""
        change = Change({}, [], set(), set())
        own = self._topics.get(subscriber, set())
        for topic in topics:
            if topic not in own:
                change.errors[topic] = ALREADY_UNSUBSCRIBED
                continue
            own.discard(topic)
            change.changed.append(topic)
            route = self.routes[topic]
            route.set(tuple(s for s in route.subscribers if s != subscriber))
            if route.subscribers:
                continue
            del self.routes[topic]
            on_shard = self._shard_topics[route.shard]
            on_shard.discard(topic)
            if not on_shard:
                del self._shard_topics[route.shard]
                change.shards_lost.add(route.shard)
        if not own:
            self._topics.pop(subscriber, None)
        return change

    def remove(self, subscriber: S) -> Change:
        return self.unsubscribe(subscriber, self.topics_of(subscriber))

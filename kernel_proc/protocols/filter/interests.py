"""What this node's consumers want through filter, and which peers hold a subscription for it. Pure.

Two relations, kept apart because interests outlive peers:

- *wanted*: consumer × (pubsub topic, content topic), until it unsubscribes or its lease expires;

- *held*: peer × (pubsub topic, content topic), with the consumers it is held for. Without consumers it is an
*orphan* whose subscription must be removed at the peer: unsubscribe only goes out when the last consumer has
left.

There may be a hundred thousand of them, and health evaluation calls `strength` on every mesh change: frequent
queries are precomputed, the others cost as much as their result is long.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

_Set = dict[str, None]
"""An insertion-ordered set."""


class Interests:
    """Both relations. `topic` is a pubsub topic, `content` a content topic."""

    def __init__(self) -> None:
        self._wishes: dict[tuple[str, str], _Set] = {}
        """(consumer, topic) -> contents."""
        self._wanted: dict[str, dict[str, int]] = {}
        """Topic -> content -> number of consumers."""
        self._held: dict[str, dict[str, dict[str, _Set]]] = {}
        """Peer -> topic -> content -> consumers."""
        self._orphans: dict[str, dict[tuple[str, str], None]] = {}
        """Peer -> its entries in `_held` without a consumer."""
        self._strengths: dict[str, int] = {}
        """Cache for topics that have not changed since the last query."""
        self._size = 0

    # --- queries ---

    def __len__(self) -> int:
        """Number of (consumer, topic, content) interests."""
        return self._size

    def __bool__(self) -> bool:
        """Return whether any peer pushes to us, or is about to."""
        return bool(self._held)

    def __contains__(self, peer_id: object) -> bool:
        """Return whether the peer holds anything, including orphans."""
        return peer_id in self._held

    def holds(self, peer_id: str, topic: str, content: str) -> bool:
        """Return whether the peer may hold a subscription for this, including orphans."""
        return content in self._held.get(peer_id, {}).get(topic, ())

    def topics_of(self, peer_id: str, content: str) -> list[str]:
        """Return the pubsub topics on which the peer holds a content topic."""
        return [topic for topic, contents in self._held.get(peer_id, {}).items() if content in contents]

    def missing(self, peer_id: str, topic: str, contents: Iterable[str]) -> list[str]:
        """Return those of `contents` that the peer holds for no consumer, without duplicates."""
        held = self._held.get(peer_id, {}).get(topic, {})
        return [content for content in dict.fromkeys(contents) if not held.get(content)]

    def new_wishes(self, consumer: str, topic: str, contents: Iterable[str]) -> int:
        """Return how many of `contents` (without duplicates) the consumer does not want yet."""
        wishes = self._wishes.get((consumer, topic), {})
        return sum(content not in wishes for content in contents)

    def peers(self) -> list[str]:
        """Return the peers that hold anything."""
        return list(self._held)

    def holders(self, topic: str) -> dict[str, list[str]]:
        """Return peer -> content topics that it holds on a pubsub topic for at least one consumer."""
        found = {
            peer_id: [content for content, consumers in topics.get(topic, {}).items() if consumers]
            for peer_id, topics in self._held.items()
        }
        return {peer_id: contents for peer_id, contents in found.items() if contents}

    def held_for(self, consumer: str, topic: str) -> dict[str, list[str]]:
        """Return `holders`, restricted to one consumer."""
        found = {
            peer_id: [
                content for content, consumers in topics.get(topic, {}).items() if consumer in consumers
            ]
            for peer_id, topics in self._held.items()
        }
        return {peer_id: contents for peer_id, contents in found.items() if contents}

    def peers_for(self, consumer: str) -> list[str]:
        """Return the peers that hold anything for a consumer."""
        return [
            peer_id
            for peer_id, topics in self._held.items()
            if any(consumer in consumers for contents in topics.values() for consumers in contents.values())
        ]

    def wishes(self, consumer: str, topic: str) -> list[str]:
        """Return the content topics that a consumer wants on a pubsub topic."""
        return list(self._wishes.get((consumer, topic), ()))

    def wanted_topics(self, consumer: str) -> list[str]:
        """Return the pubsub topics on which a consumer wants anything."""
        return [topic for who, topic in self._wishes if who == consumer]

    def parties(self) -> set[tuple[str, str]]:
        """Return (consumer, pubsub topic) of every interest."""
        return set(self._wishes)

    def strength(self, topic: str) -> int:
        """Return how many peers hold what is wanted on a pubsub topic: the minimum over its content
        topics; 0 if nothing is wanted."""
        known = self._strengths.get(topic)
        if known is None:
            wanted = self._wanted.get(topic, ())
            held = [topics[topic] for topics in self._held.values() if topic in topics]
            known = min((sum(bool(one.get(content)) for one in held) for content in wanted), default=0)
            self._strengths[topic] = known
        return known

    def wanted(self) -> list[str]:
        """Return the pubsub topics on which anything is wanted."""
        return list(self._wanted)

    def has_orphans(self, peer_id: str) -> bool:
        """Return whether the peer holds anything without a consumer."""
        return peer_id in self._orphans

    def orphans(self, peer_id: str) -> dict[str, list[str]]:
        """Return pubsub topic -> content topics that the peer holds without a consumer."""
        found: dict[str, list[str]] = {}
        for topic, content in self._orphans.get(peer_id, ()):
            found.setdefault(topic, []).append(content)
        return found

    def is_all_orphaned(self, peer_id: str) -> bool:
        """Return whether everything the peer holds is orphaned."""
        return not any(
            consumers for contents in self._held.get(peer_id, {}).values() for consumers in contents.values()
        )

    # --- changes ---

    def expect(self, peer_id: str, topic: str, contents: Iterable[str]) -> None:
        """Register a subscription that is about to be requested: its pushes may precede the response."""
        held = self._held.setdefault(peer_id, {}).setdefault(topic, {})
        for content in contents:
            if content not in held:
                held[content] = {}
                self._orphans.setdefault(peer_id, {})[topic, content] = None

    def add(self, consumer: str, peer_id: str, topic: str, contents: Iterable[str]) -> None:
        """Register what the peer holds for a consumer, and that the consumer wants it."""
        held = self._held.setdefault(peer_id, {}).setdefault(topic, {})
        wanted = self._wanted.setdefault(topic, {})
        wishes = self._wishes.setdefault((consumer, topic), {})
        for content in contents:
            held.setdefault(content, {})[consumer] = None
            self._adopt(peer_id, topic, content)
            if content not in wishes:
                wishes[content] = None
                wanted[content] = wanted.get(content, 0) + 1
                self._size += 1
        self._strengths.pop(topic, None)

    def release(
        self, consumer: str, topic: str, contents: Collection[str], peer_id: str | None = None
    ) -> list[str]:
        """Remove a consumer's interest at one peer, or at all. Return the peers concerned.

        The interest itself ends with the last peer that holds it for the consumer.
        """
        concerned = []
        for holder, topics in self._held.items():
            if peer_id is not None and holder != peer_id:
                continue
            held = topics.get(topic, {})
            before = [content for content in contents if consumer in held.get(content, ())]
            for content in before:
                del held[content][consumer]
                if not held[content]:
                    self._orphans.setdefault(holder, {})[topic, content] = None
            if before:
                concerned.append(holder)
        kept = (
            set()
            if peer_id is None
            else {c for found in self.held_for(consumer, topic).values() for c in found}
        )
        for content in contents:
            if content not in kept:
                self._unwish(consumer, topic, content)
        self._strengths.pop(topic, None)
        return concerned

    def removed(self, peer_id: str, topics: Mapping[str, Iterable[str]]) -> None:
        """Remove what the peer no longer holds; keep what a consumer has claimed since."""
        held = self._held.get(peer_id, {})
        for topic, contents in topics.items():
            entries = held.get(topic, {})
            for content in contents:
                if content in entries and not entries[content]:
                    del entries[content]
                    self._adopt(peer_id, topic, content)
            if topic in held and not entries:
                del held[topic]
        if peer_id in self._held and not held:
            del self._held[peer_id]

    def lose(self, peer_id: str) -> list[str]:
        """Remove everything a lost peer holds, but keep the interests. Return the pubsub topics concerned."""
        topics = list(self._held.pop(peer_id, ()))
        self._orphans.pop(peer_id, None)
        for topic in topics:
            self._strengths.pop(topic, None)
        return topics

    def _adopt(self, peer_id: str, topic: str, content: str) -> None:
        """Clear the orphan mark."""
        orphans = self._orphans.get(peer_id)
        if orphans is not None:
            orphans.pop((topic, content), None)
            if not orphans:
                del self._orphans[peer_id]

    def _unwish(self, consumer: str, topic: str, content: str) -> None:
        wishes = self._wishes.get((consumer, topic), {})
        if content not in wishes:
            return
        del wishes[content]
        self._size -= 1
        wanted = self._wanted[topic]
        wanted[content] -= 1
        if not wanted[content]:
            del wanted[content]
        if not wishes:
            del self._wishes[consumer, topic]
        if not wanted:
            del self._wanted[topic]

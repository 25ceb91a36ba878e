"""Whether a send subscribes its app to the content topic: a policy that can be replaced or switched off.

The Messaging API specification says that the first send on a content topic SHOULD subscribe to it.
"""

from __future__ import annotations

from typing import Final, Protocol

MOST_DECLINED: Final = 10_000


class AutoSubscribe(Protocol):
    """Decides for one send of one app."""

    def wants(self, app: str, content_topic: str, subscribed: bool) -> bool:
        """Return True to subscribe the app to `content_topic` before this send.

        `subscribed`: it already is.
        """

    def unsubscribed(self, app: str, content_topic: str) -> None:
        """Record that the app itself unsubscribed: its next send may not subscribe it again."""

    def forget(self, app: str) -> None:
        """Drop the app."""


class SubscribeOnFirstSend:
    """Subscribe on the first send on a topic; leave an app alone that unsubscribes afterwards (the
    default)."""

    def __init__(self, most: int = MOST_DECLINED) -> None:
        """`most`: the number of declined topics remembered per app, the latest ones."""
        self._most = most
        self._declined: dict[str, dict[str, None]] = {}

    def wants(self, app: str, content_topic: str, subscribed: bool) -> bool:
        return not subscribed and content_topic not in self._declined.get(app, ())

    def unsubscribed(self, app: str, content_topic: str) -> None:
        declined = self._declined.setdefault(app, {})
        declined.pop(content_topic, None)
        declined[content_topic] = None
        if len(declined) > self._most:
            del declined[next(iter(declined))]

    def forget(self, app: str) -> None:
        """Drop the app and its declined topics."""
        self._declined.pop(app, None)


class NeverSubscribe:
    """Sends never subscribe."""

    def wants(self, app: str, content_topic: str, subscribed: bool) -> bool:  # noqa: ARG002
        return False

    def unsubscribed(self, app: str, content_topic: str) -> None:
        pass

    def forget(self, app: str) -> None:
        pass

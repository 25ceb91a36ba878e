"""Whether a send subscribes its app to the content topic: a policy that can be replaced or switched off.

The Messaging API's specification says that the first send on a content topic SHOULD subscribe to it.
"""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["AutoSubscribe", "NeverSubscribe", "SubscribeOnFirstSend"]


MOST_DECLINED: Final = 10_000


class AutoSubscribe(Protocol):
    """Decides for one send of one app."""

    def wants(self, app: str, content_topic: str, subscribed: bool) -> bool:
        """True: subscribe the app to `content_topic` before this send. `subscribed`: it already is."""
        ...

    def unsubscribed(self, app: str, content_topic: str) -> None:
        """The app unsubscribed the topic itself; it may not want to be subscribed again by its next send."""
        ...

    def forget(self, app: str) -> None:
        """The app is gone."""
        ...


class SubscribeOnFirstSend:
    """The default: the first send on a topic subscribes, and an app that then unsubscribes is left alone."""

    def __init__(self, most: int = MOST_DECLINED) -> None:
        """`most`: so many declined topics of an app are remembered, the latest."""
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
        """The app is gone; what it declined goes with it."""
        self._declined.pop(app, None)


class NeverSubscribe:
    """Sends never subscribe."""

    def wants(self, app: str, content_topic: str, subscribed: bool) -> bool:  # noqa: ARG002
        return False

    def unsubscribed(self, app: str, content_topic: str) -> None:
        pass

    def forget(self, app: str) -> None:
        pass

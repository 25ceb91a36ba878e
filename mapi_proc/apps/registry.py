"""Registry of apps: named apps outlive their connection, ephemeral ones do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from mapi_proc.streams import AppStream


class AppConnection(Protocol):
    """An app's live connection."""

    def send(self, header: bytes, payload: bytes, /) -> bool:
        """Send one event. Return False if the connection cannot take it now."""

    def taken_over(self, header: bytes, /) -> None:
        """Notify the client that another connection has claimed its name, and drop this one."""


@dataclass(slots=True, eq=False)
class App:
    """One app. `app_id` is 0 for an ephemeral app; `uid` is None where the transport has no credentials
    (tcp)."""

    name: str
    uid: int | None
    stream: AppStream
    app_id: int = 0
    last_seen: int = 0
    """ns; what is on disk of it may be older."""
    away_since: float = 0.0
    """Of an app without a connection, on the running clock: since then it could have come."""
    connection: AppConnection | None = None
    notified_status: str = ""
    """The connection status of the last event about it in this process's life; empty: none yet."""
    notified_seq: int = 0
    """The seq of that event."""

    @property
    def durable(self) -> bool:
        return self.stream.durable

    @property
    def has_unread(self) -> bool:
        """True if something waits for the app besides the last event about the connection status."""
        stream = self.stream
        return stream.acked < stream.last_seq - (stream.last_seq == self.notified_seq)


class AppRegistry:
    """Index of all apps by name and by stream id."""

    def __init__(self) -> None:
        self._by_name: dict[str, App] = {}
        self._by_stream: dict[bytes, App] = {}
        self._dropped_before = 0

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[App]:
        return iter(tuple(self._by_name.values()))

    def named(self, name: str) -> App | None:
        return self._by_name.get(name)

    def find_stream(self, stream_id: bytes) -> AppStream | None:
        """Return the stream with this id, or None if its app is gone."""
        app = self._by_stream.get(stream_id)
        return app.stream if app is not None else None

    def name_of(self, stream_id: bytes) -> str:
        """Return the name of the app of that stream, empty if the app is gone."""
        app = self._by_stream.get(stream_id)
        return app.name if app is not None else ""

    @property
    def events_dropped(self) -> int:
        """Count the events that the bounds of streams have removed, of apps that are gone too."""
        return self._dropped_before + sum(app.stream.events_dropped for app in self)

    def add(self, app: App) -> None:
        self._by_name[app.name] = app
        self._by_stream[app.stream.stream_id] = app

    def remove(self, app: App) -> None:
        if self._by_name.pop(app.name, None) is not None:
            self._dropped_before += app.stream.events_dropped
        for stream_id in [each for each, other in self._by_stream.items() if other is app]:
            del self._by_stream[stream_id]

    def renew(self, app: App, stream_id: bytes) -> None:
        """Give the app's stream another id. What is under way for the old one still finds it."""
        app.stream.renew(stream_id)
        self._by_stream[stream_id] = app

    @property
    def connected(self) -> Iterator[App]:
        """Return the apps that have a live connection."""
        return (app for app in self if app.connection is not None)

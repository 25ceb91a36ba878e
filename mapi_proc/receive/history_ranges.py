"""The time spans that an app requests when it subscribes: since it left the topic, or some time back.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mapi_proc.apps import App


class HistoryRange(NamedTuple):
    """Per topic: what came since the app unsubscribed from it (`since_last`), or in the last `back_ns`.

    If both are requested, the longer one.
    """

    since_last: bool = False
    back_ns: int = 0

    @property
    def wanted(self) -> bool:
        return self.since_last or self.back_ns > 0


class PastTopics:
    """Remembers when apps left topics. Bounded per app; beyond the bound nothing is known."""

    def __init__(
        self, max_topics: int, apps: Mapping[int, App], loaded: Mapping[tuple[int, str], int]
    ) -> None:
        """Restore from `loaded`: (app id, topic) -> when it left it (ns)."""
        self._max_topics = max_topics
        self._left: dict[bytes, dict[str, int]] = {}
        for (app_id, topic), time in loaded.items():
            if app_id in apps:
                self.left(apps[app_id], [topic], time)

    def left(self, app: App, topics: Iterable[str], now: int) -> list[str]:
        """Record that the app left these topics. Return those that are remembered."""
        known = self._left.setdefault(app.stream.stream_id, {})
        taken = []
        for topic in topics:
            if topic in known or len(known) < self._max_topics:
                known[topic] = now
                taken.append(topic)
        return taken

    def renamed(self, old: bytes, new: bytes) -> None:
        """Follow a stream that got another id."""
        if old in self._left:
            self._left[new] = self._left.pop(old)

    def forget(self, app: App) -> None:
        """Drop the app."""
        self._left.pop(app.stream.stream_id, None)

    def jobs(
        self, app: App, topics: Iterable[str], wanted: HistoryRange | None, now: int
    ) -> dict[tuple[int, int], list[str]]:
        """Return (start, end) in ns -> the topics to fetch for that time span."""
        jobs: dict[tuple[int, int], list[str]] = {}
        if wanted is None:
            return jobs
        known = self._left.get(app.stream.stream_id, {})
        for topic in topics:
            starts = [now - wanted.back_ns] if wanted.back_ns else []
            if wanted.since_last and topic in known:
                starts.append(known[topic])
            if starts:
                jobs.setdefault((min(starts), now), []).append(topic)
        return jobs

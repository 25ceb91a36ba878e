"""Which part of the past an app asks for when it subscribes: since it left the topic, or a time
back. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mapi_proc.apps import App

__all__ = ["HistoryRange", "PastTopics"]


class HistoryRange(NamedTuple):
    """Of each topic, what came since the app unsubscribed it (`since_last`), or in the last `back_ns`: the
    longer of the two where both are asked for.
    """

    since_last: bool = False
    back_ns: int = 0

    @property
    def wanted(self) -> bool:
        """Whether anything of the past is."""
        return self.since_last or self.back_ns > 0


class PastTopics:
    """When apps left topics. Bounded per app: of what does not fit, nothing is known."""

    def __init__(
        self, max_topics: int, apps: Mapping[int, App], loaded: Mapping[tuple[int, str], int]
    ) -> None:
        """`loaded`: (app id, topic) -> when it left it (ns), as of the last run."""
        self._max_topics = max_topics
        self._left: dict[bytes, dict[str, int]] = {}
        for (app_id, topic), time in loaded.items():
            if app_id in apps:
                self.left(apps[app_id], [topic], time)

    def left(self, app: App, topics: Iterable[str], now: int) -> list[str]:
        """The app gave up these topics; returns those that are remembered."""
        known = self._left.setdefault(app.stream.stream_id, {})
        taken = []
        for topic in topics:
            if topic in known or len(known) < self._max_topics:
                known[topic] = now
                taken.append(topic)
        return taken

    def forget(self, app: App) -> None:
        """The app is gone."""
        self._left.pop(app.stream.stream_id, None)

    def jobs(
        self, app: App, topics: Iterable[str], wanted: HistoryRange | None, now: int
    ) -> dict[tuple[int, int], list[str]]:
        """(start, end) in ns -> the topics to fetch for that time."""
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

"""Number, status and duration of requests, counted around every route.

Whatever clients send, labels are few: groups of routes, and classes of status codes.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from logos_gateway.operator.exposition import Sample

_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_GROUPS: Final = frozenset(
    {"admin", "apps", "dashboard", "debug", "docs", "filter", "gateway", "health", "info", "kernel"}
    | {"lightpush", "messaging", "metrics", "openapi.json", "ready", "relay", "store", "version"}
)


def route_group(path: str) -> str:
    """Return the first part of a path if it is one of ours, else `other`."""
    first = path[1:].partition("/")[0]
    return first if first in _GROUPS else "other"


class RequestFigures:
    """Counts by group."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, str]] = Counter()
        self._durations: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self.open: Counter[str] = Counter()
        """Requests in progress by kind: http, websocket. Event streams count while they are read."""

    def answered(self, group: str, status: int, seconds: float) -> None:
        """Count one response by the time until its head was sent."""
        self._answers[group, f"{status // 100}xx"] += 1
        counts = self._durations.get(group)
        if counts is None:
            counts = self._durations[group] = [0] * (len(_BOUNDS) + 1)
        counts[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds[group] = self._seconds.get(group, 0.0) + seconds

    def noting(self, send: Send, group: str, started: float) -> Send:
        """Return a `send` that counts the response when its head is sent. `started`: by `perf_counter`."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.answered(group, message["status"], time.perf_counter() - started)
            await send(message)

        return sending

    def samples(self) -> Iterator[Sample]:
        """Yield all values."""
        for (group, status), count in self._answers.items():
            yield "gateway_requests", {"group": group, "status": status}, count
        for kind, count in self.open.items():
            yield "gateway_requests_open", {"kind": kind}, count
        name = "gateway_request_duration_seconds"
        for group, counts in self._durations.items():
            total = 0
            for bound, count in zip((*_BOUNDS, None), counts, strict=True):
                total += count
                yield (
                    f"{name}_bucket",
                    {"group": group, "le": "+Inf" if bound is None else f"{bound:g}"},
                    total,
                )
            yield f"{name}_sum", {"group": group}, self._seconds[group]
            yield f"{name}_count", {"group": group}, total


class RequestFiguresMiddleware:
    """Feed `RequestFigures`; the outermost middleware, so that refusals count too."""

    def __init__(self, app: ASGIApp, *, figures: RequestFigures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        figures = self._figures
        if kind == "http":
            send = figures.noting(send, route_group(scope["path"]), time.perf_counter())
        figures.open[kind] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            figures.open[kind] -= 1

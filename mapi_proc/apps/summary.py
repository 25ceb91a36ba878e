"""What the control socket shows of all apps and their sends."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from ipc_schema.mapi.control import (
    MAX_APPS_SHOWN,
    MAX_SENDS_SHOWN,
    AppsReply,
    AppSummary,
    SendsReply,
    SendSummary,
)
from mapi_proc.apps.registry import App, AppRegistry
from mapi_proc.send.task import SendTask
from mapi_proc.streams import AppStream, DurableStream, EphemeralStream


def summarise_apps(
    apps: AppRegistry, topics_of: Callable[[AppStream], int], sends: Iterable[SendTask], now_ns: int
) -> AppsReply:
    """Summarise the apps with the longest backlogs, those with equal ones by name.

    `now_ns`: on the clock by which apps are seen (`App.last_seen`).
    """
    open_sends = Counter(task.scope for task in sends)
    # Not a sort of all: this runs on the loop that delivers.
    shown = heapq.nsmallest(MAX_APPS_SHOWN, apps, key=lambda app: (-_backlog(app), app.name))
    return AppsReply(
        apps=tuple(
            _summary(app, topics_of(app.stream), open_sends[app.stream.stream_id], now_ns) for app in shown
        ),
        total=len(apps),
    )


def _backlog(app: App) -> int:
    return app.stream.last_seq - max(app.stream.acked, app.stream.dropped)


def _summary(app: App, topics: int, sends: int, now_ns: int) -> AppSummary:
    stream = app.stream
    stored = 0
    if isinstance(stream, DurableStream):
        stored = stream.stored_bytes
    elif isinstance(stream, EphemeralStream):
        stored = stream.waiting_bytes
    return AppSummary(
        name=app.name,
        durable=app.durable,
        connected=app.connection is not None,
        topics=topics,
        stream=stream.stream_id,
        acked=stream.acked,
        dropped=stream.dropped,
        last=stream.last_seq,
        backlog_bytes=stored,
        away_ms=None if app.connection is not None else max(0, now_ns - app.last_seen) // 1_000_000,
        sends=sends,
    )


def summarise_sends(
    tasks: Iterable[SendTask], states: Mapping[str, int], name_of: Callable[[bytes], str]
) -> SendsReply:
    """Summarise the oldest sends. `name_of` gives the app of a stream, empty when it has left."""
    return SendsReply(
        sends=tuple(
            SendSummary(
                app=name_of(task.scope),
                request_id=task.request_id,
                content_topic=task.content_topic,
                state=task.state.value,
                accepted_ns=task.accepted_ns,
                attempts=task.attempts,
                cause=task.cause,
            )
            for task in islice(tasks, MAX_SENDS_SHOWN)
        ),
        total=sum(states.values()),
        states=dict(states),
    )

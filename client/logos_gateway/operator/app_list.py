"""The apps of a node and their sends, as JSON."""

from __future__ import annotations

import asyncio
from typing import Any

from ipc_schema.mapi.control import AppSummary, SendSummary
from logos_client.control import ControlClient


async def list_apps(control: ControlClient, *, timeout: float = 5.0) -> dict[str, Any]:
    """Query a Messaging API. Raises `LogosError`."""
    apps, sends = await asyncio.gather(control.apps(timeout=timeout), control.sends(timeout=timeout))
    return {
        "apps": [show_app(one) for one in apps.apps],
        "total": apps.total,
        "sends": {
            "sends": [show_send(one) for one in sends.sends],
            "total": sends.total,
            "states": sends.states,
        },
    }


def show_app(app: AppSummary) -> dict[str, Any]:
    """Return an app; `backlog` counts events."""
    return {
        "name": app.name,
        "durable": app.durable,
        "connected": app.connected,
        "topics": app.topics,
        "streamId": app.stream.hex(),
        "acked": app.acked,
        "last": app.last,
        "backlog": max(0, app.last - max(app.acked, app.dropped)),
        "backlogBytes": app.backlog_bytes,
        "awayMs": app.away_ms,
        "sends": app.sends,
    }


def show_send(send: SendSummary) -> dict[str, Any]:
    """Return a send that is not final."""
    return {
        "app": send.app,
        "requestId": send.request_id.hex(),
        "contentTopic": send.content_topic,
        "state": send.state,
        "acceptedNs": send.accepted_ns,
        "attempts": send.attempts,
        "cause": send.cause,
    }

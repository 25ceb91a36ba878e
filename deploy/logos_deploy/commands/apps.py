"""`logos apps`: the apps of a node, with their backlog and where they stand in their streams."""

from __future__ import annotations

import argparse
from typing import Any, Final

from ipc_schema.mapi.control import AppsReply, AppSummary
from logos_client.control import ControlClient
from logos_deploy.commands.output import print_result
from logos_deploy.commands.where import NodePlace, add_query_options, where
from logos_deploy.exits import Exit
from logos_deploy.session import run_interruptible
from logos_deploy.text import duration, one_line, size, table

HELP: Final = "show the apps of a node: backlog, position in the stream, last seen"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_query_options(parser)


def run(arguments: argparse.Namespace) -> int:
    return run_interruptible(_apps(where(arguments), arguments))


async def _apps(place: NodePlace, arguments: argparse.Namespace) -> int:
    async with ControlClient.connect(place.mapi.control, timeout=arguments.timeout) as control:
        reply = await control.apps(timeout=arguments.timeout)
    print_result(arguments, as_json(reply), as_text(reply))
    return Exit.OK


def as_json(reply: AppsReply) -> dict[str, Any]:
    """Return `{total, apps: […]}`."""
    return {"total": reply.total, "apps": [_row(app) for app in reply.apps]}


def _row(app: AppSummary) -> dict[str, Any]:
    return {
        "name": app.name,
        "durable": app.durable,
        "connected": app.connected,
        "awayMs": app.away_ms,
        "contentTopics": app.topics,
        "stream": app.stream.hex(),
        "acked": app.acked,
        "dropped": app.dropped,
        "last": app.last,
        "backlog": backlog(app),
        "backlogBytes": app.backlog_bytes,
        "pendingSends": app.sends,
    }


def backlog(app: AppSummary) -> int:
    """Return the number of events that wait for the app."""
    return app.last - max(app.acked, app.dropped)


def as_text(reply: AppsReply) -> str:
    """Format a table, longest backlog first."""
    if not reply.total:
        return "no apps"
    rows = [
        (
            one_line(app.name) + ("" if app.durable else " (unnamed)"),
            "connected" if app.away_ms is None else f"{duration(app.away_ms / 1000)} ago",
            app.topics,
            backlog(app),
            size(app.backlog_bytes),
            f"{app.acked}/{app.last}",
            app.dropped if app.dropped > app.acked else "",
            app.sends,
        )
        for app in reply.apps
    ]
    heads = ("app", "last seen", "topics", "backlog", "size", "acked/last", "dropped to", "pending sends")
    text = table(rows, heads=heads, right=(2, 3, 4, 5, 6, 7))
    more = reply.total - len(reply.apps)
    return f"{text}\nand {more} more" if more else text

"""`logos pending`: accepted sends that are not final; cancel one of them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any, Final

from ipc_schema.mapi.methods import PendingReply, PendingSend
from logos_client.messaging import MessagingClient
from logos_deploy.commands.output import print_json, print_result
from logos_deploy.commands.where import NodePlace, add_where, where
from logos_deploy.control import ask_health
from logos_deploy.exits import CommandError, Exit
from logos_deploy.session import run_interruptible
from logos_deploy.text import count, duration, one_line, size, table

HELP: Final = "show pending sends: their number, or those of one app"

_CONNECT: Final = 5.0
"""Seconds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="list those of this named app")
    parser.add_argument(
        "--cancel", metavar="ID", help="with --name: cancel this send, if it has not been attempted yet"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_where(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.name is None and arguments.cancel:
        raise CommandError(Exit.USAGE, "--cancel needs --name")
    request_id = _request_id(arguments.cancel)
    place = where(arguments)
    work = _of_all(place, arguments) if arguments.name is None else _of_one(place, arguments, request_id)
    return run_interruptible(work)


def _request_id(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        request_id = bytes.fromhex(text)
    except ValueError:
        request_id = b""
    if len(request_id) != 16:
        raise CommandError(Exit.USAGE, f"--cancel: {text!r} is not a request id, 32 hex digits")
    return request_id


async def _of_all(place: NodePlace, arguments: argparse.Namespace) -> int:
    health = await ask_health(place.mapi.control)
    if health is None:
        raise CommandError(Exit.UNAVAILABLE, f"no Messaging API answers at {place.mapi.control}")
    sends = health.more.get("sends")
    sends = sends if isinstance(sends, dict) else {}
    states = {str(state): int(number) for state, number in dict(sends.get("states") or {}).items()}
    number, payload = int(sends.get("pending", 0)), int(sends.get("pending_bytes", 0))
    if arguments.json:
        print_json({"total": number, "bytes": payload, "states": states, "cause": sends.get("cause", "")})
    else:
        print(f"{count(number, 'send')} pending, {size(payload)} (--name shows those of an app)")
        if number:
            print(by_state(states))
        if number > states.get("propagated", 0) and sends.get("cause"):
            print(f"last failed attempt: {one_line(str(sends['cause']))}")
    return Exit.OK


async def _of_one(place: NodePlace, arguments: argparse.Namespace, request_id: bytes | None) -> int:
    # Over an unnamed connection: the app keeps its own, and asking does not create an app.
    async with MessagingClient.connect(place.mapi.apps, timeout=_CONNECT) as client:
        if request_id is not None:
            return _say_cancelled(arguments, await client.cancel(request_id, name=arguments.name))
        reply = await client.pending(name=arguments.name)
    print_result(arguments, as_json(reply), as_text(reply, time.time_ns()))
    return Exit.OK


def _say_cancelled(arguments: argparse.Namespace, cancelled: bool) -> int:
    print_result(
        arguments,
        {"cancelled": cancelled},
        "cancelled" if cancelled else "too late, or there is no such send",
    )
    return Exit.OK if cancelled else Exit.FAILED


def by_state(states: Mapping[str, int]) -> str:
    """Count the sends by state, leaving out empty states."""
    return ", ".join(f"{number} {state}" for state, number in states.items() if number)


def as_json(reply: PendingReply) -> dict[str, Any]:
    """Return `{total, states, sends: […]}`, with the key names of events."""
    return {"total": reply.total, "states": reply.states, "sends": [_row(send) for send in reply.sends]}


def _row(send: PendingSend) -> dict[str, Any]:
    return {
        "requestId": send.request_id.hex(),
        "contentTopic": send.content_topic,
        "state": send.state,
        "acceptedNs": send.accepted_ns,
        "attempts": send.attempts,
        "messageHash": "0x" + send.message_hash.hex() if send.message_hash else None,
        "timestamp": send.timestamp,
        "cause": send.cause,
    }


def as_text(reply: PendingReply, now_ns: int) -> str:
    """Format a table, oldest first."""
    if not reply.total:
        return "no pending sends"
    rows = [
        (
            send.request_id.hex(),
            send.state,
            duration(max(0, now_ns - send.accepted_ns) / 1e9),
            send.attempts,
            one_line(send.content_topic),
            one_line(send.cause),
        )
        for send in reply.sends
    ]
    text = table(rows, heads=("request id", "state", "for", "attempts", "content topic", "last"), right=(3,))
    if len({send.state for send in reply.sends}) > 1:
        text += f"\n{by_state(reply.states)}"
    more = reply.total - len(reply.sends)
    return f"{text}\nand {more} more" if more else text

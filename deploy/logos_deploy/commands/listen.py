"""`logos listen`: print the messages of content topics as they arrive."""

from __future__ import annotations

import argparse
import base64
import json
from typing import Final

from logos_client.events import (
    ConnectionStatusChange,
    Event,
    EventsDropped,
    LinkLost,
    LinkRestored,
    MessageReceived,
    MessagesMissed,
    TakenOver,
)
from logos_client.messaging import MessagingClient
from logos_deploy.commands.output import clock_time, note
from logos_deploy.commands.where import add_where, where
from logos_deploy.exits import CommandError, Exit
from logos_deploy.session import run_interruptible
from logos_deploy.text import one_line, payload_text

_CONNECT: Final = 3.0
HELP: Final = "print the messages of content topics as they arrive"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "content_topics", metavar="content-topic", nargs="+", help="/application/1/name/encoding"
    )
    parser.add_argument(
        "--name", help="listen as this named app: messages that arrive meanwhile are delivered later"
    )
    parser.add_argument("--count", type=int, metavar="N", help="stop after so many messages")
    parser.add_argument("--json", action="store_true", help="one JSON object per message")
    add_where(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.count is not None and arguments.count < 1:
        raise CommandError(Exit.USAGE, "--count: at least 1")
    place = where(arguments)
    return run_interruptible(_listen(place.mapi.apps, arguments), interrupted=Exit.OK)


async def _listen(endpoint: str, arguments: argparse.Namespace) -> int:
    async with MessagingClient.connect(endpoint, name=arguments.name, timeout=_CONNECT) as client:
        _refuse(await client.subscribe(arguments.content_topics))
        note(f"listening on {', '.join(arguments.content_topics)} (Ctrl-C stops)")
        seen = 0
        async for event in client:
            if isinstance(event, MessageReceived):
                print(_as_json(event) if arguments.json else _as_text(event), flush=True)
                seen += 1
                if seen == arguments.count:
                    return Exit.OK
            elif isinstance(event, TakenOver):
                raise CommandError(Exit.FAILED, f"another program has taken over {client.name}")
            elif remark := _remark(event):
                note(remark)
    return Exit.OK


def _refuse(errors: dict[str, str]) -> None:
    if errors:
        raise CommandError(Exit.DATA, "; ".join(f"{topic}: {why}" for topic, why in errors.items()))


def _remark(event: Event) -> str:
    match event:
        case ConnectionStatusChange():
            return f"{event.status}: {event.reason}" if event.reason else event.status
        case EventsDropped():
            return f"events {event.first} to {event.last} are gone: {event.reason}"
        case MessagesMissed():
            return f"messages may be missing ({_between(event.from_ns, event.to_ns)}): {event.reason}"
        case LinkLost():
            return f"the Messaging API is unreachable: {event.reason}"
        case LinkRestored(resumed=resumed):
            return "the Messaging API is back" + ("" if resumed else "; messages in between are lost")
    return ""


def _between(start: int, end: int) -> str:
    return f"{clock_time(start)} to {clock_time(end)}"


def _as_text(event: MessageReceived) -> str:
    return f"{clock_time(event.timestamp)}  {one_line(event.content_topic)}  {payload_text(event.payload)}"


def _as_json(event: MessageReceived) -> str:
    """Convert to the reference's key names; payload and meta in base64, as there."""
    return json.dumps(
        {
            "event": "message_received",
            "messageHash": "0x" + event.message_hash.hex(),
            "contentTopic": event.content_topic,
            "payload": base64.b64encode(event.payload).decode(),
            "timestamp": event.timestamp,
            "ephemeral": event.ephemeral,
            "version": event.version,
            "meta": base64.b64encode(event.meta).decode(),
            "streamId": event.stream_id.hex(),
            "seq": event.seq,
        }
    )

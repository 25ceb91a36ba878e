"""`logos channel`: take part in a reliable channel: open it, send to it, listen to it, see how it stands."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from logos_client.events import (
    ChannelDeliveryError,
    ChannelMessageDelivered,
    ChannelMessageError,
    ChannelMessageLost,
    ChannelMessageReceived,
    ChannelMessageSent,
    ChannelSync,
    Event,
    LinkLost,
    LinkRestored,
    TakenOver,
)
from logos_client.exceptions import ConflictError
from logos_client.messaging import MessagingClient
from logos_deploy.commands.output import note, print_json
from logos_deploy.commands.payload import payload_of
from logos_deploy.commands.where import add_where, where
from logos_deploy.exits import CommandError, Exit
from logos_deploy.session import run_interruptible
from logos_deploy.text import one_line, payload_text, size, table

HELP: Final = "take part in a reliable channel: open, send, listen, status"

_CONNECT: Final = 3.0
_LARGEST: Final = 26 << 20
_SEND_S: Final = 60.0
_KEY: Final = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=list(_ACTIONS), help="what to do")
    parser.add_argument(
        "channel", nargs="?", help="the channel's id; status: all channels of the app without"
    )
    parser.add_argument(
        "payload", nargs="?", default="-", help="send: text; - or nothing: read standard input"
    )
    parser.add_argument(
        "--topic", help="its content topic, /application/1/name/encoding; opens it if need be"
    )
    parser.add_argument(
        "--name", help="as this named app: the channel outlives the command, with all that is still to come"
    )
    parser.add_argument("--sender", help="our id in the channel (default: made up, and kept with --name)")
    parser.add_argument("--profile", default="reference", help="wire form: reference, raw or js")
    parser.add_argument(
        "--key-file",
        action="append",
        default=[],
        metavar="FILE",
        help="a key in 64 hex digits; the first encrypts",
    )
    parser.add_argument(
        "--keep-keys", action="store_true", help="store the keys with the channel (needs --name)"
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="SECONDS", help="send: how long to wait for delivery"
    )
    parser.add_argument("--count", type=int, metavar="N", help="listen: stop after so many messages")
    parser.add_argument("--json", action="store_true", help="JSON objects, for programs")
    add_where(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.channel is None and arguments.action != "status":
        raise CommandError(Exit.USAGE, f"{arguments.action} needs the channel's id")
    if arguments.action == "open" and not (arguments.topic and arguments.name):
        raise CommandError(Exit.USAGE, "open needs --topic and --name: a channel lives as long as its app")
    if arguments.action == "status" and not arguments.name:
        raise CommandError(Exit.USAGE, "status needs --name")
    if arguments.count is not None and arguments.count < 1:
        raise CommandError(Exit.USAGE, "--count: at least 1")
    keys = [_key(Path(path)) for path in arguments.key_file]
    payload = payload_of(arguments.payload, _LARGEST) if arguments.action == "send" else b""
    place = where(arguments)
    ended = Exit.OK if arguments.action == "listen" else Exit.INTERRUPTED
    return run_interruptible(_run(place.mapi.apps, arguments, keys, payload), interrupted=ended)


def _key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise CommandError(Exit.DATA, f"{path}: {error.strerror}") from error
    except ValueError:
        key = b""
    if len(key) != _KEY:
        raise CommandError(Exit.DATA, f"{path} does not hold a key: {2 * _KEY} hex digits")
    return key


async def _run(endpoint: str, arguments: argparse.Namespace, keys: list[bytes], payload: bytes) -> int:
    async with MessagingClient.connect(endpoint, name=arguments.name, timeout=_CONNECT) as client:
        if arguments.action != "status":
            await _open_if_need_be(client, arguments, keys)
        return await _ACTIONS[arguments.action](client, arguments, payload)


async def _open_if_need_be(client: MessagingClient, arguments: argparse.Namespace, keys: list[bytes]) -> None:
    known = {info.channel_id: info for info in await client.channels()}.get(arguments.channel)
    if known is not None and known.open and arguments.action != "open":
        return
    topic = arguments.topic or (known.content_topic if known is not None else None)
    if topic is None:
        text = f"there is no channel {arguments.channel} yet: --topic opens it"
        raise CommandError(Exit.DATA, text)
    try:
        sender = await client.create_channel(
            arguments.channel,
            topic,
            sender_id=arguments.sender,
            profile=arguments.profile if known is None else known.profile,
            keys=keys,
            keep_keys=arguments.keep_keys,
        )
    except ConflictError as error:
        raise CommandError(Exit.FAILED, error.message) from error
    note(f"channel {arguments.channel} on {topic}, here as {sender}")


async def _open(client: MessagingClient, arguments: argparse.Namespace, _payload: bytes) -> int:
    del client, arguments
    return Exit.OK


async def _send(client: MessagingClient, arguments: argparse.Namespace, payload: bytes) -> int:
    request_id = await client.send_to_channel(arguments.channel, payload, timeout=_SEND_S)
    _print(arguments, {"event": "accepted", "request_id": request_id.hex()}, f"accepted {size(len(payload))}")
    try:
        async with asyncio.timeout(arguments.timeout):
            async for event in client:
                match event:
                    case ChannelMessageSent(request_id=sent) if sent == request_id:
                        _print(arguments, event.to_dict(), "sent: all of it is with the network")
                    case ChannelMessageDelivered(request_id=sent, by=by) if sent == request_id:
                        _print(arguments, event.to_dict(), f"delivered: {one_line(by)} has it")
                        return Exit.OK
                    case ChannelMessageError() | ChannelDeliveryError() if event.request_id == request_id:
                        _print(arguments, event.to_dict(), f"failed: {event.text}")
                        return Exit.FAILED
    except TimeoutError:
        pass
    note(f"no participant has acknowledged it after {arguments.timeout:g} s")
    return Exit.UNDECIDED


async def _listen(client: MessagingClient, arguments: argparse.Namespace, _payload: bytes) -> int:
    seen = 0
    async for event in client:
        if isinstance(event, ChannelMessageReceived) and event.channel_id == arguments.channel:
            text = f"{one_line(event.sender_id)}  {payload_text(event.payload)}"
            shown = {**event.to_dict(), "payload": base64.b64encode(event.payload).decode()}
            _print(arguments, shown, text)
            seen += 1
            if seen == arguments.count:
                return Exit.OK
        elif isinstance(event, TakenOver):
            raise CommandError(Exit.FAILED, f"another program has taken over {client.name}")
        elif isinstance(event, LinkRestored) and not event.resumed:
            raise CommandError(
                Exit.FAILED, "the Messaging API was restarted, and the channel went with it: use --name"
            )
        elif remark := _remark(event):
            note(remark)
    return Exit.OK


def _remark(event: Event) -> str:
    match event:
        case ChannelMessageLost():
            return f"something is lost: {event.reason}"
        case ChannelSync():
            return event.state + (f": {event.missing} messages are missing" if event.missing else "")
        case LinkLost():
            return f"the Messaging API is unreachable: {event.reason}"
        case LinkRestored():
            return "the Messaging API is back"
    return ""


async def _status(client: MessagingClient, arguments: argparse.Namespace, _payload: bytes) -> int:
    rows: list[dict[str, Any]] = []
    for info in await client.channels():
        if arguments.channel in (None, info.channel_id):
            state = "open" if info.open else "locked" if info.locked else "closed"
            row: dict[str, Any] = {**info.to_body(), "state": state}
            if info.open:
                row |= (await client.channel_status(info.channel_id)).to_body()
            rows.append(row)
    if arguments.channel is not None and not rows:
        raise CommandError(Exit.DATA, f"{arguments.name} has no channel {arguments.channel}")
    if arguments.json:
        print_json({"channels": rows})
        return Exit.OK
    columns = ("channel_id", "state", "profile", "unacknowledged", "missing", "waiting", "content_topic")
    cells = [[one_line(str(row.get(column, ""))) for column in columns] for row in rows]
    print(table(cells, heads=("channel", "state", "profile", "unacked", "missing", "waiting", "topic")))
    return Exit.OK


def _print(arguments: argparse.Namespace, row: dict[str, Any], text: str) -> None:
    print(json.dumps(row) if arguments.json else text, flush=True)


_ACTIONS: Final[dict[str, Callable[[MessagingClient, argparse.Namespace, bytes], Awaitable[int]]]] = {
    "open": _open,
    "send": _send,
    "listen": _listen,
    "status": _status,
}

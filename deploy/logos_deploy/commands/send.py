"""`logos send`: send a message through a running Messaging API and wait for the outcome."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from typing import Final

from logos_client.events import MessageError, MessagePropagated, MessageSent
from logos_client.exceptions import LogosError
from logos_client.messaging import MessagingClient
from logos_deploy.commands.payload import payload_of
from logos_deploy.commands.where import add_where, where
from logos_deploy.exits import Exit
from logos_deploy.session import run_interruptible
from logos_deploy.text import size

HELP: Final = "send a message and wait for the outcome"

_CONNECT: Final = 3.0
_LARGEST: Final = 1 << 20
"""Bytes: more than any network accepts."""
_GRACE: Final = 10.0
"""Seconds to wait beyond the Messaging API's own send window."""
_PUZZLING: Final = 3.0
"""Seconds after which to print why it takes so long."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("content_topic", metavar="content-topic", help="/application/1/name/encoding")
    parser.add_argument("payload", nargs="?", default="-", help="text; - or nothing: read standard input")
    parser.add_argument("--ephemeral", action="store_true", help="do not have stores keep it")
    parser.add_argument("--name", help="send as this named app")
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="seconds to wait (default: until the outcome is known)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per event")
    add_where(parser)


def run(arguments: argparse.Namespace) -> int:
    place = where(arguments)
    payload = payload_of(arguments.payload, _LARGEST)
    return run_interruptible(_send(place.mapi.apps, arguments, payload))


async def _send(endpoint: str, arguments: argparse.Namespace, payload: bytes) -> int:
    async with MessagingClient.connect(endpoint, name=arguments.name, timeout=_CONNECT) as client:
        window = client.limits.send_window_ms / 1000 + _GRACE
        patience = window if arguments.timeout is None else arguments.timeout
        line = _TimeLine(as_json=arguments.json)
        request_id = await client.send(
            arguments.content_topic, payload, ephemeral=arguments.ephemeral, timeout=patience
        )
        line.say("accepted", f"{size(len(payload))}", request_id=request_id)
        explaining = asyncio.create_task(_explain_delay(client))
        try:
            async with asyncio.timeout(patience):
                async for event in client:
                    match event:
                        case MessagePropagated() | MessageSent() if event.request_id == request_id:
                            line.say("propagated", "", event.message_hash, request_id)
                            return Exit.OK
                        case MessageError() if event.request_id == request_id:
                            line.say("error", event.text, event.message_hash, request_id)
                            return Exit.FAILED
        except TimeoutError:
            pass
        finally:
            explaining.cancel()
        line.say("undecided", f"no peer has it after {patience:g} s", request_id=request_id)
        return Exit.UNDECIDED


async def _explain_delay(client: MessagingClient) -> None:
    await asyncio.sleep(_PUZZLING)
    with contextlib.suppress(LogosError):  # the wait itself reports that
        status = await client.status()
        reason = f" ({status.reason})" if status.reason else ""
        print(
            f"-- not propagated yet, the node is {status.connection}{reason}; "
            "after Ctrl-C the node keeps trying (logos discovery shows problems)",
            file=sys.stderr,
            flush=True,
        )


class _TimeLine:
    """Prints events with milliseconds since the start."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._start = time.monotonic()

    def say(self, event: str, text: str, message_hash: bytes | None = None, request_id: bytes = b"") -> None:
        elapsed = (time.monotonic() - self._start) * 1000
        if self._json:
            row: dict[str, object] = {"event": f"message_{event}", "ms": round(elapsed, 1)}
            row["requestId"] = request_id.hex()
            if message_hash:
                row["messageHash"] = "0x" + message_hash.hex()
            if text:
                row["text"] = text
            print(json.dumps(row), flush=True)
            return
        shown = f"0x{message_hash.hex()}" if message_hash else ""
        print(f"{elapsed:8.1f} ms  {event:<10} {text or shown}", flush=True)

"""The payload of a command that sends: its argument, or standard input."""

from __future__ import annotations

import os
import sys

from logos_deploy.exits import CommandError, Exit
from logos_deploy.text import size


def payload_of(argument: str, largest: int) -> bytes:
    """Return what is to be sent; `-` is standard input, read as far as a message could hold it: it may be
    endless. Raises `CommandError`."""
    if argument != "-":
        return os.fsencode(argument)  # one that is not UTF-8 is sent as its original bytes
    if sys.stdin is None:
        raise CommandError(Exit.DATA, "standard input is closed: give the payload as an argument")
    payload = sys.stdin.buffer.read(largest + 1)
    if len(payload) > largest:
        raise CommandError(Exit.DATA, f"standard input holds more than {size(largest)}: no message can")
    return payload

"""Exit codes of the `logos` command, and the error that ends it with a message.

Those above 63 are the codes of sysexits.h, which supervisors and scripts know.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    """The command failed: a message was given up, a node is not ready, a demo failed."""
    USAGE = 2
    """The command line is invalid (argparse's own code)."""
    DATA = 65
    """Refused input: a bad content topic, a payload that is too large."""
    UNAVAILABLE = 69
    """No node answers there."""
    IN_USE = 73
    """The data directory belongs to a running node."""
    UNDECIDED = 75
    """The outcome was not known in time; try again later."""
    CONFIG = 78
    """The configuration is refused; the message names the key."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""


_NO_NODE: Final = "no node answers there"
_FOREGROUND: Final = {
    Exit.OK: "ended on request",
    Exit.FAILED: "a process cannot run, a port is in use, or supervisord has ended",
    Exit.IN_USE: "the data directory is in use by a running node",
}

COMMAND_EXITS: Final[Mapping[str, Mapping[Exit, str]]] = {
    "up": _FOREGROUND,
    "node": _FOREGROUND,
    "down": {
        Exit.OK: "nothing runs there any more",
        Exit.FAILED: "it is another user's",
        Exit.UNDECIDED: "something still runs",
    },
    "status": {Exit.OK: "ready", Exit.FAILED: "something is not ready", Exit.UNAVAILABLE: _NO_NODE},
    "health": {
        Exit.OK: "ready; with --connected also connected",
        Exit.FAILED: "something is not ready, or not connected",
        Exit.UNAVAILABLE: _NO_NODE,
    },
    "peers": {Exit.OK: "done", Exit.UNAVAILABLE: _NO_NODE},
    "discovery": {
        Exit.OK: "done",
        Exit.FAILED: "the list cannot be read",
        Exit.DATA: "not a list, or not a node record",
        Exit.UNAVAILABLE: f"{_NO_NODE}, or discv5 cannot have its UDP port",
    },
    "store": {
        Exit.OK: "done",
        Exit.FAILED: "no store to sync with, a bad message found, or one not imported",
        Exit.DATA: "not an export, damaged, or there is such a file already",
        Exit.UNAVAILABLE: f"{_NO_NODE}, or store is off",
    },
    "send": {
        Exit.OK: "it has propagated",
        Exit.FAILED: "it was given up, or another program has the name",
        Exit.DATA: "bad content topic, empty or too large payload",
        Exit.UNAVAILABLE: _NO_NODE,
        Exit.UNDECIDED: "not known yet: accepted, and may still be sent",
    },
    "listen": {
        Exit.OK: "ended on request",
        Exit.FAILED: "another program has taken over that name",
        Exit.DATA: "bad content topic",
        Exit.UNAVAILABLE: _NO_NODE,
    },
    "pending": {
        Exit.OK: "done",
        Exit.FAILED: "it was too late to cancel",
        Exit.DATA: "there is no such app",
        Exit.UNAVAILABLE: _NO_NODE,
    },
    "apps": {Exit.OK: "done", Exit.UNAVAILABLE: _NO_NODE},
    "forget": {
        Exit.OK: "done",
        Exit.FAILED: "it is connected",
        Exit.DATA: "there is no such app of this user",
        Exit.UNAVAILABLE: _NO_NODE,
    },
    "channel": {
        Exit.OK: "done; send: a participant has it",
        Exit.FAILED: "no participant has it, the channel is open already, or another program has the name",
        Exit.DATA: "no such channel, bad content topic, payload or key file",
        Exit.UNAVAILABLE: _NO_NODE,
        Exit.UNDECIDED: "not known yet whether a participant has it",
    },
    "bridge": {
        Exit.OK: "it works",
        Exit.FAILED: "a part of it does not; the output says why",
        Exit.UNAVAILABLE: "no bridge runs there",
    },
    "tail": {
        Exit.OK: "ended on request",
        Exit.DATA: "the node is on no such shard",
        Exit.UNAVAILABLE: _NO_NODE,
    },
    "log-level": {Exit.OK: "done", Exit.DATA: "no such level or logger", Exit.UNAVAILABLE: _NO_NODE},
    "config": {Exit.OK: "done", Exit.FAILED: "MAPI does not answer", Exit.UNAVAILABLE: _NO_NODE},
    "doctor": {Exit.OK: "a node can run here", Exit.FAILED: "it cannot; the output says what to do"},
    "check": {
        Exit.OK: "the node answers, and so does every service that it offers or that is required",
        Exit.FAILED: "a service does not answer, or one that is required is not offered",
        Exit.DATA: "not a multiaddr",
        Exit.UNAVAILABLE: "the node was not reached",
    },
    "crawl": {
        Exit.OK: "every node found was asked",
        Exit.DATA: "a bootstrap node is none",
        Exit.UNAVAILABLE: "no node answers",
        Exit.UNDECIDED: "ended by a limit before every node was asked",
    },
    "bench": {
        Exit.OK: "every message has propagated",
        Exit.FAILED: "some were refused or given up",
        Exit.UNAVAILABLE: _NO_NODE,
        Exit.UNDECIDED: "some had no outcome yet",
    },
    "backup": {Exit.OK: "done", Exit.FAILED: "it cannot be copied, or there is such a directory already"},
    "restore": {
        Exit.OK: "done",
        Exit.DATA: "not a backup, or a damaged one",
        Exit.IN_USE: "the node runs",
    },
    "demo": {
        Exit.OK: "everything worked, nothing is left running",
        Exit.FAILED: "it did not",
    },
}
"""Meaning of the codes per command. For all: 2 (command line), 78 (configuration), 130 (Ctrl-C)."""


class CommandError(Exception):
    """Ends the command: `message` goes to stderr, `code` is the exit code."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

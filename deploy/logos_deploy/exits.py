"""Exit codes of the `logos` command, and the one error that ends it with a message.

Those above 63 are the numbers of sysexits.h, which supervisors and scripts know.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CommandError", "Exit"]


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    """The thing asked for did not come about: a message was given up, a node is not ready, a demo failed."""
    USAGE = 2
    """The command line cannot be read (argparse's own number)."""
    DATA = 65
    """Refused input: a bad content topic, a payload that is too large."""
    UNAVAILABLE = 69
    """No node answers there, or a part that this command needs is not installed."""
    IN_USE = 73
    """The data directory belongs to a node that runs."""
    UNDECIDED = 75
    """The outcome was not known in time; later it may be."""
    CONFIG = 78
    """The configuration is refused; the message names the key."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""


class CommandError(Exception):
    """Ends the command: `message` goes to stderr, `code` is the exit code."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

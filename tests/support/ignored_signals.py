"""Signals that the suite was started to ignore: SIGHUP by `nohup`, SIGINT by a shell in the background."""

from __future__ import annotations

import signal
from typing import Final

_SENT: Final = (signal.SIGHUP, signal.SIGINT)
"""What tests send to processes of theirs."""


def do_not_pass_on_ignored_signals() -> None:
    """Keep ignoring these signals here, but have processes that are started from now on get them.

    A program inherits what its parent ignores, and what it does about it: the node honours `nohup`. A signal
    that the parent has a handler for has its default in an executed program.
    """
    for number in _SENT:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)

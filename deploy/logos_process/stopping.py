"""The signals that ask a process to end, and a bound on how long its end may take."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from typing import Final

from logos_process import logs
from logos_process.exits import ExitCode

__all__ = ["StopLimit", "stop_signals"]

log = logging.getLogger(__name__)

_LAST_WORDS: Final = 0.5


def stop_signals() -> tuple[signal.Signals, ...]:
    """TERM and INT, and HUP, which a closed terminal sends, unless `nohup` had it ignored."""
    hup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGTERM, signal.SIGINT, *hup)


class StopLimit:
    """Ends the process with exit code 70 when its end hangs: a supervisor waits only so long before it kills,
    and the log then says where it hung.

    A thread does it: the handler of an alarm would wait for a main thread that hangs outside of Python.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="stop limit", daemon=True)

    def start(self) -> None:
        """Begin to count. May be called again."""
        if self._thread.ident is None:
            self._thread.start()

    def over(self) -> None:
        """The end has come in time."""
        self._over.set()

    def _wait(self) -> None:
        if self._over.wait(self._seconds):
            return
        # private by name, documented for exactly this
        frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001
        where = "".join(traceback.format_stack(frame)) if frame is not None else "(unknown)"
        log.critical("stopping took more than %g s; the main thread is in\n%s", self._seconds, where)
        logs.flush(_LAST_WORDS)
        os._exit(ExitCode.FAILED)

"""Stop signals, and a limit on the duration of the shutdown."""

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

log = logging.getLogger(__name__)

_LAST_WORDS: Final = 0.5


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return TERM and INT, and HUP (sent by a closed terminal) unless it is ignored, as with `nohup`."""
    hup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGTERM, signal.SIGINT, *hup)


class StopLimit:
    """End the process with exit code 70 if its shutdown hangs: a supervisor only waits so long before it
    kills, and the log then says where it hung.

    Uses a thread, because an alarm handler would wait for a main thread that hangs outside of Python.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="stop limit", daemon=True)

    def start(self) -> None:
        """Start the countdown. Idempotent."""
        if self._thread.ident is None:
            self._thread.start()

    def over(self) -> None:
        """Cancel the countdown: the shutdown completed in time."""
        self._over.set()

    def _wait(self) -> None:
        if self._over.wait(self._seconds):
            return
        # private by name, but documented for exactly this purpose
        frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001
        where = "".join(traceback.format_stack(frame)) if frame is not None else "(unknown)"
        log.critical("stopping took more than %g s; the main thread is in\n%s", self._seconds, where)
        logs.flush(_LAST_WORDS)
        os._exit(ExitCode.FAILED)

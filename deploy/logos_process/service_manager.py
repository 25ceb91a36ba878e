"""Notify systemd that a service is ready, alive or stopping: the datagrams of sd_notify(3).

Only the process that systemd started speaks: it takes the variables out of its environment, so that the
processes that it starts do not.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Final, Self

log = logging.getLogger(__name__)

_SOCKET: Final = "NOTIFY_SOCKET"
_PERIOD: Final = "WATCHDOG_USEC"
_WATCHED: Final = "WATCHDOG_PID"


class ServiceManager:
    """The service manager that started this process, if one did; otherwise all of this does nothing."""

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        """`watchdog`: seconds within which it must hear from us, None: it does not watch."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # an abstract socket
        self._stopping = False
        self.interval: Final = None if watchdog is None else watchdog / 2
        """Seconds between two calls of `alive`, None: none are wanted. sd_watchdog_enabled(3): half."""

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Self:
        """Take it from the environment, which no longer has it then."""
        address, period, watched = (environ.pop(name, "") for name in (_SOCKET, _PERIOD, _WATCHED))
        for_us = not watched or watched == str(os.getpid())
        watchdog = int(period) / 1e6 if address and for_us and period.isdecimal() and int(period) else None
        return cls(address, watchdog)

    def ready(self, status: str = "") -> None:
        """Say that the start is complete."""
        self._notify("READY=1", f"STATUS={status}" if status else "")

    def alive(self) -> None:
        """The main loop turns."""
        self._notify("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the shutdown begins; again, do nothing."""
        if not self._stopping:
            self._stopping = True
            self._notify("STOPPING=1")

    def _notify(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.setblocking(False)
                notify.sendto("\n".join(filter(None, lines)).encode(), self._address)
        except OSError as error:  # it then ends us for our silence, and logs that
            log.warning("cannot notify the service manager of %s: %s", lines[0], error)

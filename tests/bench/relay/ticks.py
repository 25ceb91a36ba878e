"""A timer with a descriptor, which Python itself has from 3.13 on."""

from __future__ import annotations

import ctypes
import os
from io import FileIO
from typing import Final

__all__ = ["ticks"]

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("ns", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


def ticks(rate: int) -> FileIO:
    """Return a timer that is readable `rate` times a second (more than one); read it after each tick."""
    descriptor = _libc.timerfd_create(1, os.O_NONBLOCK | os.O_CLOEXEC)  # CLOCK_MONOTONIC
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    period = _Timespec(0, 1_000_000_000 // rate)
    if _libc.timerfd_settime(descriptor, 0, ctypes.byref(_Itimerspec(period, period)), None):
        raise OSError(ctypes.get_errno(), "timerfd_settime")
    return FileIO(descriptor)

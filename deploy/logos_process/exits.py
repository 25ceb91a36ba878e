"""Exit codes of the processes, and the error that ends one during start-up.

The codes are those of sysexits.h, known to supervisors and scripts. A supervisor restarts after 70 but not
after 78, so 78 is reserved for what the same start would reject again: the configuration. A full disk, a
directory or port in use, or too many open files are 70.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """How a process ended."""

    OK = 0
    """It was asked to stop."""
    FAILED = 70
    """EX_SOFTWARE: a part failed, or a required resource is unavailable; restarting may help."""
    CONFIG = 78
    """EX_CONFIG: it cannot start as configured; restarting will not help."""


_CONFIGURED: Final = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.EROFS,
        errno.EINVAL,
        errno.ENAMETOOLONG,
        errno.EADDRNOTAVAIL,
    }
)
"""Errors that recur as long as the same path or address is configured."""


class StartError(Exception):
    """The process cannot start. The text is for the operator, `code` for the supervisor."""

    def __init__(self, text: str, code: ExitCode = ExitCode.CONFIG) -> None:
        super().__init__(text)
        self.code = code

    @classmethod
    def of(cls, what: str, error: OSError) -> StartError:
        """Classify an OS error; `what` names the option or the file."""
        return cls(f"{what}: {error.strerror or error}", cls.code_of(error.errno))

    @staticmethod
    def code_of(number: int | None) -> ExitCode:
        """Return the exit code for an `errno`."""
        return ExitCode.CONFIG if number in _CONFIGURED else ExitCode.FAILED

"""Raise the limit of open files."""

from __future__ import annotations

import resource
from typing import Final

_ENOUGH: Final = 65_536
"""The maximum we request: some systems report "unlimited" and then refuse, and tables grow with the limit."""

LEAST: Final = 256
"""With fewer, a process would have no room for clients beside its files and what it keeps in reserve."""


def too_few_files(most: int) -> str:
    """Return why a process does not start with fewer than `LEAST`."""
    return f"at most {most} open files, {LEAST} are needed: raise it (ulimit -Hn, LimitNOFILE= of systemd)"


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit (65,536 at most). Return the resulting limit.

    Services get a soft limit of 1,024 almost everywhere, for the sake of programs that use `select`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            return soft
        return wanted
    return soft

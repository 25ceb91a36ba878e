"""`python -m logos_deploy.node.leash <parent pid> <program> …`: become the program, and end with the parent.

supervisord is started through this, so that it gets TERM, and ends its processes in good order, also when
the `logos` command above it is killed with -9. (Linux: `PR_SET_PDEATHSIG` outlives exec, but is not inherited
by children. Elsewhere this only becomes the program.)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Replace this process by `arguments[1:]`."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before it could be watched
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main(sys.argv[1:])

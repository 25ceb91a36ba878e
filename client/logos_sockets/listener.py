"""Create the Unix sockets that clients connect to."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path


def listening_socket(path: Path, *, mode: int, backlog: int) -> socket.socket:
    """Create a non-blocking Unix socket that listens at `path`, replacing a stale socket file.

    The mode is set on the socket before it gets a name: a chmod after the bind would leave a moment in
    which others may connect, and a umask applies to every thread of the process.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        path.unlink(missing_ok=True)
        with contextlib.suppress(
            OSError
        ):  # only Linux honours it; elsewhere the private directory must suffice
            os.fchmod(listener.fileno(), mode)
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener

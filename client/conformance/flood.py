"""A scripted server in a process of its own, which floods its client until it is killed.

Where a socket hears of the loss of its connection between two frames of a message, libzmq 4.3.5 ends the
whole client (SPEC.md §1). So replies of many frames wait unread when the server dies.
"""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "client")]

import zmq  # noqa: E402

from conformance.server import ScriptedServer  # noqa: E402
from ipc_schema.frames import encode_reply  # noqa: E402

__all__ = ["Flood"]

_BLOBS: Final = 300
_FULL_MS: Final = 100
"""The client's socket takes nothing any more if it took nothing for so long."""


class Flood:
    """The process, seen from the one that starts it."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.fd = self._process.stdout.fileno()

    def said(self, word: str) -> bool:
        """Return whether it has written a line. Raises RuntimeError if that is not `word`."""
        if not select.select([self.fd], [], [], 0)[0]:
            return False
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if line != word:
            raise RuntimeError(f"the server that floods says {line!r}, exit code {self._process.poll()}")
        return True

    def begin(self) -> None:
        """Let it send until the client's socket is full."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def _serve(path: Path) -> None:
    server = ScriptedServer(path)
    (socket,) = server.sockets
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # it says that a queue is full, where it would drop
    while not server.apps:
        socket.poll()
        server.receive()
    _say("greeted")
    sys.stdin.readline()
    identity: Any = server.app.identity
    late = encode_reply(bytes(16), server.instance, {}, [b"x"] * _BLOBS)
    while socket.poll(_FULL_MS, zmq.POLLOUT):
        try:
            while True:
                socket.send_multipart([identity, *late], zmq.NOBLOCK)
        except zmq.Again:
            continue
    _say("full")
    sys.stdin.readline()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))

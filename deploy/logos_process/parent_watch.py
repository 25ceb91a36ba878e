"""The end of a process together with the one that started it, however that one ended.

The parent gives its child the reading end of a pipe whose writing end only the parent has, and names the
descriptor in `LOGOS_PARENT_FD`. When the parent is gone, the pipe is at its end, and the child asks itself to
stop, as by SIGTERM. supervisord gives each of its programs such a pipe as standard input and closes every
other descriptor, so there the variable is 0. (Linux's PR_SET_PDEATHSIG follows the thread that forked, not
the process, and does not pass through supervisord.)

    python -m logos_process.parent_watch <module> <argument>…

runs a module that knows nothing of this: supervisord under `logos up`.
"""

from __future__ import annotations

import os
import runpy
import signal
import stat
import sys
import threading
from collections.abc import Callable, MutableMapping
from typing import Final

from ipc_schema.config.options import ConfigError

__all__ = ["PARENT", "ParentPipe", "take_parent", "watch_parent"]

PARENT: Final = "LOGOS_PARENT_FD"


def take_parent(environ: MutableMapping[str, str]) -> int | None:
    """The descriptor that the parent left, None without one. It is taken out of `environ`, and our own
    children do not inherit it. Raises `ConfigError` when it is not a pipe.
    """
    given = environ.pop(PARENT, None)
    if given is None:
        return None
    try:
        descriptor = int(given)
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise ConfigError(PARENT, f"{given!r} is not a pipe")
        os.set_inheritable(descriptor, False)
    except (ValueError, OverflowError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(PARENT, f"{given!r} is not an open descriptor") from error
    return descriptor


def watch_parent(descriptor: int, gone: Callable[[], object] = lambda: None) -> None:
    """Send this process SIGTERM when the parent is gone (or has written something, which asks for the same);
    `gone` is called just before, in a thread of its own."""

    def watch() -> None:
        try:
            os.read(descriptor, 1)
        except OSError:
            return  # closed by us: there is nothing left to watch
        gone()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


class ParentPipe:
    """The parent's side: give `reading` to children, and `cut` it to have them end.

    Only this process may have the writing end. What it starts does not inherit that, and in a child that it
    forks it is closed at once, so that such a child, outliving the parent, keeps nothing alive.
    """

    def __init__(self) -> None:
        with _forks:  # no fork between making the pipe and listing it among those that a fork closes
            self.reading, self._writing = os.pipe()
            _pipes.add(self)

    def cut(self) -> None:
        """Close both ends. May be called again."""
        with _forks:
            _pipes.discard(self)
            for descriptor in (self.reading, self._writing):
                if descriptor >= 0:
                    os.close(descriptor)
            self.reading = self._writing = -1


_forks = threading.RLock()
_pipes: set[ParentPipe] = set()


def _in_forked_child() -> None:
    for pipe in list(_pipes):
        pipe.cut()
    _forks.release()


os.register_at_fork(before=_forks.acquire, after_in_parent=_forks.release, after_in_child=_in_forked_child)


def main(arguments: list[str]) -> None:
    """Run the module `arguments[0]` with the others, and end it with the parent."""
    parent = take_parent(os.environ)
    if parent is not None:
        watch_parent(parent)
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])

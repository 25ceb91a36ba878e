"""End a process together with its parent, however the parent ended.

The parent passes its child the read end of a pipe whose write end only the parent has, and puts the
descriptor into `LOGOS_PARENT_FD`. When the parent dies, the pipe reaches EOF, and the child stops itself
with SIGTERM. supervisord gives each of its programs such a pipe as standard input and closes every
other descriptor, so there the variable is 0. (Linux's PR_SET_PDEATHSIG follows the thread that forked, not
the process, and does not pass through supervisord.)

    python -m logos_process.parent_watch <module> <argument>…

runs a module that is unaware of this: supervisord under `logos up`.
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

PARENT: Final = "LOGOS_PARENT_FD"


def take_parent(environ: MutableMapping[str, str]) -> int | None:
    """Return the descriptor passed by the parent, None without one.

    It is removed from `environ`, and our own children do not inherit it. Raise `ConfigError` if it is not a
    pipe.
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
    """Send this process SIGTERM when the parent has ended (or has written something, which requests the
    same); `gone` is called just before, in a separate thread."""

    def watch() -> None:
        try:
            os.read(descriptor, 1)
        except OSError:
            return  # closed by us: nothing left to watch
        gone()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


class ParentPipe:
    """The parent's side: pass `reading` to children, and call `cut` to make them end.

    Only this process may have the write end. Programs it starts do not inherit it, and forked children close
    it at once, so that a child that outlives the parent keeps nothing alive.
    """

    def __init__(self) -> None:
        with _forks:  # no fork between creating the pipe and listing it among those to close
            self.reading, self._writing = os.pipe()
            _pipes.add(self)

    def cut(self) -> None:
        """Close both ends. Idempotent."""
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
    """Run the module `arguments[0]` with the remaining arguments, and end it with the parent."""
    parent = take_parent(os.environ)
    if parent is not None:
        watch_parent(parent)
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])

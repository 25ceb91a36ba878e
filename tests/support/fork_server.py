"""Start processes of the tests by fork, from one that has imported their modules already.

A run of the suite starts more than a thousand kernels, Messaging APIs and commands, and most of what a start
costs is its imports. A fork server, one for each program and pytest worker, imports once. Each process is
forked from it and runs the module as `python -m` does: with arguments, environment, directory and output of
its own, up to the ordinary end of the interpreter.

`tests/conftest.py` allows it; benches, soak and chaos do not. `LOGOS_TESTS_FORK=0` starts all by exec.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final, Protocol

from tests.support.with_constants import command as with_constants

_PRELOADED: Final = {
    "kernel_proc": ("kernel_proc.__main__", "kernel_proc.node"),
    "mapi_proc": ("mapi_proc.__main__", "mapi_proc.api", "uvloop"),
    "logos_bridge": ("logos_bridge.__main__", "logos_bridge.service", "uvloop"),
    "logos_gateway": ("logos_gateway.__main__", "logos_gateway.service"),
    "logos_deploy": ("logos_deploy.cli",),
}
"""What each program imports until it serves."""
_MAX_REQUEST: Final = 1 << 17
_ROOT: Final = Path(__file__).parents[2]


class ChildProcess(Protocol):
    """What tests use of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...
    def kill(self) -> None: ...


_allowed = False


def allow_forks() -> None:
    """Let `start_module` fork, unless the environment forbids it."""
    global _allowed
    _allowed = os.environ.get("LOGOS_TESTS_FORK") != "0"


def start_module(
    module: str,
    arguments: Sequence[str],
    log: IO[bytes],
    *,
    errors: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    through: Sequence[str] = (),
    constants: Mapping[str, float] | None = None,
) -> ChildProcess:
    """Run `python -m module` without standard input; what it writes goes to `log`, or its standard error to
    `errors`.

    `through`: a command that runs it as its arguments, under limits or in a place of its own. `constants`:
    see `tests.support.with_constants`. With either it has an interpreter of its own.
    """
    if _allowed and not through and not constants:
        return _server(module).start(arguments, log, errors or log, os.environ if env is None else env)
    command = [*through, sys.executable, *with_constants(constants or {}, module), *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=errors or log, env=env)


# -- the side of the tests ---------------------------------------------------------------------------------


class _Server:
    """A fork server. It ends with its socket, and kills what it has forked."""

    def __init__(self, module: str) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-m", __name__, module, str(number)]
            subprocess.run(command, stdin=subprocess.DEVNULL, pass_fds=[number], cwd=_ROOT, check=True)

    def start(
        self, arguments: Sequence[str], log: IO[bytes], errors: IO[bytes], env: Mapping[str, str]
    ) -> _ForkedProcess:
        request = {"arguments": list(arguments), "env": dict(env), "cwd": str(Path.cwd())}
        with self._lock:
            return _ForkedProcess(self, self._ask(request, log.fileno(), errors.fileno()))

    def reap(self, process: _ForkedProcess) -> int:
        """Return the exit code of a process that has ended, as `subprocess.Popen` has it."""
        with self._lock:
            if process.returncode is None:
                process.returncode = self._ask({"reap": process.pid})
            return process.returncode

    def _ask(self, request: Mapping[str, Any], *descriptors: int) -> int:
        socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
        answer = self._socket.recv(64)
        assert answer, "the fork server has ended"
        return int(answer)


@cache
def _server(module: str) -> _Server:
    return _Server(module)


class _ForkedProcess:
    """A forked process. The server reaps it only when asked, so until then the pid is not used again."""

    def __init__(self, server: _Server, pid: int) -> None:
        self._server = server
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        self.returncode: int | None = None

    def __del__(self) -> None:
        os.close(self._pidfd)

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is not None:
            return self.returncode
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return self._server.reap(self)

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# -- the server --------------------------------------------------------------------------------------------


def _serve(control: socket.socket) -> list[str]:
    """Fork on request. Return in each forked process, with its arguments."""
    living: set[int] = set()
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, _MAX_REQUEST, 2)
        if not data:
            for pid in living:
                os.kill(pid, signal.SIGKILL)
            sys.exit()
        request = json.loads(data)
        if "reap" in request:
            living.remove(request["reap"])
            _, status = os.waitpid(request["reap"], 0)
            control.send(b"%d" % os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            for number, descriptor in zip((1, 2), descriptors, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.chdir(request["cwd"])
            os.environ.clear()
            os.environ.update(request["env"])
            return list(request["arguments"])
        for descriptor in descriptors:
            os.close(descriptor)
        living.add(pid)
        control.send(b"%d" % pid)


def main() -> None:
    # Not a child of the tests' process: some tests look at its children, and kill them.
    if os.fork():
        os._exit(0)
    os.setsid()
    module, number = sys.argv[1:]
    for name in _PRELOADED[module]:
        import_module(name)
    gc.collect()
    gc.freeze()  # shared by all: collecting it again in each would copy it
    sys.argv = [module, *_serve(socket.socket(fileno=int(number)))]
    sys.modules.pop(f"{module}.__main__", None)  # run afresh, as the command would
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

"""Generate supervisord's configuration as text. Pure.

supervisord has no readiness: RUNNING means alive for `startsecs`. With `startsecs` above 0, quick exits
count as failed starts and end in FATAL for good, their exit codes unread; so it is 0, and the health on the
control socket decides readiness. Exit codes 0 (requested) and 78 (configuration refused) are not restarted,
any other exit is. All processes start at once, in any order: each waits for the hello of the one it needs.
"""

from __future__ import annotations

import configparser
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipc_schema.config.options import ConfigError
from ipc_schema.paths import MAX_SOCKET_PATH
from logos_deploy.node.programs import STOP_SECONDS, Program
from logos_process.parent_watch import PARENT

__all__ = ["SupervisorPaths", "access_of", "render", "supervisor_paths"]

_LOG_BYTES: Final = "10MB"
_LOG_BACKUPS: Final = 5
# supervisord binds its socket under a temporary name, `<path>.<pid>`, and links it into place
_SOCKET_SUFFIX: Final = len(".4194304")


@dataclass(frozen=True, slots=True)
class SupervisorPaths:
    """Files of one supervisord, all in one private directory (for the socket see `supervisor_paths`)."""

    directory: Path
    socket: Path

    @property
    def conf(self) -> Path:
        return self.directory / "supervisord.conf"

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def log(self) -> Path:
        """supervisord's own log."""
        return self.directory / "supervisord.log"

    @property
    def output(self) -> Path:
        """supervisord's output besides its log: complaints about its configuration."""
        return self.directory / "supervisord.out"

    def log_of(self, program: str) -> Path:
        """Standard output and error of a program."""
        return self.directory / f"{program}.log"


def supervisor_paths(data_dir: Path, ipc_dir: Path | None = None) -> SupervisorPaths:
    """Return the paths below `<data-dir>/supervisor`.

    The socket is there too, or below `ipc_dir` if configured (as it is when the data directory's path is
    too long for sockets). Raises `ConfigError`.
    """
    directory = data_dir / "supervisor"
    socket = (ipc_dir / "supervisor" if ipc_dir else directory) / "ctl"
    size = len(os.fsencode(socket)) + _SOCKET_SUFFIX
    if size > MAX_SOCKET_PATH:
        key = "ipc-dir" if ipc_dir else "data-dir"
        raise ConfigError(
            key,
            f"socket path {socket} needs {size} bytes, at most {MAX_SOCKET_PATH} are possible: "
            "set ipc-dir to a directory with a shorter path",
        )
    return SupervisorPaths(directory, socket)


def render(
    paths: SupervisorPaths, programs: Iterable[Program], *, min_fds: int, user: str | None, password: str
) -> str:
    """Render the whole file. `user`: the account to run as, required if and only if we are root.

    `password` guards the socket in addition to its directory's mode; supervisorctl reads it from the same
    file. Raises `ConfigError` for a path that such a file cannot hold.
    """
    socket = _path(paths.socket)
    directory = _path(paths.directory)
    sections = [
        (
            "supervisord",
            {
                "nodaemon": "true",
                "silent": "true",
                "identifier": "logos",
                "logfile": f"{directory}/{paths.log.name}",
                "logfile_maxbytes": _LOG_BYTES,
                "logfile_backups": str(_LOG_BACKUPS),
                "loglevel": "info",
                "pidfile": f"{directory}/supervisord.pid",
                "umask": "077",
                "minfds": str(min_fds),
                **({"user": user} if user else {}),
            },
        ),
        (
            "unix_http_server",
            {"file": socket, "chmod": "0600", "username": "logos", "password": password},
        ),
        (
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
        (
            "supervisorctl",
            {"serverurl": f"unix://{socket}", "username": "logos", "password": password, "prompt": "logos"},
        ),
        *((f"program:{program.name}", _program(program, directory)) for program in programs),
    ]
    lines = ["; written by `logos up`, anew at each start: changes here do not last", ""]
    for name, settings in sections:
        lines += [f"[{name}]", *(f"{key}={value}" for key, value in settings.items()), ""]
    return "\n".join(lines)


def access_of(conf: str) -> tuple[Path, str] | None:
    """Return (socket, password) of the supervisord that a file written by `render` is for; None for any other
    file."""
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=(";",), strict=False)
    try:
        parser.read_string(conf)
        url = parser.get("supervisorctl", "serverurl").replace("%%", "%")
        return Path(url.removeprefix("unix://")), parser.get("supervisorctl", "password")
    except configparser.Error:
        return None


def _program(program: Program, directory: str) -> dict[str, str]:
    return {
        "command": " ".join(_argument(argument) for argument in program.command),
        "priority": str(program.priority),
        "autostart": "true",
        "startsecs": str(program.start_seconds),
        "autorestart": "unexpected",
        "exitcodes": "0,78",
        "stopsignal": "TERM",
        "stopwaitsecs": str(STOP_SECONDS),
        "umask": "077",
        # Their standard input is a pipe from supervisord, which closes when supervisord ends.
        "environment": f'{PARENT}="0"',
        "redirect_stderr": "true",
        # supervisord expands this one value twice
        "stdout_logfile": _plain(f"{directory}/{program.name}.log"),
        "stdout_logfile_maxbytes": _LOG_BYTES,
        "stdout_logfile_backups": str(_LOG_BACKUPS),
    }


def _plain(text: str) -> str:
    """Escape `%`, which begins an expansion in every value of the file."""
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        raise ConfigError("data-dir", f"control characters cannot stand in {text!r}")
    return text.replace("%", "%%")


def _path(path: Path) -> str:
    text = str(path)
    # `;` or `#` after a space begins a comment, and a path cannot be quoted.
    if any(f" {mark}" in text for mark in ";#"):
        raise ConfigError("data-dir", f"{text!r} holds ' ;' or ' #', which supervisord takes for a comment")
    if text != text.strip():
        raise ConfigError("data-dir", f"{text!r} begins or ends with a space")
    return _plain(text)


def _argument(argument: str) -> str:
    """Quote one word of a command for shlex, and then for the file's reader.

    An empty pair of quotes before ; and # keeps them from following a space. (`shlex.quote` has quoted any
    word with one.)
    """
    quoted = shlex.quote(_plain(argument))
    return quoted.replace(";", "'';").replace("#", "''#")

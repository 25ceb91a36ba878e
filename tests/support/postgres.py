"""A PostgreSQL server of the tests' own: Debian's binaries, a fresh directory, never root, loopback only."""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

USER = "archive"
PASSWORD = "p@ss/word:%"
"""Of characters that a URL must escape."""


def postgres_binaries() -> Path | None:
    """The directory of the newest `postgres` and `initdb`; None without them."""
    places = Path("/usr/lib/postgresql").glob("*/bin")
    found = sorted(places, key=lambda place: [int(n) for n in re.findall(r"\d+", place.parent.name)])
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(on_path).resolve().parent)
    good = [place for place in found if (place / "postgres").exists() and (place / "initdb").exists()]
    return good[-1] if good else None


def require_postgres() -> Path:
    """The binaries; skips the test where there are none."""
    place = postgres_binaries()
    if place is None:
        pytest.skip("PostgreSQL's binaries are not installed (Debian: apt-get install postgresql)")
    return place


def require_pgbouncer() -> Path:
    """The pooler's program; skips the test where there is none."""
    place = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if place is None:
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
    return Path(place)


def _account() -> dict[str, Any]:
    """For `Popen`: the server refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("neither a user postgres nor a user nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresServer:
    """One server; `with` starts and removes it. `options`: settings for its command line; `primary`: the one
    of which it is a streaming replica; `keep`: a directory that stays, and is used again if it exists."""

    def __init__(
        self,
        binaries: Path,
        *,
        primary: PostgresServer | None = None,
        keep: Path | None = None,
        **options: str,
    ) -> None:
        self._binaries = binaries
        self._primary = primary
        self._keep = keep
        self._options = {"fsync": "off", "max_connections": "60", "shared_buffers": "64MB", **options}
        self._account = _account()
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def __enter__(self) -> PostgresServer:
        if self._keep is not None:
            self.directory = self._keep.resolve()
            self.directory.mkdir(parents=True, exist_ok=True)
        else:
            # Short, because the path of the socket in it may have 107 bytes.
            self.directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        try:
            if not (self.directory / "data").exists():
                if self._account:
                    os.chown(self.directory, self._account["user"], self._account["group"])
                self._initialise()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            # Without a checkpoint where nothing is kept.
            self.stop(signal.SIGQUIT if self._keep is None else signal.SIGINT)
        if self._keep is None:
            shutil.rmtree(self.directory)

    def _initialise(self) -> None:
        if self._primary is not None:
            subprocess.run(
                [
                    *(
                        str(self._binaries / "pg_basebackup"),
                        "-D",
                        str(self.directory / "data"),
                        "-R",
                        "--no-sync",
                    ),
                    *("-c", "fast", "-d", self._primary.url("postgres")),
                ],
                check=True,
                cwd=self.directory,
                timeout=60,
                **self._account,
            )
            return
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        subprocess.run(
            [
                *(
                    str(self._binaries / "initdb"),
                    "-D",
                    str(self.directory / "data"),
                    "-U",
                    USER,
                    "-E",
                    "UTF8",
                ),
                *("--locale=C", "--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256"),
                f"--pwfile={secret}",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.directory,
            timeout=60,
            **self._account,
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = [f"-c{name}={value}" for name, value in self._options.items()]
        with (self.directory / "log").open("ab") as log:
            self._process = process = subprocess.Popen(
                [
                    *(
                        str(self._binaries / "postgres"),
                        "-D",
                        str(self.directory / "data"),
                        "-h",
                        "127.0.0.1",
                    ),
                    *("-k", str(self.directory), "-p", str(self.port), *settings),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **self._account,
            )
        _wait_until_it_answers(process, self.url("postgres"), self.directory / "log")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT disconnects everybody; SIGQUIT is a crash."""
        assert self._process is not None
        self._process.send_signal(how)
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None

    def url(self, database: str, *, password: bool = True) -> str:
        """The URL of a database over TCP."""
        secret = f":{quote(PASSWORD, safe='')}" if password else ""
        return f"postgres://{USER}{secret}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement, as the owner."""
        import psycopg
        from psycopg.pq import ExecStatus

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            has_rows = cursor.pgresult is not None and cursor.pgresult.status == ExecStatus.TUPLES_OK
            return cursor.fetchall() if has_rows else []  # also rows without columns

    def new_database(self) -> str:
        """Make an empty database; returns its name."""
        name = f"archive_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return name


def _wait_until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text()[-2000:]) from None
            time.sleep(0.05)
        else:
            return


class PgBouncer:
    """A pooler in transaction mode in front of a server, with few connections; `with` as above."""

    def __init__(self, program: Path, server: PostgresServer, connections: int = 3) -> None:
        self._program = program
        self._server = server
        self._connections = connections
        self._account = _account()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def __enter__(self) -> PgBouncer:
        self.directory = Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp"))
        try:
            target = f"host=127.0.0.1 port={self._server.port} user={USER} password='{PASSWORD}'"
            (self.directory / "pgbouncer.ini").write_text(
                f"[databases]\n* = {target}\n[pgbouncer]\nauth_type = any\npool_mode = transaction\n"
                f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
                f"default_pool_size = {self._connections}\n"
            )
            if self._account:
                for path in (self.directory, self.directory / "pgbouncer.ini"):
                    os.chown(path, self._account["user"], self._account["group"])
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.directory)

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._program), str(self.directory / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **self._account,
            )
        _wait_until_it_answers(self._process, self.url("postgres"), self.directory / "log")

    def kill(self) -> None:
        """End it at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def url(self, database: str) -> str:
        """The URL of a database through the pooler."""
        return f"postgres://{USER}@127.0.0.1:{self.port}/{database}"

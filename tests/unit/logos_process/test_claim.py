"""Taking possession: directories, locks, socket paths."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from logos_process.claim import claim
from logos_process.exits import ExitCode, StartError
from tests.support.kernel_process import short_directory


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def take(stack: ExitStack, directory: Path, *endpoints: str, **more: Any) -> tuple[str, ...]:
    return claim(
        stack,
        data_dir=directory,
        lock_name="x.lock",
        socket_dir=directory / "run" / "x",
        endpoints=endpoints,
        **more,
    )


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_directories_are_private_and_have_one_owner(stack: ExitStack, tmp_path: Path) -> None:
    assert take(stack, tmp_path / "d", f"ipc://{tmp_path}/d/run/x/control") == (
        f"ipc://{tmp_path}/d/run/x/control",
    )
    for path in (tmp_path / "d", tmp_path / "d" / "run", tmp_path / "d" / "run" / "x"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    before = descriptors()
    with ExitStack() as second, pytest.raises(StartError, match=r"the data directory .* is in use") as caught:
        take(second, tmp_path / "d")
    assert caught.value.code == ExitCode.FAILED, "the other one may be about to end"
    assert descriptors() == before
    stack.close()
    with ExitStack() as second:
        take(second, tmp_path / "d")


def test_endpoints_become_absolute(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert take(stack, Path("d"), "ipc://d/run/x/control", "tcp://127.0.0.1:5") == (
        f"ipc://{tmp_path}/d/run/x/control",
        "tcp://127.0.0.1:5",
    )


def test_a_socket_elsewhere_has_a_lock_of_its_own(stack: ExitStack, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/new/sockets/requests"
    take(stack, tmp_path / "one", endpoint)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    with ExitStack() as second, pytest.raises(StartError, match=r"the socket .*/requests is in use"):
        take(second, tmp_path / "two", endpoint)


def test_a_directory_that_exists_is_left_as_it_is(stack: ExitStack, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    take(stack, tmp_path / "one", f"ipc://{tmp_path}/open/requests")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o755


@pytest.mark.parametrize(("mode", "allowed"), [(0o777, False), (0o770, False), (0o1777, True), (0o755, True)])
def test_others_must_not_be_able_to_replace_a_socket(
    stack: ExitStack, tmp_path: Path, mode: int, allowed: bool
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    refused = contextlib.nullcontext() if allowed else pytest.raises(StartError, match="can replace files")
    with refused:
        take(stack, tmp_path / "one", f"ipc://{tmp_path}/open/requests")


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_file_as_data_directory_is_refused_configuration(
    stack: ExitStack, tmp_path: Path, where: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"data-dir: .*file.*: ") as caught:
        take(stack, tmp_path / where)
    assert caught.value.code == ExitCode.CONFIG


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_data_directory_of_another_user_is_refused_configuration(stack: ExitStack, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 65_533, 65_533)
    with pytest.raises(StartError, match=r"data-dir: .*theirs: belongs to uid 65533") as caught:
        take(stack, tmp_path / "theirs")
    assert caught.value.code == ExitCode.CONFIG


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EIO", "EMFILE"])
def test_what_may_pass_is_not_refused_configuration(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    import errno

    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)), "x.lock")

    monkeypatch.setattr(os, "pwrite", refuse)
    before = descriptors()
    with pytest.raises(StartError, match=r"data-dir: x.lock: ") as caught:
        take(stack, tmp_path / "d")
    assert caught.value.code == ExitCode.FAILED
    assert descriptors() == before


CONNECT = """
import os, socket, sys
uid, gid, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.setgroups([])
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
try:
    socket.socket(socket.AF_UNIX).connect(path)
except PermissionError:
    sys.exit(1)
"""


def connects(path: Path, uid: int, gid: int) -> bool:
    """Whether a process of this user and group reaches the socket."""
    command = [sys.executable, "-c", CONNECT, str(uid), str(gid), str(path)]
    return subprocess.run(command, timeout=60, check=False).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("elsewhere", [False, True], ids=["in the data directory", "elsewhere"])
def test_a_group_reaches_the_sockets_and_nothing_else(stack: ExitStack, elsewhere: bool) -> None:
    with short_directory() as directory:
        directory.chmod(0o755)
        data_dir = directory / "data"
        sockets = (directory / "s" if elsewhere else data_dir / "run") / "x"
        claim(
            stack, data_dir=data_dir, lock_name="l", socket_dir=sockets, endpoints=()
        )  # before it had a group
        stack.close()
        with ExitStack() as held, socket.socket(socket.AF_UNIX) as server:
            claim(held, data_dir=data_dir, lock_name="l", socket_dir=sockets, endpoints=(), group="65500")
            before = os.umask(0o007)
            server.bind(str(sockets / "control"))
            os.umask(before)
            server.listen()
            assert connects(sockets / "control", 65_533, 65_500)
            assert not connects(sockets / "control", 65_533, 65_533)
            for path in (data_dir, sockets.parent):
                assert not path.stat().st_mode & 0o067, "others cannot read it"
        with ExitStack() as held:
            claim(held, data_dir=data_dir, lock_name="l", socket_dir=sockets, endpoints=())
            assert stat.S_IMODE(sockets.stat().st_mode) == 0o700

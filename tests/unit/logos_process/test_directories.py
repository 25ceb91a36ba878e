"""Private directories, under any umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from logos_process.directories import group_number, private_directory
from logos_process.exits import StartError


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_a_directory_and_its_missing_parents_are_made_private(tmp_path: Path) -> None:
    before = mode(tmp_path)
    private_directory(tmp_path / "a" / "b" / "c")
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o700] * 3
    assert mode(tmp_path) == before, "what exists is left as it is"


@pytest.mark.usefixtures("umask")
def test_a_group_passes_the_parents_and_reaches_the_directory(tmp_path: Path) -> None:
    private_directory(tmp_path / "a" / "b", os.getgid())
    assert mode(tmp_path / "a") == 0o710
    assert mode(tmp_path / "a" / "b") == 0o2750


def test_a_directory_that_is_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    private_directory(tmp_path / "open")
    assert mode(tmp_path / "open") == 0o700
    private_directory(tmp_path / "open", os.getgid())
    assert mode(tmp_path / "open") == 0o2750


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError):
            private_directory(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 65_533, 65_533)
    with pytest.raises(PermissionError, match="belongs to uid 65533"):
        private_directory(tmp_path / "theirs")


def test_groups() -> None:
    assert group_number(None) is None
    assert group_number("123") == 123
    assert group_number("root") == 0
    with pytest.raises(StartError, match="ipc-group: no such group 'no-such-group'"):
        group_number("no-such-group")

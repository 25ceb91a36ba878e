"""Following a log file across its rotation."""

from __future__ import annotations

from pathlib import Path

import pytest

from logos_deploy.node.follow import LogFollower, tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "kernel.log"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def read_all(follower: LogFollower) -> list[str]:
    lines: list[str] = []
    while more := follower.read():
        lines += more
    return lines


def test_only_what_is_new_and_only_whole_lines(log: Path) -> None:
    append(log, "old\n")
    follower = LogFollower(log)
    assert follower.read() == []
    append(log, "one\ntw")
    assert follower.read() == ["one"]
    append(log, "o\n")
    assert follower.read() == ["two"]
    follower.close()


def test_a_file_that_comes_later(log: Path) -> None:
    follower = LogFollower(log)
    assert follower.read() == []
    append(log, "first\n")
    assert follower.read() == ["first"]
    follower.close()


def test_rotation_loses_nothing(log: Path) -> None:
    follower = LogFollower(log)
    append(log, "one\n")
    assert follower.read() == ["one"]
    append(log, "two\n")
    log.rename(log.with_suffix(".log.1"))
    assert read_all(follower) == ["two"]  # and no new file yet
    append(log, "three\n")
    assert read_all(follower) == ["three"]
    follower.close()


def test_two_rotations_between_two_looks_lose_only_what_was_between(log: Path) -> None:
    follower = LogFollower(log)
    append(log, "one\n")
    follower.read()
    append(log, "two\n")
    log.rename(log.with_suffix(".log.2"))
    append(log, "three\n")
    log.rename(log.with_suffix(".log.1"))
    append(log, "four\n")
    assert read_all(follower) == ["two", "four"]
    follower.close()


def test_a_file_emptied_in_its_place(log: Path) -> None:
    follower = LogFollower(log)
    append(log, "one one one\n")
    assert follower.read() == ["one one one"]
    log.write_text("two\n")
    assert follower.read() == ["two"]
    follower.close()


def test_a_line_without_an_end_does_not_grow_for_ever(log: Path) -> None:
    follower = LogFollower(log)
    append(log, "x" * 300_000)
    assert sum(len(line) for line in read_all(follower)) > 200_000
    follower.close()


def test_bytes_that_are_no_text(log: Path) -> None:
    follower = LogFollower(log)
    log.write_bytes(b"\xff\xfe\n")
    assert follower.read() == ["\ufffd\ufffd"]
    follower.close()


def test_tail(log: Path) -> None:
    assert tail(log, 3) == []
    append(log, "".join(f"line {number}\n" for number in range(100)))
    assert tail(log, 2) == ["line 98", "line 99"]

"""How things are written for people."""

from __future__ import annotations

import pytest

from logos_deploy.text import count, duration, one_line, payload_text, size, table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (130, "2 min 10 s"),
        (7500, "2 h 5 min"),
        (266400, "3 d 2 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(17, "17 B"), (1536, "1.5 KiB"), (153_228, "150 KiB")])
def test_size(number: int, text: str) -> None:
    assert size(number) == text


def test_count() -> None:
    assert (count(1, "peer"), count(0, "peer")) == ("1 peer", "0 peers")


def test_nothing_of_a_stranger_reaches_the_terminal_raw() -> None:
    assert one_line("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert payload_text("grüße\n".encode()) == "grüße\\n"
    assert payload_text(b"\xff\x00") == "<2 B: ff00>"
    assert payload_text(b"x" * 5000).endswith("… <4.9 KiB>")


def test_table() -> None:
    assert table([("a", 1), ("bcd", 22)], heads=("x", "y"), right=(1,)) == "x     y\na     1\nbcd  22"
    assert table([]) == ""

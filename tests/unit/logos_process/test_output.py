"""Output whose reader is slow, gone, or has no room."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from logos_process.output import LineStream, LineWriter, unblocked_output

PIPE_BYTES = 65_536


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        os.close(descriptor)


def fill(writing: int) -> int:
    """Write until nothing more fits; the number of bytes."""
    os.set_blocking(writing, False)
    count = 0
    try:
        while True:
            count += os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
        return count


def read(reading: int, until: bytes) -> bytes:
    data = b""
    while until not in data:
        data += os.read(reading, 65_536)
    return data


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    for number in range(3):
        writer.put(f"line {number}")
    assert writer.flush(10)
    assert os.read(pipe[0], 100) == b"line 0\nline 1\nline 2\n"
    assert writer.dropped == 0


def test_without_a_reader_nothing_waits_and_drops_are_counted_and_reported(
    pipe: tuple[int, int],
) -> None:
    full = fill(pipe[1])
    writer = LineWriter(pipe[1], report=lambda count: f"{count} lost", max_lines=10)
    for number in range(100):
        writer.put(f"line {number}")
    assert not writer.flush(0.01)
    dropped = writer.dropped
    assert 88 <= dropped <= 90  # one may be in the thread's hand
    data = read(pipe[0], b"line 9\n")[full:]
    data += read(pipe[0], b"lost\n") if b"lost" not in data else b""
    assert data.startswith(b"line 0\n")
    assert f"{dropped} lost\n".encode() in data
    writer.put("after")
    assert writer.flush(10)
    assert writer.dropped == dropped
    assert b"after\n" in read(pipe[0], b"after\n")


def test_bytes_are_bounded_too(pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    writer = LineWriter(pipe[1], max_bytes=10_000)
    for _ in range(100):
        writer.put("y" * 999)
    assert writer.dropped >= 89
    while not writer.flush(0.01):
        os.read(pipe[0], PIPE_BYTES)


@pytest.mark.parametrize("target", ["/dev/full", "a pipe without a reader"])
def test_what_cannot_be_written_is_counted_and_does_not_end_the_writer(target: str) -> None:
    if target == "/dev/full":
        descriptor = os.open(target, os.O_WRONLY)
    else:
        reading, descriptor = os.pipe()
        os.close(reading)
    writer = LineWriter(descriptor)
    for _ in range(5):
        writer.put("lost")
    assert writer.flush(10)
    assert writer.dropped == 5
    os.close(descriptor)


def test_a_descriptor_that_another_program_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    writer = LineWriter(pipe[1])
    for number in range(2000):
        writer.put(f"{number:0100d}")
    data = read(pipe[0], b"1999\n")
    assert data.count(b"\n") == 2000
    assert writer.dropped == 0


def test_a_signal_handler_may_write_while_the_same_thread_is_writing(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], max_lines=100_000)
    caught = 0

    def handle(*_: object) -> None:
        nonlocal caught
        caught += 1
        writer.put("from the handler")

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        for _ in range(200):
            os.kill(os.getpid(), signal.SIGUSR1)
            writer.put("from outside")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert caught > 0
    assert writer.flush(10)
    assert read(pipe[0], b"outside\n")


def test_a_stream_writes_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "out"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    stream = LineStream(LineWriter(descriptor), descriptor)
    print("one", "two", file=stream)
    stream.write("three\nfo")
    stream.write("ur \udcff")
    stream.drain(10)
    assert path.read_text() == "one two\nthree\nfour \\udcff\n"
    os.close(descriptor)


def test_streams_in_memory_or_closed_are_left_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with unblocked_output():
        print("here")
    assert capsys.readouterr().out == "here\n"
    monkeypatch.setattr(sys, "stdout", None)
    with unblocked_output():
        print("nowhere")

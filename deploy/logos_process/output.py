"""Write lines to a descriptor that may stop accepting them: a full pipe, a closed terminal, a full disk.

The writer of a line must never wait for its reader: a process whose log is not read would freeze, and with
it its response to SIGTERM. So lines go through a bounded queue to a writer thread; what does not fit, or
cannot be written, is dropped and counted.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final, TextIO

MAX_LINES: Final = 10_000
MAX_BYTES: Final = 4 << 20


def reserve_standard_descriptors() -> None:
    """Open /dev/null at those of descriptors 0, 1 and 2 that are closed. Call it before anything is opened.

    Otherwise the next file or socket would get the number, and a log line would be written into a database.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


class LineWriter:
    """Write lines to `descriptor` from a separate thread; only `flush` ever waits.

    `report` formats the line about dropped lines, which is written once there is room again.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        report: Callable[[int], str] = lambda count: f"({count} lines were dropped)",
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._descriptor = descriptor
        self._report = report
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        # SimpleQueue and RLock, because a signal handler may log while this very thread is inside `put`.
        self._queue: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._waiting_bytes = 0
        self._refused = 0
        self._failed = 0
        self._reported = 0
        threading.Thread(target=self._run, name="output", daemon=True).start()

    @property
    def dropped(self) -> int:
        """Lines dropped since the start, for lack of room or because they could not be written."""
        return self._refused + self._failed

    def put(self, line: str) -> None:
        """Queue a line, with a line break added. It is dropped if the queue is full."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            full = self._waiting_bytes + len(data) > self._max_bytes or self._queue.qsize() >= self._max_lines
            if full:
                self._refused += 1
                return
            self._waiting_bytes += len(data)
        self._queue.put(data)

    def flush(self, seconds: float) -> bool:
        """Wait until everything queued so far is written or dropped. Return False if `seconds` were not
        enough."""
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(seconds)

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            self._write(item)
            with self._lock:
                self._waiting_bytes -= len(item)
            if (missing := self.dropped - self._reported) > 0 and self._write(
                self._report(missing).encode("utf-8", "backslashreplace") + b"\n", counted=False
            ):
                self._reported += missing

    def _write(self, data: bytes, *, counted: bool = True) -> bool:
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # another program sharing it made it non-blocking
                    select.select([], [self._descriptor], [])
        except (OSError, ValueError):
            self._failed += counted
            return False
        return True


class LineStream(io.TextIOBase):
    """A text stream into a `LineWriter`, as a replacement for `sys.stderr`: Python's own reports, such as
    the traceback of a dying thread, would otherwise wait for the reader."""

    def __init__(self, writer: LineWriter, descriptor: int) -> None:
        self._writer = writer
        self._descriptor = descriptor
        self._rest = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._writer.put(line)
        return len(text)

    def flush(self) -> None:
        if self._rest:
            rest, self._rest = self._rest, ""
            self._writer.put(rest)

    def drain(self, seconds: float) -> None:
        """Wait up to `seconds` for queued output."""
        self.flush()
        self._writer.flush(seconds)


@contextlib.contextmanager
def unblocked_output(seconds: float = 1.0) -> Iterator[None]:
    """Make writes to `sys.stdout` and `sys.stderr` non-blocking; at the end, wait up to `seconds` for
    queued lines."""
    before = sys.stdout, sys.stderr
    out, err = _unblocked(sys.stdout), _unblocked(sys.stderr)
    sys.stdout, sys.stderr = out or sys.stdout, err or sys.stderr
    try:
        yield
    finally:
        for stream in (out, err):
            if stream is not None:
                stream.drain(seconds)
        sys.stdout, sys.stderr = before


def _unblocked(stream: TextIO | None) -> LineStream | None:
    """Return None for a stream that is closed, or in memory and hence never blocks."""
    try:
        descriptor = stream.fileno() if stream is not None else -1
    except (OSError, ValueError):
        descriptor = -1
    return LineStream(LineWriter(descriptor), descriptor) if descriptor >= 0 else None

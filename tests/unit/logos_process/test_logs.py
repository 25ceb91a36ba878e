"""Log lines: forms, levels while running, nothing of a peer's text gets out of its place."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logos_process import logs
from logos_process.logs import fields

Configure = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Configure]:
    """Configure logging into a file; gives a function that reads its lines."""
    loggers = [logging.getLogger(name) for name in ("", "kernel_proc", "logos_process", "libp2p")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    stderr, state = sys.stderr, (logs._State.package, logs._State.writer)
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def read() -> list[str]:
        logs.flush()
        return path.read_text().splitlines()

    def configure(level: str, log_format: str = "TEXT") -> Callable[[], list[str]]:
        logs.configure("kernel_proc", level, log_format, descriptor)
        return read

    yield configure
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    logging.getLogger("kernel_proc.part").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    sys.stderr = stderr
    # What another test logs must not be written to a file that gets the same number.
    logs._State.package, logs._State.writer = state
    os.close(descriptor)


def test_text_lines(lines: Configure) -> None:
    read = lines("INFO")
    log = logging.getLogger("kernel_proc.part")
    log.info("it happened", extra=fields(peer="16U", agent='a "b"\nc', escape="\x1b[31m", empty=""))
    log.debug("not this")
    (line,) = read()
    assert line[23:] == (
        'Z INF it happened peer=16U agent="a \\"b\\"\\nc" escape="\\u001b[31m" empty="" logger=part'
    )


def test_json_lines(lines: Configure) -> None:
    read = lines("DEBUG", "JSON")
    log = logging.getLogger("kernel_proc.part")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed", extra=fields(bytes=b"x"))
    line = json.loads(read()[0])
    assert (line["level"], line["msg"], line["logger"]) == ("ERR", "failed", "part")
    assert "ValueError: broken" in line["traceback"]


def test_libraries_are_quiet(lines: Configure) -> None:
    read = lines("INFO")
    logs.silence("libp2p")
    logging.getLogger("libp2p.host").error("dial failed")
    logging.getLogger("other").info("chatter")
    logging.getLogger("other").warning("something")
    assert len(read()) == 1


def test_levels_change_while_running(lines: Configure) -> None:
    read = lines("INFO")
    log = logging.getLogger("kernel_proc.part")
    assert logs.set_level("debug") == "INFO"
    log.debug("one")
    assert logs.set_level("ERROR", "part") == "DEBUG"
    assert logs.set_level("INFO") == "DEBUG"
    log.warning("two")
    assert logs.set_level("TRACE", "kernel_proc.part") == "ERROR"
    log.log(5, "three")
    assert [line.split()[2] for line in read()] == ["one", "three"]
    with pytest.raises(logs.LogLevelError, match="unknown log level"):
        logs.set_level("LOUD")
    with pytest.raises(logs.LogLevelError, match="unknown logger"):
        logs.set_level("INFO", "not.there")

"""Log lines: forms, levels while running, nothing of a peer's text gets out of its place."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from kernel_proc import logs
from kernel_proc.logs import fields


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, kernel, library = logging.getLogger(), logging.getLogger("kernel_proc"), logging.getLogger("libp2p")
    loggers = (root, kernel, library)
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield io.StringIO()
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    logging.getLogger("kernel_proc.part").setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def test_text_lines(stream: io.StringIO) -> None:
    logs.configure("INFO", "TEXT", stream)
    log = logging.getLogger("kernel_proc.part")
    log.info("it happened", extra=fields(peer="16U", agent='a "b"\nc', escape="\x1b[31m", empty=""))
    log.debug("not this")
    (line,) = stream.getvalue().splitlines()
    assert line[23:] == (
        'Z INF it happened peer=16U agent="a \\"b\\"\\nc" escape="\\u001b[31m" empty="" logger=part'
    )


def test_json_lines(stream: io.StringIO) -> None:
    logs.configure("DEBUG", "JSON", stream)
    log = logging.getLogger("kernel_proc.part")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed", extra=fields(bytes=b"x"))
    line = json.loads(stream.getvalue())
    assert (line["level"], line["msg"], line["logger"]) == ("ERR", "failed", "part")
    assert "ValueError: broken" in line["traceback"]


def test_libraries_are_quiet(stream: io.StringIO) -> None:
    logs.configure("INFO", "TEXT", stream)
    logging.getLogger("libp2p.host").error("dial failed")
    logging.getLogger("other").info("chatter")
    logging.getLogger("other").warning("something")
    assert len(stream.getvalue().splitlines()) == 1


def test_levels_change_while_running(stream: io.StringIO) -> None:
    logs.configure("INFO", "TEXT", stream)
    log = logging.getLogger("kernel_proc.part")
    assert logs.set_level("debug") == "INFO"
    log.debug("one")
    assert logs.set_level("ERROR", "part") == "DEBUG"
    assert logs.set_level("INFO") == "DEBUG"
    log.warning("two")
    assert logs.set_level("TRACE", "kernel_proc.part") == "ERROR"
    log.log(5, "three")
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == ["one", "three"]
    with pytest.raises(logs.LogLevelError, match="unknown log level"):
        logs.set_level("LOUD")
    with pytest.raises(logs.LogLevelError, match="unknown logger"):
        logs.set_level("INFO", "not.there")

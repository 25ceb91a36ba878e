"""The lifeline: what a parent leaves, and the moment it is gone."""

from __future__ import annotations

import asyncio
import os

import pytest

from ipc_schema.config.options import ConfigError
from mapi_proc.lifeline import LIFELINE, take_lifeline, watch_lifeline
from tests.support.aio import asyncio_test


def test_without_one() -> None:
    assert take_lifeline({"PATH": "/bin"}) is None


def test_it_is_taken_and_no_child_inherits_it() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    environ = {LIFELINE: str(reading)}
    assert take_lifeline(environ) == reading
    assert environ == {}
    assert not os.get_inheritable(reading)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("given", ["", "x", "-1", "99999", str(1 << 70), "closed", "file"])
def test_what_is_no_pipe_is_refused(given: str) -> None:
    opened = os.open(os.devnull, os.O_RDONLY)
    text = {"closed": str(opened + 1000), "file": str(opened)}.get(given, given)
    with pytest.raises(ConfigError, match=LIFELINE):
        take_lifeline({LIFELINE: text})
    os.close(opened)


@asyncio_test()
async def test_the_parent_goes() -> None:
    reading, writing = os.pipe()
    gone = asyncio.Event()
    calls: list[str] = []

    def end() -> None:
        calls.append("gone")
        gone.set()

    watch_lifeline(asyncio.get_running_loop(), reading, end)
    await asyncio.sleep(0)
    assert not gone.is_set()
    os.close(writing)
    await gone.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    assert calls == ["gone"]
    os.close(reading)

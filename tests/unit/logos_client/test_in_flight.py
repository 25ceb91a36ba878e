"""Requests in flight: each ends by its own deadline, though one timer serves all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Reply
from logos_client._in_flight import RequestsInFlight
from tests.support.aio import asyncio_test


class Clock:
    """The loop's time and timers, by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None], asyncio.Event]] = []

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[Reply]:
        return asyncio.get_running_loop().create_future()

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        timer = asyncio.Event()
        timer.cancel = timer.set  # type: ignore[attr-defined]
        self.timers.append((when, callback, timer))
        return timer

    def advance(self, until: float) -> None:
        """Let all timers end that are due by then, each a little early, as a loop's may."""
        while due := sorted((one for one in self.timers if one[0] <= until), key=lambda one: one[0]):
            self.timers.remove(due[0])
            when, callback, cancelled = due[0]
            self.now = when - 0.0004
            if not cancelled.is_set():
                callback()
        self.now = until


@asyncio_test()
async def test_each_request_ends_at_its_own_deadline() -> None:
    clock = Clock()
    requests = RequestsInFlight(clock)  # type: ignore[arg-type]
    waiting = {seconds: requests.add(b"%d" % seconds, "node.info", seconds) for seconds in (10, 1, 4)}
    for now, ended in ((0.9, ()), (1, (1,)), (3.9, (1,)), (4, (1, 4)), (10, (1, 4, 10))):
        clock.advance(now)
        assert {seconds for seconds, future in waiting.items() if future.done()} == set(ended)
    for future in waiting.values():
        error = future.exception()
        assert isinstance(error, IpcError)
        assert error.code is ErrorCode.DEADLINE_EXCEEDED
    assert not clock.timers


@asyncio_test()
async def test_what_was_answered_or_given_up_is_not_found_again() -> None:
    clock = Clock()
    requests = RequestsInFlight(clock)  # type: ignore[arg-type]
    answered = requests.add(b"answered", "node.info", 5.0)
    assert requests.take(b"answered") is answered
    assert requests.take(b"answered") is None
    requests.add(b"given up", "node.info", 5.0).cancel()
    assert requests.take(b"given up") is None
    clock.advance(5.0)
    assert not answered.done()


@asyncio_test()
async def test_a_lost_connection_fails_each_with_an_error_of_its_own() -> None:
    requests = RequestsInFlight(asyncio.get_running_loop())
    futures = [requests.add(name, "node.info", 1e9) for name in (b"a", b"b")]
    requests.fail(lambda: IpcError(ErrorCode.PEER_RESTARTED, "lost"))
    errors = [future.exception() for future in futures]
    assert errors[0] is not errors[1]
    with pytest.raises(IpcError, match="lost"):
        await futures[0]
    requests.close()

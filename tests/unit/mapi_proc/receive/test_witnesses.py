"""Whether stores were there at a time: shown by a connection, or by what they hold of it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from mapi_proc.receive.stores import StorePeer
from mapi_proc.receive.witnesses import witnessed
from tests.support.aio import asyncio_test

S = 1_000_000_000


class Store(StorePeer):
    """Holds messages of these times (seconds)."""

    name = "store"
    connected = 0.0

    def __init__(self, times: Iterable[float] = (), *, connected: float = 1.0) -> None:
        self.times = [int(time * S) for time in times]
        self.connected = connected
        self.answers = True

    async def count(self, start_ns: int, end_ns: int, most: int) -> int | None:
        return min(most, sum(start_ns <= at <= end_ns for at in self.times)) if self.answers else None


def busy(start: float, end: float) -> list[float]:
    """Twenty messages a second."""
    return [start + number / 20 for number in range(int((end - start) * 20))]


@pytest.mark.parametrize(
    ("stores", "there"),
    [
        ([], False),
        ([Store(connected=61.0)], True),
        ([Store(connected=59.0)], False),
        ([Store([100.5])], True),
        ([Store([127.0])], False),
        ([Store([99.0, 131.0])], False),
        ([Store(busy(100, 130))], True),
        ([Store(busy(125, 130))], False),
        ([Store(busy(100, 108))], False),
        ([Store(busy(100, 108)), Store(busy(106, 130))], True),
        ([Store(busy(125, 130)), Store(busy(100, 130))], True),
    ],
    ids=[
        "no store",
        "connected since before",
        "connected again since",
        "one message at the beginning",
        "one message at the end",
        "messages outside only",
        "busy all the time",
        "came back near the end",
        "went away",
        "two that complete each other",
        "one of two was away",
    ],
)
@asyncio_test()
async def test_who_was_there_from_100_to_130(stores: list[Store], there: bool) -> None:
    assert await witnessed(stores, 100 * S, 130 * S, 60.0) is there


@asyncio_test()
async def test_a_store_that_does_not_answer_shows_nothing_and_a_short_gap_needs_one_message() -> None:
    store = Store([100.9])
    assert await witnessed([store], 100 * S, 101 * S, 60.0)
    store.answers = False
    assert not await witnessed([store], 100 * S, 101 * S, 60.0)

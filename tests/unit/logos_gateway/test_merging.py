"""Several asynchronous iterators as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from logos_gateway.merging import merge
from tests.support.aio import asyncio_test


async def counting(count: int, closed: list[int], *, fail: bool = False) -> AsyncGenerator[int, None]:
    try:
        for number in range(count):
            await asyncio.sleep(0)
            yield number
        if fail:
            raise ValueError("broken")
    finally:
        closed.append(count)


@asyncio_test()
async def test_everything_comes_and_the_sources_are_closed() -> None:
    closed: list[int] = []
    found = [item async for item in merge(counting(3, closed), counting(5, closed))]
    assert sorted(found) == sorted([*range(3), *range(5)])
    assert sorted(closed) == [3, 5]


@asyncio_test()
async def test_a_failure_of_one_ends_all() -> None:
    closed: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        async for _ in merge(counting(2, closed, fail=True), counting(1000, closed)):
            pass
    assert sorted(closed) == [2, 1000]


@asyncio_test()
async def test_a_reader_that_leaves_closes_the_sources() -> None:
    closed: list[int] = []
    merged = merge(counting(10, closed), counting(20, closed))
    async for _ in merged:
        break
    await merged.aclose()
    assert sorted(closed) == [10, 20]

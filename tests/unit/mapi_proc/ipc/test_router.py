"""Answers that come with a future."""

from __future__ import annotations

import asyncio

import pytest

from ipc_schema.server import Answer
from mapi_proc.ipc.router import LaterAnswer
from tests.support.aio import asyncio_test


async def _wait(later: LaterAnswer) -> Answer:
    return await later


@asyncio_test()
async def test_a_request_that_is_given_up_leaves_its_result_to_others() -> None:
    result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    later = LaterAnswer(result, lambda repeated: ({"repeated": repeated}, ()))
    given_up, other = asyncio.create_task(_wait(later)), asyncio.create_task(_wait(later))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    result.set_result(True)
    assert await other == ({"repeated": True}, ())

"""Whatever is killed, nothing is lost or doubled on the way through JetStream, and each send has one fate."""

from __future__ import annotations

import pytest

from tests.chaos.bridge import MOVES, BridgeStory
from tests.support.aio import asyncio_test
from tests.support.kernel_process import short_directory
from tests.support.nats_server import require_nats

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.mark.timeout(180)
@asyncio_test(170)
async def test_bridges_nats_kernel_mapi_and_a_host_are_killed_under_load() -> None:
    """The short form of `python -m tests.chaos.bridge`."""
    require_nats()
    with short_directory() as directory, BridgeStory(directory, rate=25) as story:
        verdict = await story.run(list(MOVES), 1.0)
    assert verdict.good, verdict
    assert verdict.published > 50
    assert verdict.sends > 50

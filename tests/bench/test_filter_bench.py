"""The bench of filter runs and counts right, at a size that takes seconds. Nothing here is timed."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.bench import filter as bench


@pytest.mark.integration
@pytest.mark.parametrize(("readers", "hung"), [(1, 0), (3, 1)])
def test_every_reader_gets_every_message(readers: int, hung: int) -> None:
    with ExitStack() as stack:
        setup = bench._Setup(stack, "test", readers, hung)
        done = setup.run(20)
    assert done.value > 0
    assert done.cpu["service"] > 0
    assert 0 < done.extra["fanout_ms_p50"] <= done.extra["fanout_ms_max"]

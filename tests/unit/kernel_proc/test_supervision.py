"""Parts: the end of one is the end of all, logged by name."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kernel_proc.supervision import SupervisedParts, leaf
from tests.support.aio import trio_test


async def fails() -> None:
    await trio.lowlevel.checkpoint()
    raise RuntimeError("of the test")


async def ends() -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(("run", "reported"), [(fails, "a part failed"), (ends, "a part ended")])
def test_the_end_of_one_is_the_end_of_all(run: Any, reported: str, caplog: pytest.LogCaptureFixture) -> None:
    @trio_test()
    async def check() -> None:
        async with trio.open_nursery() as nursery:
            parts = SupervisedParts(nursery)
            parts.add("steady", trio.sleep_forever)
            parts.add("weak", run)
        assert parts.failed == "weak"

    check()
    assert reported in caplog.text


@trio_test()
async def test_what_a_part_raises_before_it_has_started_is_its_starters() -> None:
    async def refuses(*, task_status: Any) -> None:
        raise OSError("taken")

    async def starts_and_fails(*, task_status: Any) -> None:
        task_status.started()
        await fails()

    async with trio.open_nursery() as nursery:
        parts = SupervisedParts(nursery)
        with pytest.raises(OSError, match="taken"):
            await parts.start("host", refuses)
        assert parts.failed is None
        await parts.start("late", starts_and_fails)
    assert parts.failed == "late"


def test_a_leaf_of_groups() -> None:
    taken = OSError("taken")
    group = ExceptionGroup("a", [ValueError("other"), ExceptionGroup("b", [KeyError("x"), taken])])
    assert leaf(group, OSError) is taken
    assert leaf(taken, OSError) is taken
    assert leaf(group, TypeError) is None
    assert isinstance(leaf(group, KeyError, OSError), KeyError)

"""Lists of content topics are cut so that each part fits a reply."""

from __future__ import annotations

import pytest

from ipc_schema.frames import MAX_BODY, encode_reply
from ipc_schema.mapi.paging import topic_page


@pytest.mark.parametrize("size", [10, 300, 60_000])
def test_parts_make_the_whole_and_each_fits(size: int) -> None:
    topics = sorted(f"/app/1/{number}/".ljust(size, "x") for number in range(50_000 if size < 50 else 2_000))
    found: list[str] = []
    more = True
    while more:
        part, more = topic_page(topics, found[-1] if found else "")
        assert part
        found += part
        body = {"subscriptions": part, "status": {"topics": dict.fromkeys(part, "SUFFICIENTLY_HEALTHY")}}
        frames = encode_reply(bytes(16), bytes(16), body)
        assert len(frames[2]) < MAX_BODY - 4096
    assert found == topics


def test_nothing_is_one_part() -> None:
    assert topic_page([]) == ([], False)
    assert topic_page(["a"], "a") == ([], False)
    assert topic_page(["a", "b"], "a") == (["b"], False)

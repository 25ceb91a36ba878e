"""The benches of the services run and count right, at a size that takes seconds. Nothing here is timed."""

from __future__ import annotations

import pytest

from tests.bench.harness import Options
from tests.bench.lightpush import lightpush

pytestmark = pytest.mark.integration


def test_lightpush() -> None:
    lines = list(lightpush(Options(runs=1, scale=0.01)))
    assert [line["case"] for line in lines] == ["serial", "32 in flight"]
    for line in lines:
        assert line["ours"] > 0
        assert line["reference"] > 0
        assert set(line["cpu_us"]) == {"service", "relay peer", "clients"}

"""The benches of scale and cost run and count right, at a size that takes seconds. Nothing here is timed."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import pytest

from tests.bench.footprint import footprint
from tests.bench.harness import Options
from tests.bench.mesh.driver import Mesh
from tests.bench.rpc import rpc
from tests.bench.topics import topics

pytestmark = pytest.mark.integration


def test_rpc() -> None:
    lines = list(rpc(Options(runs=1, scale=0.02)))
    assert [line["case"] for line in lines] == [
        f"{clients}, {how}" for clients in ("1 client", "100 clients") for how in ("serial", "pipelined")
    ]
    assert all(line["ours"] > 0 and line["reference"] > 0 for line in lines)


def test_topics() -> None:
    (line,) = topics(Options(runs=1, scale=0.01, only="10 apps"))
    assert line["messages"] == 20
    assert line["cpu_us"]["mapi"] > 0


def test_footprint() -> None:
    lines = {line["case"]: line for line in footprint(Options(runs=1, scale=0.01))}
    assert len(lines) == 9
    assert lines["kernel memory"]["ours"] > lines["kernel memory"]["reference"] > 1


def test_our_side_of_the_mesh_bench() -> None:
    with ExitStack() as stack:
        network = Mesh(stack, "ours", [sys.executable, "-m", "tests.bench.mesh.node"], 3, None)
        done = network.run(30, 1.0)
        assert done.extra["delivered_percent"] == 100

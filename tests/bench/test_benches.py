"""The benches run, count right and refuse a loss, at a size that takes seconds. Nothing here is timed."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import pytest

from ipc_schema.message import decode_message
from tests.bench.harness import BenchError, Case, Options, Round, alternate, percentile, result
from tests.bench.pipeline import driver as pipeline_driver
from tests.bench.relay import sides
from tests.bench.relay.pair import NodePair
from tests.bench.relay.traffic import message_maker
from tests.bench.startup import imports


def test_sides_take_turns_and_medians_are_compared() -> None:
    order: list[str] = []

    def side(name: str, values: list[float]) -> Round:
        order.append(name)
        return Round(values[order.count(name) - 1], {"app": 2.0}, {"p99": 9.0})

    ours, reference = alternate(
        3, lambda: side("ours", [40.0, 10.0, 30.0]), lambda: side("reference", [20.0, 60.0, 10.0])
    )
    assert order == ["ours", "reference"] * 3
    case = Case("some", "case", "msg/s", "it", target="ratio ≥ 1", reached=lambda line: line["ratio"] >= 1)
    line = result(case, ours, reference)
    assert (line["ours"], line["reference"], line["ratio"], line["runs"]) == (30.0, 20.0, 1.5, 3)
    assert line["ours_runs"] == [40.0, 10.0, 30.0]
    assert line["cpu_us"] == {"app": 2.0}
    assert line["reference_p99"] == 9.0
    assert line["reached"] is True


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.5) == 51.0
    assert percentile(values, 0.99) == 100.0
    assert percentile([7.0], 0.99) == 7.0


def test_the_imports_of_a_module_are_counted_by_package() -> None:
    used, slowest = imports("ipc_schema.server")
    assert used.value > 0
    assert used.extra["modules"] > 20
    assert len(slowest) == 5  # which these are depends on the machine's load
    assert not any("." in package for package in slowest)


def test_the_relay_messages_are_waku_messages_with_distinct_numbers() -> None:
    make = message_maker(1024)
    first, second = decode_message(make(1 << 32)), decode_message(make(1 << 32 | 1))
    assert len(first.payload) == len(second.payload) == 1024
    assert first.payload[:8] == (1 << 32).to_bytes(8, "big")
    assert first.payload[8:] == second.payload[8:]


@pytest.mark.integration
def test_our_side_of_the_relay_bench() -> None:
    with ExitStack() as stack:
        pair = NodePair(stack, sides.OURS)
        for size in (150, 100 * 1024):
            done = pair.run(size, 30)
            assert done.value > 0
            assert set(done.cpu) == {"publisher", "receiver", "both"}
        paced = pair.pace(1024, 20, 1000)
        assert 0 < paced.value <= paced.extra["p99"]


def test_a_reference_without_its_tool_chain_is_left_out_with_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    messages: list[str] = []
    assert sides.build_references(wanted=lambda key: key != "js", log=messages.append) == []
    assert messages == [
        "relay: the reference go is left out: go is not installed",
        "relay: the reference rust is left out: cargo is not installed",
    ]


def test_a_lost_or_doubled_message_fails_the_relay_bench() -> None:
    for lost, duplicates in ((1, 0), (0, 1)):
        script = (
            "import json, sys\n"
            "def say(**event): print(json.dumps(event), flush=True)\n"
            "say(event='ready', addresses=['/a'], ackPort=0)\n"
            "answers = {'connect': [{'event': 'connected'}], 'publish': [],\n"
            "  'expect': [{'event': 'expecting'},\n"
            f"  dict(event='received', received=30, lost={lost}, duplicates={duplicates}, cpu_us=1)]}}\n"
            "for line in sys.stdin:\n"
            "    for answer in answers[json.loads(line)['cmd']]: say(**answer)\n"
        )
        side = sides.Side("fake", "fake", (sys.executable, "-c", script), 0)
        with ExitStack() as stack, pytest.raises(BenchError, match="30 messages were sent"):
            NodePair(stack, side).run(150, 30)


@pytest.mark.integration
def test_the_pipeline_bench() -> None:
    lines = list(pipeline_driver.pipeline(Options(runs=1, scale=0.01, only="KiB")))
    assert [line["case"] for line in lines] == [
        *(
            f"{size}, journal {journal}"
            for size in ("1 KiB", "14 KiB", "149 KiB")
            for journal in ("off", "on")
        ),
        *(f"1 KiB at 200 msg/s, journal {journal}" for journal in ("off", "on")),
        pipeline_driver.BLIND,
    ]
    for line in lines:
        assert line["ours"] > 0
        assert line["reference"] > 0
        assert set(line["cpu_us"]) == {"kernel", "mapi", "app"}


@pytest.mark.integration
def test_a_process_that_ends_is_reported() -> None:
    with ExitStack() as stack, pytest.raises(BenchError, match="receiver ended"):
        NodePair(stack, sides.Side("broken", "broken", (sys.executable, "-c", "pass"), 0))

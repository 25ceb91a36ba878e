"""The benches of the services run and count right, at a size that takes seconds. Nothing here is timed."""

from __future__ import annotations

import pytest

from tests.bench.archive_pg import archive_pg
from tests.bench.archive_relay.driver import archive_relay
from tests.bench.harness import Options
from tests.bench.lightpush import lightpush
from tests.bench.store_sync import store_sync
from tests.bench.wss import wss

pytestmark = pytest.mark.integration


def test_lightpush() -> None:
    lines = list(lightpush(Options(runs=1, scale=0.01)))
    assert [line["case"] for line in lines] == ["serial", "32 in flight"]
    for line in lines:
        assert line["ours"] > 0
        assert line["reference"] > 0
        assert set(line["cpu_us"]) == {"service", "relay peer", "clients"}


def test_latency_beside_queries() -> None:
    (line,) = archive_relay(Options(runs=1, scale=0.01, only="latency"))
    assert (line["samples"], line["preloaded"]) == (100, 1000)
    assert line["queries"] > 0
    assert line["queries_refused"] == 0
    assert 0 < line["p50_ms"] <= line["p99_ms"]
    assert 0 < line["reference_p50_ms"] <= line["reference_p99_ms"]


def test_inserts_while_relaying() -> None:
    (line,) = archive_relay(Options(runs=1, scale=0.015, only="inserts"))
    assert line["messages"] == 300
    assert 0 < line["ours"] <= line["relayed_per_s"]
    assert line["reference"] > 0
    assert set(line["cpu_us"]) == {"kernel", "publisher", "receiver"}


def test_secure_websocket() -> None:
    plain, tcp = (next(wss(Options(runs=1, scale=0.02, only=f"against {name}"))) for name in ("ws", "tcp"))
    for line in (plain, tcp):
        assert line["ours"] > 0
        assert line["reference"] > 0
        assert set(line["cpu_us"]) == {"publisher", "receiver", "both"}


def test_store_sync() -> None:
    few, many, core = store_sync(Options(runs=1, scale=0.01))
    for line in (few, many, core):
        assert line["ours"] > 0
        assert line["reference"] > 0
        assert line["kib"] > 0
    assert few["frames"] >= 2
    assert many["differences_per_second"] > 0
    assert core["kib"] == core["reference_kib"]


def test_shared_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.archive_pg.KERNELS", (2,))  # 1 and 4 are the same program
    lines = list(archive_pg(Options(runs=1, scale=0.01)))
    assert [line["case"] for line in lines] == [
        "inserts, 2 kernels",
        *(f"page by {kind} in 100k" for kind in ("topic", "time", "cursor")),
        "page by topic in 100k while storing",
        "retention drop in 100k",
    ]
    assert all(line["ours"] > 0 and line["reference"] > 0 for line in lines)

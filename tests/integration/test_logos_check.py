"""`logos check` against kernels that offer different things."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from logos_deploy.exits import Exit
from tests.integration.logos_node import logos
from tests.support.kernel_process import KernelProcess, short_directory

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[KernelProcess]:
    with short_directory() as directory:
        options = ("--cluster-id=48", "--shard=1", "--num-shards-in-network=2", "--store=true")
        with KernelProcess(
            directory / "k",
            *options,
            "--agent-string=looked-at",
            "--websocket-support=true",
            "--websocket-port=0",
        ) as kernel:
            yield kernel


def report(*arguments: str, code: Exit = Exit.OK) -> dict[str, Any]:
    done = logos("check", *arguments, "--json", timeout=90)
    assert done.returncode == code, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_node_is_described_and_its_services_answer(server: KernelProcess) -> None:
    found = report(server.address(), "--require=store,filter,lightpush,relay", "--require-shard=1")
    assert found["ok"]
    assert (found["cluster"], found["shards"], found["agent"]) == (48, [1], "looked-at")
    assert found["transport"] == "tcp"
    assert found["dial_ms"] > 0
    assert found["connect_ms"] > 0
    answers = {name: one["answers"] for name, one in found["services"].items()}
    assert answers == {
        "relay": None,
        "store": True,
        "filter": True,
        "lightpush": True,
        "peer-exchange": True,
        "metadata": True,
    }
    assert "refused with" in found["services"]["lightpush"]["detail"], "nothing was published"


def test_what_is_required_and_missing_is_reported(server: KernelProcess) -> None:
    websocket = next(one for one in server.info("MyMultiaddresses")["MyMultiaddresses"] if "/ws" in one)
    with (
        short_directory() as directory,
        KernelProcess(
            directory / "bare",
            "--cluster-id=48",
            "--peer-exchange=false",
            "--filter=false",
            "--lightpush=false",
        ) as bare,
    ):
        done = logos("check", bare.address(), "--cluster-id=48", "--require=store", timeout=90)
    assert done.returncode == Exit.FAILED
    assert "FAIL  store is not offered" in done.stdout
    found = report(websocket, "--cluster-id=48", "--require-shard=7", code=Exit.FAILED)
    assert found["transport"] == "ws"
    assert found["problems"] == ["it is not on shard 7"]


def test_unreachable_peers_and_text_that_is_not_an_address(server: KernelProcess) -> None:
    peer_id = server.address().rpartition("/")[2]
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))  # bound, but it does not listen
        address = f"/ip4/127.0.0.1/tcp/{held.getsockname()[1]}/p2p/{peer_id}"
        found = report(address, code=Exit.UNAVAILABLE)
    assert (found["reached"], found["ok"]) == (False, False)
    assert found["problems"][0]
    assert logos("check", "/ip4/127.0.0.1").returncode == Exit.DATA
    assert logos("check", address, "--require=tea").returncode == Exit.USAGE

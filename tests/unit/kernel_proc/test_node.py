"""The node as an object: it starts, stops, starts again, and never goes on with a dead part."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from ipc_schema.config.kernel import KernelConfig, load_kernel_config
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.lag import EventLoopLag
from kernel_proc.node import Node
from kernel_proc.p2p.keepalive import Keepalive
from kernel_proc.relay.service import RelayService
from kernel_proc.shards import Shards
from logos_process.exits import ExitCode, StartError
from tests.support.aio import trio_test
from tests.support.certificates import Certificates
from tests.support.kernel_process import short_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def config(directory: Path, **flags: object) -> KernelConfig:
    given = {"data-dir": str(directory / "k"), "tcp-port": 0} | {
        key.replace("_", "-"): value for key, value in flags.items()
    }
    return load_kernel_config(flags=given)


async def until_ready(node: Node) -> None:
    while not node.health.ready:
        await trio.sleep(0.005)


@trio_test()
async def test_relays_are_kept_and_the_end_of_the_certificate_is_shown(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = datetime(2050, 1, 1, tzinfo=UTC)
    files = Certificates(directory, "localhost", until=end)
    given = {
        "websocket_support": True,
        "websocket_port": 0,
        "websocket_secure_support": True,
        "websocket_secure_cert_path": str(files.chain),
        "websocket_secure_key_path": str(files.key),
    }
    node = Node(config(directory, **given))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        await until_ready(node)
        samples = node.registry.report().samples
        assert ("websocket_certificate_expiry_seconds", {}, end.timestamp()) in samples
        assert node._network is not None
        peering = node._network.peering
        assert peering.manager._needs.at_work() == set()
        monkeypatch.setattr(peering.circuits, "_reserved", {"relay": (float("inf"), "")})
        assert peering.manager._needs.at_work() == {"relay"}, "else the peer manager may disconnect it"
        node.stop("test")


@trio_test()
async def test_start_and_stop_again_and_again(directory: Path) -> None:
    instances = set()
    for _ in range(3):
        node = Node(config(directory, shard=[0]))
        instances.add(node.publisher.instance)
        codes: list[int] = []

        async def run(node: Node = node, codes: list[int] = codes) -> None:
            codes.append(await node.run())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until_ready(node)
            assert node.shards.joined() == [0]
            node.stop("test")
            node.stop("twice")
        assert codes == [ExitCode.OK]
    assert len(instances) == 3


class BrokenPartError(Exception):
    pass


@pytest.mark.parametrize(
    ("owner", "method", "part"),
    [
        (EventPublisher, "run", "ipc"),
        (Shards, "expire", "leases"),
        (EventLoopLag, "run", "event loop lag"),
        (RelayService, "run", "relay"),
        (Keepalive, "run", "host"),
    ],
)
def test_a_part_that_fails_ends_the_node(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: type,
    method: str,
    part: str,
) -> None:
    original = getattr(owner, method)

    @trio_test()
    async def check() -> None:
        node = Node(config(directory))
        if method == "expire":

            def broken(_self: object) -> None:
                raise BrokenPartError

            monkeypatch.setattr(owner, method, broken)
        else:

            async def broken_later(
                *_args: object, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
            ) -> None:
                task_status.started()
                await until_ready(node)
                raise BrokenPartError

            monkeypatch.setattr(owner, method, broken_later)
        ending: list[str] = []
        with caplog.at_level(logging.CRITICAL):
            assert await node.run(stopping=lambda: ending.append("now")) == ExitCode.FAILED
        assert ending == ["now"]  # the clock runs: a node that hangs in its end would look alive
        reported = [record for record in caplog.records if record.levelno == logging.CRITICAL]
        assert [record.named_values["part"] for record in reported] == [part]  # type: ignore[attr-defined]

    check()
    assert original is not getattr(owner, method)


def test_a_part_that_just_ends_ends_the_node(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @trio_test()
    async def check() -> None:
        async def nothing(*_args: object) -> None:
            await trio.lowlevel.checkpoint()

        monkeypatch.setattr(EventLoopLag, "run", nothing)
        assert await Node(config(directory)).run() == ExitCode.FAILED

    check()
    assert "a part ended" in caplog.text


@trio_test()
async def test_a_taken_port_leaves_nothing_behind(directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"tcp-port {port}"):
            await Node(config(directory, tcp_port=port)).run()
    assert {entry.name for entry in (directory / "k" / "run" / "kernel").iterdir()} == {"lock"}
    node = Node(config(directory))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        await until_ready(node)
        with pytest.raises(StartError, match="in use by process"):
            await Node(config(directory)).run()
        node.stop("test")


@trio_test()
async def test_a_configured_key_is_used_and_not_written(directory: Path) -> None:
    node = Node(config(directory, nodekey="11" * 32))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        await until_ready(node)
        node.stop("test")
    assert not (directory / "k" / "nodekey").exists()

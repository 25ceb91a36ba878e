"""A kernel without a Messaging API is only a kernel: its exact tasks, sockets and modules.

py-libp2p imports asyncio itself, and whatever imports it defines nothing: what counts is that no asyncio loop
runs, that no module of MAPI or of a client is loaded, and that no task or socket is there beyond these.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.kernel_process import KernelProcess, short_directory

pytestmark = pytest.mark.integration

TASKS = Counter(
    [
        "<TrioToken.run_sync_soon task>",  # trio's own
        "AutoNAT",
        "__main__._run.<locals>.run",
        "event loop lag",
        "health",
        "host",
        "ipc",
        "filter",
        "filter client",
        "filter writers",
        "ipc control",
        "ipc control",
        "ipc door control",
        "ipc door events",
        "ipc door requests",
        "ipc doors",
        "ipc dispatch",
        "ipc events",
        "ipc heartbeat",
        "ipc requests",
        "keepalive",
        "leases",
        "metadata",
        "kernel_proc.peers.store_keeper.StoreKeeper.run",
        "kernel_proc.peers.manager.PeerManager._watch_sleep",
        "peer manager",
        "peering",
        "port mapping",
        "recent links",
        "relay",
        "signals",
        "trio._highlevel_serve_listeners._serve_one_listener",  # the TCP listener
        "trio.serve_listeners",
    ]
)

FORBIDDEN = (
    "mapi_proc",
    "logos_client",
    "logos_deploy",
    "ipc_schema.mapi",
    "ipc_schema.config.mapi",
    "uvloop",
)


@pytest.fixture(scope="module")
def detail() -> Iterator[dict[str, Any]]:
    with short_directory() as path, KernelProcess(path / "k") as kernel:
        # With a consumer at work, as beside a Messaging API: that must add nothing either.
        kernel.dealer("consumer").ok("lease.acquire", {"shards": [0]})
        kernel.subscriber(b"m/0/0\0").heartbeat()
        found: dict[str, Any] = kernel.control().ok("health", {"detail": True})["detail"]
        assert kernel.process is not None
        process = psutil.Process(kernel.process.pid)
        found["listening"] = {
            connection.laddr.port
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        found["children"] = process.children()
        found["files"] = {Path(file.path).name for file in process.open_files()}
        found["unix"] = {
            entry.name
            for entry in (kernel.directory / "run" / "kernel").iterdir()
            if stat.S_ISSOCK(entry.stat().st_mode)
        }
        yield found


def test_exactly_these_tasks(detail: dict[str, Any]) -> None:
    assert Counter(detail["tasks"]) == TASKS


def test_exactly_these_threads_of_python(detail: dict[str, Any]) -> None:
    assert detail["threads"] == ["MainThread", "output"]  # the second one writes the log


def test_exactly_these_sockets(detail: dict[str, Any]) -> None:
    ipc = [endpoint for endpoint in detail["sockets"] if endpoint.startswith("ipc://")]
    libp2p = [address for address in detail["sockets"] if not address.startswith("ipc://")]
    assert [Path(endpoint).name for endpoint in ipc] == ["events", "requests", "control"]
    assert len(libp2p) == 1
    # and the system agrees
    assert detail["unix"] == {"events", "requests", "control"}
    assert detail["listening"] == {int(libp2p[0].split("/tcp/")[1].split("/")[0])}
    assert detail["children"] == []
    assert {name for name in detail["files"] if name != "k.log"} == {"kernel.lock", "lock"}


def test_no_module_of_anything_else(detail: dict[str, Any]) -> None:
    loaded = [
        module
        for module in detail["modules"]
        if any(module == name or module.startswith(name + ".") for name in FORBIDDEN)
    ]
    assert loaded == []


def test_no_asyncio_loop(detail: dict[str, Any]) -> None:
    assert detail["asyncio_loop"] is False

from __future__ import annotations

from pathlib import Path

import pytest

from ipc_schema.paths import (
    MAX_SOCKET_PATH,
    SocketPathError,
    kernel_directory,
    kernel_endpoints,
    lock_path,
    mapi_endpoints,
    run_directory,
    socket_endpoint,
    socket_path,
)


def test_endpoints_below_a_run_directory() -> None:
    run = run_directory("/var/lib/node")
    assert run == Path("/var/lib/node/run")
    assert kernel_endpoints(run) == (
        "ipc:///var/lib/node/run/kernel/events",
        "ipc:///var/lib/node/run/kernel/requests",
        "ipc:///var/lib/node/run/kernel/control",
    )
    assert mapi_endpoints(run) == (
        "ipc:///var/lib/node/run/mapi/apps",
        "ipc:///var/lib/node/run/mapi/control",
    )
    assert lock_path(kernel_directory(run)) == Path("/var/lib/node/run/kernel/lock")


def test_ipc_dir_takes_the_place_of_the_run_directory() -> None:
    assert run_directory("/var/lib/node", "/run/n") == Path("/run/n")
    assert run_directory("/var/lib/node", "") == Path("/var/lib/node/run")


def test_the_longest_path() -> None:
    longest = "/" + "x" * (MAX_SOCKET_PATH - 1)
    assert socket_endpoint(longest) == "ipc://" + longest
    with pytest.raises(SocketPathError, match="108 bytes, at most 107 are possible: set ipc-dir"):
        socket_endpoint(longest + "x")


def test_paths_are_measured_in_bytes() -> None:
    with pytest.raises(SocketPathError, match="bytes"):
        kernel_endpoints("/" + "é" * 50)


def test_nul_is_refused() -> None:
    with pytest.raises(SocketPathError, match="NUL"):
        socket_endpoint("/run/a\0b")


def test_the_path_of_an_endpoint() -> None:
    assert socket_path("ipc:///run/n/kernel/events") == Path("/run/n/kernel/events")
    assert socket_path("tcp://127.0.0.1:5000") is None

"""Locations of a node's sockets (SPEC.md, "Transport"). Pure: nothing is created or looked up here.

    <run dir>/kernel/{events,requests,control,lock}      <run dir>/mapi/{apps,control,lock}

The run directory is `<data-dir>/run` unless the option `ipc-dir` names another one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

__all__ = [
    "MAX_SOCKET_PATH",
    "KernelEndpoints",
    "MapiEndpoints",
    "SocketPathError",
    "bridge_directory",
    "bridge_status_file",
    "gateway_address_file",
    "gateway_directory",
    "kernel_directory",
    "kernel_endpoints",
    "lock_path",
    "mapi_directory",
    "mapi_endpoints",
    "run_directory",
    "socket_endpoint",
    "socket_path",
]

MAX_SOCKET_PATH: Final = 107
"""Bytes for a path in the operating system's `sockaddr_un`, without the NUL (unix(7))."""

_SCHEME: Final = "ipc://"


class SocketPathError(ValueError):
    """A socket path is too long. The text names the option that shortens it."""


class KernelEndpoints(NamedTuple):
    """ZeroMQ endpoints of a kernel."""

    events: str
    requests: str
    control: str


class MapiEndpoints(NamedTuple):
    """ZeroMQ endpoints of a Messaging API."""

    apps: str
    control: str


def run_directory(data_dir: str | Path, ipc_dir: str | Path | None = None) -> Path:
    """Return the run directory: `ipc_dir` if set, else `run` below the data directory."""
    return Path(ipc_dir) if ipc_dir else Path(data_dir) / "run"


def kernel_directory(run_dir: str | Path) -> Path:
    """Return the private directory of the kernel's sockets and lock."""
    return Path(run_dir) / "kernel"


def mapi_directory(run_dir: str | Path) -> Path:
    """Return the private directory of the Messaging API's sockets and lock."""
    return Path(run_dir) / "mapi"


def gateway_directory(run_dir: str | Path) -> Path:
    """Return the private directory of the gateway's lock and address file."""
    return Path(run_dir) / "gateway"


def gateway_address_file(run_dir: str | Path) -> Path:
    """Return the path of the file `{pid, rest?, metrics?}` (JSON): the URLs at which a running gateway
    serves."""
    return gateway_directory(run_dir) / "address.json"


def bridge_directory(run_dir: str | Path) -> Path:
    """Return the private directory of the bridge's lock and status file."""
    return Path(run_dir) / "bridge"


def bridge_status_file(run_dir: str | Path) -> Path:
    """Return the path of the file (JSON) in which a running bridge writes its state once a second."""
    return bridge_directory(run_dir) / "status.json"


def lock_path(directory: str | Path) -> Path:
    """Return the lock file in a private directory. Hold it before binding anything there."""
    return Path(directory) / "lock"


def kernel_endpoints(run_dir: str | Path) -> KernelEndpoints:
    """Return a kernel's endpoints below a run directory. Raises `SocketPathError`."""
    directory = kernel_directory(run_dir)
    return KernelEndpoints(*(socket_endpoint(directory / name) for name in KernelEndpoints._fields))


def mapi_endpoints(run_dir: str | Path) -> MapiEndpoints:
    """Return a Messaging API's endpoints below a run directory. Raises `SocketPathError`."""
    directory = mapi_directory(run_dir)
    return MapiEndpoints(*(socket_endpoint(directory / name) for name in MapiEndpoints._fields))


def socket_endpoint(path: str | Path) -> str:
    """Return the `ipc://` endpoint of a path. Raises `SocketPathError` if no socket can have it."""
    text = str(path)
    size = len(os.fsencode(text))
    if size > MAX_SOCKET_PATH:
        raise SocketPathError(
            f"socket path {text} has {size} bytes, at most {MAX_SOCKET_PATH} are possible: "
            "set ipc-dir to a directory with a shorter path"
        )
    if "\0" in text:
        raise SocketPathError("a socket path cannot hold a NUL byte")
    return _SCHEME + text


def socket_path(endpoint: str) -> Path | None:
    """Return the path of an `ipc://` endpoint, None for any other transport."""
    return Path(endpoint[len(_SCHEME) :]) if endpoint.startswith(_SCHEME) else None

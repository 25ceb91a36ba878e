"""What a node takes possession of before anything else: directories, their locks, the node key."""

from __future__ import annotations

import grp
from contextlib import ExitStack
from pathlib import Path

from ipc_schema.config.kernel import KernelConfig
from ipc_schema.paths import kernel_directory, lock_path, socket_path
from kernel_proc.ipc.server import Endpoints
from kernel_proc.lock import DirectoryLock, LockedError, private_directory
from kernel_proc.p2p.keys import NodeKey, NodeKeyError, load_or_create_node_key

__all__ = ["StartError", "claim", "node_key"]


class StartError(Exception):
    """The node cannot start: a directory, lock, key, socket or port that its configuration asks for."""


def claim(config: KernelConfig, stack: ExitStack) -> Endpoints:
    """Make and lock the directories, in this order: nothing is touched that another node owns. The locks are
    held until `stack` is closed. Raises `StartError`."""
    data = Path(config.data_dir)
    sockets = kernel_directory(config.ipc_dir)
    group = _group(config.ipc_group)
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.enter_context(DirectoryLock.acquire(data / "kernel.lock", f"the data directory {data}"))
        private_directory(sockets, group)
        stack.enter_context(DirectoryLock.acquire(lock_path(sockets), f"the socket directory {sockets}"))
        # Absolute, because clients that are told the endpoint work in directories of their own.
        events, requests, control = map(_absolute, config.endpoints)
        for endpoint in (events, requests, control):
            path = socket_path(endpoint)
            if path is not None and path.parent != sockets.absolute():
                private_directory(path.parent, group)
    except LockedError as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(f"data-dir: {error.filename or data}: {error.strerror or error}") from error
    return Endpoints(events, requests, control, group=group is not None)


def node_key(config: KernelConfig) -> NodeKey:
    """The configured key, or that of the data directory, made at the first start. Raises `StartError`."""
    try:
        if config.node_key is not None:
            return NodeKey(config.node_key)
        return load_or_create_node_key(Path(config.data_dir) / "nodekey")
    except NodeKeyError as error:
        raise StartError(f"nodekey: {error}") from error
    except OSError as error:
        raise StartError(f"data-dir: {error.filename}: {error.strerror or error}") from error


def _group(name: str | None) -> int | None:
    if name is None or name.isdigit():
        return None if name is None else int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartError(f"ipc-group: there is no group {name!r}") from None


def _absolute(endpoint: str) -> str:
    path = socket_path(endpoint)
    return endpoint if path is None else f"ipc://{path.absolute()}"

"""What a node claims before anything else: directories, their locks, the node key."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from ipc_schema.config.kernel import KernelConfig
from ipc_schema.paths import kernel_directory
from kernel_proc.ipc.server import Endpoints
from kernel_proc.p2p.keys import NodeKey, NodeKeyError, load_or_create_node_key
from logos_process.claim import claim
from logos_process.exits import StartError


def claim_directories(config: KernelConfig, stack: ExitStack) -> Endpoints:
    """Create and lock the node's directories until `stack` is closed. Return the endpoints to bind. Raise
    `StartError`."""
    events, requests, control = claim(
        stack,
        data_dir=Path(config.data_dir),
        lock_name="kernel.lock",
        socket_dir=kernel_directory(config.ipc_dir),
        endpoints=config.endpoints,
        group=config.ipc_group,
    )
    return Endpoints(events, requests, control, group=config.ipc_group is not None)


def node_key(config: KernelConfig) -> NodeKey:
    """Return the configured key, or that of the data directory, created on first start. Raise
    `StartError`."""
    try:
        if config.peers.nodekey is not None:
            return NodeKey(config.peers.nodekey)
        return load_or_create_node_key(Path(config.data_dir) / "nodekey")
    except NodeKeyError as error:
        raise StartError(f"nodekey: {error}") from error
    except OSError as error:
        raise StartError.of(f"data-dir: {error.filename}", error) from error

"""Query control sockets, whose answers never wait behind other work."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from ipc_schema.control import ControlHealthReply
from ipc_schema.errors import IpcError
from ipc_schema.paths import (
    bridge_directory,
    bridge_status_file,
    gateway_address_file,
    gateway_directory,
    lock_path,
    socket_path,
)
from logos_client.control import ControlClient
from logos_client.exceptions import LogosError
from logos_process.lock import holder_of

_POLL: Final = 0.1


class ControlHealth(NamedTuple):
    """Health of one process: the common part, and its additional keys."""

    common: ControlHealthReply
    more: dict[str, Any]


async def ask_health(endpoint: str, timeout: float = 2.0) -> ControlHealth | None:
    """Return the health of the process at a control endpoint.

    None if none answers in time; at once if there is no socket.
    """
    path = socket_path(endpoint)
    if path is not None and not path.exists():
        return None
    try:
        async with asyncio.timeout(timeout):
            async with ControlClient.connect(endpoint, timeout=timeout) as control:
                body = await control.health_details(timeout=timeout)
        common = ControlHealthReply.from_body(body)
    except (LogosError, IpcError, TimeoutError):
        return None
    inner = {*ControlHealthReply.__dataclass_fields__, "detail"}
    return ControlHealth(common, {key: value for key, value in body.items() if key not in inner})


async def wait_ready(
    endpoint: str, *, pid: int | None = None, not_pid: int | None = None
) -> ControlHealthReply:
    """Wait until the process is ready. No timeout: put a deadline around it.

    `pid`: the process expected. `not_pid`: one that is on its way out.
    """
    while True:
        try:
            # Short attempts, repeated: one socket would wait longer and longer between its reconnects.
            async with ControlClient.connect(endpoint, timeout=_POLL * 4) as control:
                while True:
                    health = await control.health(timeout=_POLL * 10)
                    if health.ready and pid in (None, health.pid) and not_pid != health.pid:
                        return health
                    await asyncio.sleep(_POLL)
        except (LogosError, IpcError):
            await asyncio.sleep(_POLL)  # it ended while we asked


def gateway_addresses(run_dir: str | Path) -> tuple[int, dict[str, str]] | None:
    """Return the process id of the running gateway and its URLs by listener; None if there is none."""
    try:
        found = json.loads(gateway_address_file(run_dir).read_text(encoding="utf-8"))
        if holder_of(lock_path(gateway_directory(run_dir))) is None:
            return None  # left behind by a gateway that was killed
        return int(found.pop("pid")), {str(name): str(url) for name, url in found.items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return None  # missing, or being replaced


async def wait_addresses(run_dir: str | Path, pid: int) -> dict[str, str]:
    """Wait until the gateway with this process id listens. Return its URLs by listener."""
    while True:
        found = gateway_addresses(run_dir)
        if found is not None and found[0] == pid:
            return found[1]
        await asyncio.sleep(_POLL)


def bridge_status(run_dir: str | Path) -> dict[str, Any] | None:
    """Return what the running bridge last wrote about itself; None if there is none."""
    try:
        found = json.loads(bridge_status_file(run_dir).read_text(encoding="utf-8"))
        holder = holder_of(lock_path(bridge_directory(run_dir)))
    except (OSError, ValueError):
        return None  # missing, or being replaced
    # A bridge that was killed leaves its file behind; the lock went with it.
    return found if isinstance(found, dict) and holder is not None else None


async def wait_bridge(run_dir: str | Path, pid: int) -> None:
    """Wait until all parts of the bridge with this process id work."""
    while True:
        found = bridge_status(run_dir)
        if found is not None and found.get("pid") == pid and found.get("ready"):
            return
        await asyncio.sleep(_POLL)

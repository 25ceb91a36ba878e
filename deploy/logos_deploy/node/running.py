"""Find the processes of a data directory by their locks, which cannot be stale: the system drops a dead
owner's flock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipc_schema.paths import bridge_directory, gateway_directory, kernel_directory, lock_path, mapi_directory
from logos_deploy.node.conf import SupervisorPaths, access_of
from logos_deploy.node.handles import ProcessHandle
from logos_deploy.node.rpc import SupervisorRpc
from logos_process.lock import holder_of, holds

Role = str
FOREGROUND: Final[Role] = "logos up"
KERNEL: Final[Role] = "kernel"
MAPI: Final[Role] = "mapi"
GATEWAY: Final[Role] = "gateway"
BRIDGE: Final[Role] = "bridge"


@dataclass(frozen=True, slots=True)
class Holder:
    """A living process that holds a lock of the node.

    `pid` is the one that it wrote there, 0 if it wrote none; here it may mean another process (see
    `logos_process.lock`).
    """

    role: Role
    pid: int
    lock: Path

    def handle(self) -> ProcessHandle | None:
        """Return a handle of the process if it provably holds the lock: any other signal might hit an
        unrelated process."""
        try:
            handle = ProcessHandle(self.pid) if self.pid else None
        except (ProcessLookupError, PermissionError):
            return None
        if handle is not None and not holds(self.pid, self.lock):
            handle.close()
            return None
        return handle


def holders(paths: SupervisorPaths, run_dir: Path, mapi_run_dir: Path) -> list[Holder]:
    """Return the processes of a node, the supervising one first; empty if none runs."""
    locks = (
        (FOREGROUND, paths.lock),
        (KERNEL, lock_path(kernel_directory(run_dir))),
        (MAPI, lock_path(mapi_directory(mapi_run_dir))),
        (GATEWAY, lock_path(gateway_directory(run_dir))),
        (BRIDGE, lock_path(bridge_directory(run_dir))),
    )
    return [Holder(role, pid, path) for role, path in locks if (pid := holder_of(path)) is not None]


def supervisor_rpc(paths: SupervisorPaths) -> SupervisorRpc | None:
    """Return the supervisord that the data directory's file is for, running or not; None without a file."""
    try:
        access = access_of(paths.conf.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return SupervisorRpc(*access) if access else None


def mapi_is_supervised(paths: SupervisorPaths) -> bool:
    """Return whether a `logos up` with a MAPI runs there."""
    try:
        if holder_of(paths.lock) is None:
            return False
        return "[program:mapi]" in paths.conf.read_text(encoding="utf-8")
    except OSError:
        return False  # another user's, or being written

"""Check what a node's configuration requires of this host and installation, before anything is started."""

from __future__ import annotations

import importlib.util
import os
import resource
from pathlib import Path
from typing import Any

from ipc_schema.config.options import ConfigError, Resolved
from logos_deploy.node.plan import NodePlan
from logos_process.descriptors import LEAST, too_few_files
from logos_process.directories import group_number
from logos_process.exits import StartError
from logos_process.extras import install_command


def check_host(plan: NodePlan) -> None:
    """Refuse what the processes would refuse at start: too few open files, a directory that is not ours, an
    unknown group, a missing driver of a database or of NATS.

    Raises `ConfigError` naming the option.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < LEAST:
        raise ConfigError("RLIMIT_NOFILE", too_few_files(hard))
    for resolved in (plan.kernel.resolved, *((plan.mapi.resolved,) if plan.mapi is not None else ())):
        _check_group(resolved)
        for name in ("data-dir", "ipc-dir"):
            path = resolved.value(name)
            if path is not None:
                _check_directory(resolved, name, Path(str(path)).absolute())
    services = plan.kernel.services
    on_server = services.store and not services.store_message_db_url.lower().startswith("sqlite:")
    if on_server and importlib.util.find_spec("psycopg") is None:
        raise plan.kernel.resolved.refuse(
            "store-message-db-url", f"the PostgreSQL driver is missing: {install_command('postgres')}"
        )
    if plan.bridge is not None and importlib.util.find_spec("nats") is None:
        raise plan.bridge.resolved.refuse(
            "nats-url", f"the NATS client is missing: {install_command('bridge')}"
        )


def _check_group(resolved: Resolved[Any]) -> None:
    group: str | None = resolved.options.process.ipc_group
    try:
        group_number(group)
    except StartError:
        raise resolved.refuse("ipc-group", f"there is no group {group!r} on this host") from None


def _check_directory(resolved: Resolved[Any], name: str, path: Path) -> None:
    """Check that an existing directory is ours, or that a missing one can be created."""
    nearest = next(above for above in (path, *path.parents) if above.exists())
    if not nearest.is_dir():
        raise resolved.refuse(name, f"{nearest} is not a directory")
    owner = nearest.stat().st_uid
    if nearest == path and owner != os.geteuid():
        raise resolved.refuse(name, f"{path} belongs to uid {owner}, this process is uid {os.geteuid()}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise resolved.refuse(name, f"uid {os.geteuid()} may not write in {nearest}")

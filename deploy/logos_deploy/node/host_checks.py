"""Check what a node's configuration needs of this host and installation, before anything is started."""

from __future__ import annotations

import grp
import importlib.util

from ipc_schema.config.options import Resolved
from logos_deploy.node.plan import NodePlan

__all__ = ["check_host"]


def check_host(plan: NodePlan) -> None:
    """Refuse what the processes would refuse at start: an unknown group, a missing database driver.

    Raises `ConfigError` naming the option.
    """
    for resolved in (plan.kernel.resolved, *((plan.mapi.resolved,) if plan.mapi is not None else ())):
        _check_group(resolved)
    services = plan.kernel.services
    on_server = services.store and not services.store_database.lower().startswith("sqlite:")
    if on_server and importlib.util.find_spec("psycopg") is None:
        raise plan.kernel.resolved.refuse(
            "store-message-db-url", "the PostgreSQL driver is missing: pip install 'logos-mapi[postgres]'"
        )


def _check_group(resolved: Resolved) -> None:
    group: str | None = resolved["ipc-group"]
    if group is None or group.isdigit():
        return
    try:
        grp.getgrnam(group)
    except KeyError:
        raise resolved.refuse("ipc-group", f"there is no group {group!r} on this host") from None

"""The `logos` command, which runs and inspects a supervised node, sends and listens; and `launch`, which runs
a node for one app, without a supervisor.

Processes are started by their entry points and addressed over their sockets; their code is not imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logos_deploy.launcher import (
        ConfigError,
        DataDirInUseError,
        LaunchError,
        Mode,
        Node,
        launch,
    )

__all__ = [
    "ConfigError",
    "DataDirInUseError",
    "LaunchError",
    "Mode",
    "Node",
    "launch",
]


def __getattr__(name: str) -> Any:
    # Imported lazily: the small programs of this package start without the launcher.
    if name in __all__:
        from logos_deploy import launcher

        return getattr(launcher, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

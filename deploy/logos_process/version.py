"""The version of this distribution, as reported in hello, identify, node.info and `--version`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


@cache
def version() -> str:
    """Return the version of the installed distribution; `0+unknown` when run from a bare checkout."""
    try:
        return installed("logos-mapi")
    except PackageNotFoundError:
        return "0+unknown"

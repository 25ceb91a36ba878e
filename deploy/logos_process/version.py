"""The version of this distribution, as it stands in hello, identify, node.info and `--version`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

__all__ = ["version"]


@cache
def version() -> str:
    """Version of the installed distribution; `0+unknown` when it runs from a bare checkout."""
    try:
        return installed("logos-mapi")
    except PackageNotFoundError:
        return "0+unknown"

"""What an optional part of the distribution needs."""

from __future__ import annotations

import shlex
from importlib.metadata import PackageNotFoundError, requires


def install_command(extra: str) -> str:
    """Return the command that installs the requirements of an extra of `logos-mapi`.

    They are named themselves: where the rest came from a lock without its dependencies, `logos-mapi[extra]`
    would have pip resolve those too, and build what no node loads.
    """
    try:
        declared = requires("logos-mapi") or []
    except PackageNotFoundError:  # run from a source tree
        return f"pip install 'logos-mapi[{extra}]'"
    ending = f"extra == '{extra}'"
    needed = [line.partition(";")[0].strip() for line in declared if line.replace('"', "'").endswith(ending)]
    return f"pip install {shlex.join(needed)}"

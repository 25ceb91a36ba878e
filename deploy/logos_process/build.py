"""Which build of a program runs: pure Python, or with the modules of its message path compiled."""

from __future__ import annotations

from types import ModuleType


def build_of(module: ModuleType) -> str:
    """Return `compiled` if the module is an extension module, `pure` if it is Python."""
    return "pure" if str(module.__file__).endswith((".py", ".pyc")) else "compiled"

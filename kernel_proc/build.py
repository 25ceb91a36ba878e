"""Which build of the kernel runs: pure Python, or with its message path compiled."""

from __future__ import annotations

from typing import Final

from kernel_proc.relay import intake

BUILD: Final = "pure" if intake.__file__.endswith((".py", ".pyc")) else "compiled"
"""`compiled`: the modules that every relayed message passes are extension modules."""

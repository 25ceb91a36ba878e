"""Which build of the kernel runs: pure Python, or with its message path compiled."""

from __future__ import annotations

from typing import Final

from kernel_proc.relay import intake
from logos_process.build import build_of

BUILD: Final = build_of(intake)
"""`compiled`: the modules that every relayed message passes are extension modules."""

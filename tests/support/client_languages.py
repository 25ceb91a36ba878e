"""Tests that run once for each language with a client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pytest
from _pytest.mark import ParameterSet

COMPILED: Final = frozenset({"go", "cpp", "rust"})


def languages(names: Iterable[str]) -> list[ParameterSet]:
    """Return these as parameters; those that need a compiler belong to `make test-clients`."""
    return [
        pytest.param(name, marks=pytest.mark.compiled_client if name in COMPILED else ()) for name in names
    ]

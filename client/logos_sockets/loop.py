"""What sockets need of an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Handle(Protocol):
    """A scheduled call."""

    def cancel(self) -> object:
        """Cancel the call."""


class Loop(Protocol):
    """The part of an event loop used here; asyncio's loops (uvloop's too) have it."""

    def call_soon(self, callback: Callable[[], object], /) -> Handle:
        """Call in the next turn."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Handle:
        """Call after so many seconds."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object:
        """Call whenever the descriptor is readable."""

    def remove_reader(self, fd: int, /) -> object:
        """Undo `add_reader`."""

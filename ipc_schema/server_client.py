"""What a server keeps of each client.

Servers add to it by subclasses, which a compiled class, as those of `server` are, has in its own group only.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipc_schema.server import Call

__all__ = ["Client"]


class Client:
    """A client that has said hello, and its requests in flight: those that want a reply, and the others.

    Each kind has a bound of its own. A client counts its requests by their replies; an acknowledgement
    without one must not take a place from them.
    """

    __slots__ = ("in_flight", "name", "ordered", "unanswered")

    def __init__(self, name: str) -> None:
        self.name = name
        self.in_flight = 0
        self.unanswered = 0
        self.ordered: deque[Call] = deque()

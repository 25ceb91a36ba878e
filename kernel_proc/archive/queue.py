"""What waits to be stored: bounded in messages and bytes, in order of arrival. Pure.

A group that was taken counts as waiting until it is settled, so the bounds hold for the memory that is really
used, however long the database takes.
"""

from __future__ import annotations

from collections import deque

from kernel_proc.archive.rows import Offer

__all__ = ["OfferQueue"]


class OfferQueue:
    """Offers, first in, first out."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._waiting: deque[Offer] = deque()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self.accepted = 0
        """Offers ever let in."""
        self.settled = 0
        """Offers ever done with, stored or not."""
        self.bytes = 0
        """Bytes of all that is let in and not settled."""

    def __len__(self) -> int:
        """Offers that are not taken yet."""
        return len(self._waiting)

    @property
    def messages(self) -> int:
        """Offers that are let in and not settled."""
        return self.accepted - self.settled

    def add(self, offer: Offer) -> bool:
        """Let an offer in, if there is room."""
        if self.messages >= self._max_messages or self.bytes + offer.cost > self._max_bytes:
            return False
        self._waiting.append(offer)
        self.accepted += 1
        self.bytes += offer.cost
        return True

    def take(self, messages: int, size: int) -> list[Offer]:
        """The oldest: at most `messages`, and of `size` bytes or the one that reaches it."""
        group: list[Offer] = []
        while self._waiting and len(group) < messages and size > 0:
            offer = self._waiting.popleft()
            size -= offer.cost
            group.append(offer)
        return group

    def settle(self, group: list[Offer]) -> None:
        """The group is done with."""
        self.settled += len(group)
        self.bytes -= sum(offer.cost for offer in group)

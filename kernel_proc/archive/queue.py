"""Messages waiting to be stored, bounded in number and bytes, in order of arrival. Pure.

A group that was taken counts until it is settled, so that the limits apply to the memory in use, however slow
the database is.
"""

from __future__ import annotations

from collections import deque

from kernel_proc.archive.rows import Offer


class OfferQueue:
    """Offers, first in, first out."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._waiting: deque[Offer] = deque()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self.accepted = 0
        """Total offers accepted."""
        self.settled = 0
        """Total offers settled, stored or not."""
        self.bytes = 0
        """Bytes of all unsettled offers."""

    def __len__(self) -> int:
        """Number of offers not taken yet."""
        return len(self._waiting)

    @property
    def messages(self) -> int:
        """Number of unsettled offers."""
        return self.accepted - self.settled

    @property
    def half_full(self) -> bool:
        """Whether the unsettled offers take half of the room."""
        return 2 * self.messages >= self._max_messages or 2 * self.bytes >= self._max_bytes

    def add(self, offer: Offer) -> bool:
        """Add an offer. Return False if there is no room."""
        if self.messages >= self._max_messages or self.bytes + offer.cost > self._max_bytes:
            return False
        self._waiting.append(offer)
        self.accepted += 1
        self.bytes += offer.cost
        return True

    def take(self, messages: int, size: int) -> list[Offer]:
        """Take the oldest offers: at most `messages`, up to and including the one that reaches `size`
        bytes."""
        group: list[Offer] = []
        while self._waiting and len(group) < messages and size > 0:
            offer = self._waiting.popleft()
            size -= offer.cost
            group.append(offer)
        return group

    def put_back(self, group: list[Offer]) -> None:
        """Return a group that was taken to the front."""
        self._waiting.extendleft(reversed(group))

    def settle(self, group: list[Offer]) -> None:
        self.settled += len(group)
        self.bytes -= sum(offer.cost for offer in group)

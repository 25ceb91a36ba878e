"""Combine the answers of several peers into a verdict on our reachability. Pure."""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final

from kernel_proc.reachability.autonat_codec import DialStatus

# As nwaku sets nim-libp2p's AutonatService: the last three answers, of which 0.7 must agree.
ANSWERS: Final = 3
CONFIDENCE: Final = 0.7


class Reachability(StrEnum):
    """As AutoNAT finds it."""

    UNKNOWN = "unknown"
    PUBLIC = "public"
    PRIVATE = "private"


class ReachabilityVerdict:
    """Keep the last answers. A single peer can be wrong, or lie."""

    def __init__(self) -> None:
        self._answers: deque[Reachability] = deque(maxlen=ANSWERS)

    def take(self, status: DialStatus) -> bool:
        """Take an answer; one that says nothing about us is ignored. Return whether the verdict changed."""
        if status not in (DialStatus.OK, DialStatus.DIAL_ERROR):
            return False
        before = self.current
        self._answers.append(Reachability.PUBLIC if status is DialStatus.OK else Reachability.PRIVATE)
        return self.current is not before

    def forget(self) -> None:
        """Discard the answers: our addresses have changed."""
        self._answers.clear()

    def confidence(self, reachability: Reachability) -> float:
        """Return the share of the answers that say so; those still missing count against it."""
        return self._answers.count(reachability) / ANSWERS

    @property
    def current(self) -> Reachability:
        for one in (Reachability.PUBLIC, Reachability.PRIVATE):
            if self.confidence(one) >= CONFIDENCE:
                return one
        return Reachability.UNKNOWN

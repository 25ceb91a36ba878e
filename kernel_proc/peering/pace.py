"""How hard the sources work: much for a node that is short of peers, little for one that has what it wants or
that has looked in vain for long. A small network has no more than it has."""

from __future__ import annotations

from typing import Final

from ipc_schema.backoff import retry_delay

__all__ = ["ExchangePace", "WalkPace"]

WALK_ALONE: Final = 1.0
"""Seconds between random walks of discv5 while no peer is connected; while some are, but more are wanted
(nwaku); when all is well."""
WALK_SHORT: Final = 5.0
WALK_LONG: Final = 60.0
WALKS_IN_VAIN: Final = 15.0
"""Seconds without a new peer after which the pause doubles."""

ASK_ALONE: Final = 1.0
"""Seconds until a peer is asked for peers again while there was none to ask; after an answer with a new
peer in it; and at most, where the pause doubles with each answer that had not."""
ASK_SHORT: Final = 5.0
ASK_LONG: Final = 240.0


class WalkPace:
    """The pause between two random walks of discv5, in seconds."""

    def __init__(self, now: float) -> None:
        self._arrived = 0
        self._news = now

    def pause(self, now: float, *, arrived: int, connected: bool, short: bool) -> float:
        """`arrived`: how many peers the store has ever taken in."""
        if arrived != self._arrived:
            self._arrived, self._news = arrived, now
        if not connected:
            return WALK_ALONE
        if not short:
            return WALK_LONG
        in_vain = int((now - self._news) / WALKS_IN_VAIN)
        return retry_delay(in_vain + 1, WALK_SHORT, 2.0, WALK_LONG)


class ExchangePace:
    """The pause until peers are asked for peers again, in seconds."""

    def __init__(self) -> None:
        self._pause = ASK_SHORT / 2

    def answered(self, *, news: bool) -> float:
        """Note an answer, with a peer that is new to us or without; no answer counts as one without."""
        self._pause = ASK_SHORT if news else min(ASK_LONG, 2 * self._pause)
        return self._pause

    def no_peer_to_ask(self) -> float:
        """Note that no connected peer supports peer exchange."""
        self._pause = ASK_SHORT / 2
        return ASK_ALONE

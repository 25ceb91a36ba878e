"""How often the sources work: often while the node is short of peers, rarely once it has enough or has
searched in vain for long. A small network has only so many peers."""

from __future__ import annotations

from typing import Final

from ipc_schema.backoff import retry_delay

WALK_ALONE: Final = 1.0
"""Seconds between random walks of discv5: without connected peers; with some, but too few (nwaku); with
enough."""
WALK_SHORT: Final = 5.0
WALK_LONG: Final = 60.0
WALKS_IN_VAIN: Final = 15.0
"""Seconds without a new peer after which the pause doubles."""

ASK_ALONE: Final = 1.0
"""Seconds between peer exchange requests: without a peer to ask; after a response with a new peer; and the
maximum, as the pause doubles with each response without one."""
ASK_SHORT: Final = 5.0
ASK_LONG: Final = 240.0


class WalkPace:
    """The pause between random walks of discv5, in seconds."""

    def __init__(self, now: float) -> None:
        self._arrived = 0
        self._news = now

    def pause(self, now: float, *, arrived: int, connected: bool, short: bool) -> float:
        """Return the pause. `arrived` is the number of peers the store has ever added."""
        if arrived != self._arrived:
            self._arrived, self._news = arrived, now
        if not connected:
            return WALK_ALONE
        if not short:
            return WALK_LONG
        in_vain = int((now - self._news) / WALKS_IN_VAIN)
        return retry_delay(in_vain + 1, WALK_SHORT, 2.0, WALK_LONG)


class ExchangePace:
    """The pause between peer exchange requests, in seconds."""

    def __init__(self) -> None:
        self._pause = ASK_SHORT / 2

    def answered(self, *, news: bool) -> float:
        """Record a response, with or without a new peer; a failure counts as one without."""
        self._pause = ASK_SHORT if news else min(ASK_LONG, 2 * self._pause)
        return self._pause

    def no_peer_to_ask(self) -> float:
        """Record that no connected peer supports peer exchange."""
        self._pause = ASK_SHORT / 2
        return ASK_ALONE

"""Track the messages requested with IWANT: ask for each only once at a time, and detect broken promises."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


class Promises:
    """Ids that were requested and have not arrived.

    One random id of each IWANT is a *promise*: if no peer has delivered that message `followup` seconds
    later, the peer that advertised it has broken its promise (gossipsub-v1.1, P7). Every requested id is also
    kept for `retry` seconds, so that an IHAVE of a second peer does not fetch it twice.
    """

    def __init__(self, followup: float, retry: float) -> None:
        self._followup = followup
        self._retry = retry
        self._promises: dict[bytes, dict[str, float]] = {}
        self._asked: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def is_asked(self, message_id: bytes, now: float) -> bool:
        """Return whether the message was requested within the last `retry` seconds."""
        until = self._asked.get(message_id)
        return until is not None and now < until

    def ask(self, peer: str, ids: Sequence[bytes], now: float, rng: Random) -> None:
        """Record that `ids` (not empty) were requested from `peer`."""
        until = now + self._retry
        for message_id in ids:
            self._asked[message_id] = until
        self._promises.setdefault(rng.choice(ids), {}).setdefault(peer, now + self._followup)

    def arrived(self, message_id: bytes) -> None:
        """Record the arrival of a message from any peer, valid or not."""
        if self._asked:
            self._asked.pop(message_id, None)
        if self._promises:
            self._promises.pop(message_id, None)

    def forget_peer(self, peer: str) -> None:
        for message_id in [i for i, peers in self._promises.items() if peer in peers]:
            del self._promises[message_id][peer]
            if not self._promises[message_id]:
                del self._promises[message_id]

    def broken(self, now: float) -> dict[str, int]:
        """Return the number of broken promises by peer since the last call."""
        self._asked = {i: until for i, until in self._asked.items() if now < until}
        count: dict[str, int] = {}
        for message_id, peers in list(self._promises.items()):
            for peer, until in list(peers.items()):
                if now >= until:
                    del peers[peer]
                    count[peer] = count.get(peer, 0) + 1
            if not peers:
                del self._promises[message_id]
        return count

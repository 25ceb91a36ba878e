"""Peer exchange (GossipSub v1.1): peers to suggest when we refuse a GRAFT or leave a topic. Pure.

What others suggest to us goes to the listener (`RelayService.on_peer_exchange`): the relay does not know
which peers can be dialled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from kernel_proc.relay.rpc import PeerInfo
from kernel_proc.relay.state import Peer

__all__ = ["peers_to_offer"]


def peers_to_offer(
    pruned: Peer, subscribers: Iterable[Peer], score: Callable[[Peer], float], count: int, rng: Random
) -> tuple[PeerInfo, ...]:
    """Draw up to `count` other subscribers of the topic with a non-negative score and a signed record,
    without which they could not be dialled safely. A `pruned` peer with a negative score gets none: it must
    find its victims without us."""
    if score(pruned) < 0:
        return ()
    good = [
        peer.info for peer in subscribers if peer.info is not None and peer is not pruned and score(peer) >= 0
    ]
    return tuple(rng.sample(good, min(count, len(good))))

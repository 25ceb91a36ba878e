"""Peer exchange (GossipSub v1.1): whom we name to a peer for whom our mesh has no place. Pure.

What others name to us is handed to whoever listens (`RelayService.on_peer_exchange`): the relay does not know
who can be dialled.
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
    """Up to `count` other subscribers of the topic, by lot: those that have nothing against them, and whose
    signed record we have, without which nobody could or should dial them. None for a `pruned` peer with a
    negative score: it is to find its victims without us."""
    if score(pruned) < 0:
        return ()
    good = [
        peer.info for peer in subscribers if peer.info is not None and peer is not pruned and score(peer) >= 0
    ]
    return tuple(rng.sample(good, min(count, len(good))))

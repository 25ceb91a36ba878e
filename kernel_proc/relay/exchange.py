"""Peer exchange (GossipSub v1.1): peers to suggest when we refuse a GRAFT or leave a topic. Pure.

Suggestions from other peers go to `RelayService.on_peer_exchange`: the relay does not know which peers can be
dialled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from kernel_proc.relay.rpc import PeerInfo
from kernel_proc.relay.state import Peer


def peers_to_offer(
    pruned: Peer, subscribers: Iterable[Peer], score: Callable[[Peer], float], count: int, rng: Random
) -> tuple[PeerInfo, ...]:
    """Choose up to `count` other subscribers of the topic that have a non-negative score and a signed peer
    record.

    Without a signed record a peer cannot be dialled safely. A `pruned` peer with a negative score gets no
    suggestions: we do not help it find its next victims (gossipsub-v1.1, Peer Exchange).
    """
    if score(pruned) < 0:
        return ()
    good = [
        peer.info for peer in subscribers if peer.info is not None and peer is not pruned and score(peer) >= 0
    ]
    return tuple(rng.sample(good, min(count, len(good))))

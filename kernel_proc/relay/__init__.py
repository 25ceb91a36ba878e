"""Waku relay (11/WAKU2-RELAY) on our own GossipSub v1.1 router.

The sans-I/O core (`router`, with `mesh`, `gossip`, `scores`, `cache`, `seen`, `backoff`, `promises`) makes
the decisions; the trio shell (`service`, `link`, `intake`) moves bytes; `rpc` and `framing` are the wire
format. Opportunistic grafting is not implemented: nwaku disables it (threshold 0).
"""

from __future__ import annotations

from kernel_proc.relay.messages import (
    PublishResult,
    RelayBadTopic,
    RelayError,
    RelayMessage,
    RelayMessageInvalid,
    RelayMessageTooLarge,
)
from kernel_proc.relay.params import RELAY_PROTOCOL, GossipParams, QueueParams, RelayParams, ScoreParams
from kernel_proc.relay.rpc import PeerInfo
from kernel_proc.relay.scores import ScoreParts
from kernel_proc.relay.service import RelayService
from kernel_proc.relay.state import PxOffer
from kernel_proc.relay.validation import SignedShard, Validator, Verdict

__all__ = [
    "RELAY_PROTOCOL",
    "GossipParams",
    "PeerInfo",
    "PublishResult",
    "PxOffer",
    "QueueParams",
    "RelayBadTopic",
    "RelayError",
    "RelayMessage",
    "RelayMessageInvalid",
    "RelayMessageTooLarge",
    "RelayParams",
    "RelayService",
    "ScoreParams",
    "ScoreParts",
    "SignedShard",
    "Validator",
    "Verdict",
]

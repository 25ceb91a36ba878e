"""discv5 v5.1 (ethereum/devp2p) as Waku uses it (33/WAKU2-DISCV5): nodes find each other's records over UDP.

A pure core under a thin shell, from the wire up:

    packets    headers, masking                  crypto    key agreement, identity proof, encryption
    messages   PING … TALKRESP                   sessions  keys shared with a contact, challenges
    channel    datagrams ↔ messages: handshakes, sessions, rates
    dialogue   requests ↔ responses: time-outs, records verified, what we answer
    table, lookup, votes                         the state that decides whom to ask, and what we are seen as
    engine     all of it, driven by (datagram or time, now)
    service    UDP sockets under trio; `wanted` picks what is worth dialling

The protocol id is a parameter (`Params.protocol_id`): `d5waku`, or `discv5` among Ethereum's nodes.
"""

from kernel_proc.discovery.discv5.dialogue import MAX_TALK, TalkHandler, TooManyRequestsError
from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.service import Discv5Error, Discv5Service
from kernel_proc.discovery.discv5.wanted import waku_filter

__all__ = [
    "MAX_TALK",
    "Discv5Error",
    "Discv5Service",
    "NodeContact",
    "Params",
    "TalkHandler",
    "TooManyRequestsError",
    "UdpEndpoint",
    "waku_filter",
]

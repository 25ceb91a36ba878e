"""discv5 v5.1 (ethereum/devp2p) as used by Waku (33/WAKU2-DISCV5): node discovery over UDP.

A sans-I/O core under a thin shell, from the wire up:

    packets    headers, masking                  crypto    key agreement, identity proof, encryption
    messages   PING … TALKRESP                   sessions  session keys per contact, challenges
    channel    datagrams ↔ messages: handshakes, sessions, rates
    dialogue   requests ↔ responses: timeouts, record verification, our responses
    table, lookup, votes                         which nodes to ask, and our observed endpoint
    engine     all of it, driven by (datagram or time, now)
    service    UDP sockets under trio; `wanted` selects nodes worth dialling

The protocol id is configurable (`Params.protocol_id`): `d5waku`, or `discv5` in Ethereum's network.
"""

"""Waku relay (11/WAKU2-RELAY) on our own GossipSub v1.1 router.

The sans-I/O core (`router`, with `mesh`, `gossip`, `scores`, `cache`, `seen`, `backoff`, `promises`) makes
the decisions; the trio shell (`service`, `link`, `intake`) moves bytes; `rpc` and `framing` are the wire
format. Opportunistic grafting is not implemented: nwaku disables it (threshold 0).
"""

"""Peer discovery and peer management, wired together.

    discv5, DNS lists, peer exchange, entry nodes  →  `sources`  →  peer store  →  peer manager  →  dials
    bound, observed, mounted, joined               →  `own_record`  →  discv5, identify, peer exchange

`pace` is how often the sources work, `exchange` asks peers for peers, and `service` ties everything together.
"""

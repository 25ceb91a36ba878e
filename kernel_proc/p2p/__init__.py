"""The node's libp2p host. The only room that imports the library, and only a small part of it.

`api` is the interface for the rest of the kernel; it imports nothing. `host` implements it with `inbound` and
`outbound` (a connection from accept or dial to its end), `connections` (live connections and listeners),
`keepalive`, `introduction` (identify) and `dispatch` (inbound streams to handlers). Below them, from the wire
up: `transport` (TCP, WebSocket), `noise` (the library's handshake, our transport phase), `multistream`,
`upgrade`, `yamux` and `mplex` on `muxer` and its writing half, `output`, `stream`, `identify`, `peer_record`,
`ping`. Besides: `keys`, `addresses`, `limits`, `counters` and `admission`. `_libp2p` is the single import
point of the library and explains why its own network layer is not used.
"""

"""The node's libp2p: the only room that imports the library, and little of it.

`api` is what the rest of the kernel sees; it imports nothing. `host` implements it out of `inbound` and
`outbound` (a connection from accept or dial to its end), `connections` (the live ones and their listeners),
`keepalive`, `introduction` (identify at work) and `dispatch` (inbound streams to handlers). Below them, from
the wire up: `transport` (TCP, WebSocket), `noise` (the library's handshake, our transport phase),
`multistream`, `upgrade`, `yamux` and `mplex` on `muxer`, `stream`, `identify`, `peer_record`, `ping`. Beside
them `keys`, `addresses`, `limits`, `counters` and `admission` (who may connect). `_libp2p` is the one door to
the library and says why its own network layer stays outside.
"""

"""The node's libp2p: the only room that imports the library, and little of it.

`api` is what the rest of the kernel sees; it imports nothing. `host` implements it. Below the host, from the
wire up: `transport` (TCP, WebSocket), `noise` (the library's handshake, our transport phase), `multistream`,
`yamux` and `mplex` on `muxer`, `stream`, `dispatch` (inbound streams to handlers), `identify`, `ping`. Beside
it `keys`, `addresses`, `limits` and `admission` (who may connect). `_libp2p` is the one door to the library
and says why its own network layer stays outside.
"""

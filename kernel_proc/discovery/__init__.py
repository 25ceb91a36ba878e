"""Peer discovery: node records (ENR), discv5, and DNS lists.

`enr` decodes and signs node records, `enr_values` holds the Waku-specific values in them, `enr_identity` the
cryptography of both, `enr_local` keeps our own record current, `rlp` is their encoding. `discv5` is the UDP
protocol. Nothing here imports libp2p or knows about connections: discovered nodes are handed to callbacks, as
records.
"""

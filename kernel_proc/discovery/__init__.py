"""How the node finds peers: node records (ENR), discv5.

`enr` reads and writes node records, `enr_values` the values that Waku puts into them, `enr_identity` is the
cryptography under both, `enr_local` keeps our own record current, `rlp` is their encoding. `discv5` is the
protocol over UDP. Nothing here imports libp2p or knows connections: what is found is given to whoever asked,
as records.
"""

"""How the node finds its peers and keeps them: the peer manager and all that feeds it, wired to each other.

    discv5, DNS lists, peer exchange, entry nodes  →  `sources`  →  peer store  →  peer manager  →  dials
    what is bound, observed, mounted and joined    →  `own_record`  →  discv5, identify, peer exchange

`needs` is what the manager asks of the rest of the node, `pace` how hard the sources work, `exchange` who
asks peers for peers, and `service` the whole.
"""

from kernel_proc.peering.service import Peering
from kernel_proc.peering.settings import PeeringError

__all__ = ["Peering", "PeeringError"]

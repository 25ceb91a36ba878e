"""A kernel that treats its relay peers as nim-libp2p does (nwaku): `python -m tests.chaos.nim_kernel …`.

A peer that disconnects, or one of whose relay streams ends, is in a back-off of 60 s for every topic, without
a PRUNE. A GRAFT inside it is answered by PRUNE(60) and counts against the peer's behaviour, and a peer with a
negative score is pruned at the next heartbeat (facts seen at a live nwaku; `tests/support/nim_mesh.py` is the
same as a model).
"""

from __future__ import annotations

import sys
from typing import Final

from kernel_proc.__main__ import main
from kernel_proc.relay.router import Router

BACKOFF: Final = 60.0

_remove_peer = Router.remove_peer


def _silent_backoff(router: Router, peer_id: str, now: float) -> None:
    state = router._s
    for name, topic in state.topics.items():
        state.backoffs.set((name, peer_id), now + BACKOFF)
        peer = topic.mesh.get(peer_id)
        if peer is not None:
            state.ungraft(peer, topic)


def _removed(self: Router, peer_id: str, now: float) -> None:
    _silent_backoff(self, peer_id, now)
    _remove_peer(self, peer_id, now)


Router.remove_peer = _removed  # type: ignore[method-assign]
Router.stream_lost = _silent_backoff  # type: ignore[method-assign, assignment]

if __name__ == "__main__":
    sys.exit(main())

"""Our node in processes of its own, as the interoperability tests drive it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.interop.relay_peer import RelayPeer

REPOSITORY = Path(__file__).parents[2]


class RelayHostPeer(RelayPeer):
    """Host, relay and metadata of the kernel, without its IPC (`relay_host.py`); re-dials `static` peers.
    With `degree` its mesh has that many peers, and others are suggested to the peers it refuses.
    """

    def __init__(
        self,
        *,
        static: Sequence[str] = (),
        tcp_port: int = 0,
        ws_port: int = 0,
        cluster: int = 42,
        seed: bytes | None = None,
        degree: int | None = None,
        deadline: float = 30.0,
    ) -> None:
        command = [sys.executable, "-m", "tests.interop.relay_host", "--cluster", str(cluster)]
        command += ["--tcp-port", str(tcp_port), "--ws-port", str(ws_port)]
        if seed is not None:
            command += ["--seed", seed.hex()]
        if degree is not None:
            command += ["--degree", str(degree)]
        if static:
            command += ["--static", *static]
        super().__init__("relay host", command, cwd=REPOSITORY, deadline=deadline)

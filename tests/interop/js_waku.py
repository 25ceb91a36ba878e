"""A js-waku relay node on js-libp2p, in a Node.js process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.interop.relay_peer import RelayPeer
from tests.support.certificates import Certificates

JS_FOLDER = Path(__file__).parent / "js"


class JsWakuPeer(RelayPeer):
    """One js-waku node. `transports` of tcp, ws; `muxers` of yamux, mplex, in order of preference.

    `seed` (32 bytes) and the ports make a restarted node the same peer at the same address. With `exchange`
    it names others in its PRUNEs and follows those named to it; `degree` is the size of its mesh. With
    `certificates` its WebSockets are secure.
    """

    def __init__(
        self,
        *,
        transports: Sequence[str] = ("tcp", "ws"),
        muxers: Sequence[str] = ("yamux", "mplex"),
        cluster: int = 42,
        shards: Sequence[int] = (0,),
        tcp_port: int = 0,
        ws_port: int = 0,
        seed: bytes | None = None,
        exchange: bool = False,
        degree: int | None = None,
        certificates: Certificates | None = None,
        deadline: float = 30.0,
    ) -> None:
        node = shutil.which("node")
        if node is None:
            raise FileNotFoundError("there is no `node` executable")
        command = [node, "--import", "./polyfill.mjs", "relay_peer.mjs"]
        command += ["--transports", ",".join(transports), "--muxers", ",".join(muxers)]
        command += ["--tcp-port", str(tcp_port), "--ws-port", str(ws_port)]
        command += ["--cluster", str(cluster), "--shards", ",".join(map(str, shards))]
        if seed is not None:
            command += ["--seed", seed.hex()]
        if exchange:
            command += ["--px"]
        if degree is not None:
            command += ["--degree", str(degree)]
        if certificates is not None:
            command += ["--tls-key", str(certificates.key), "--tls-cert", str(certificates.chain)]
        super().__init__("js-waku", command, cwd=JS_FOLDER, deadline=deadline)

"""A node of @chainsafe/discv5 in a Node.js process of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import trio

from tests.interop.json_lines import JsonLinesProcess

FOLDER = Path(__file__).parent


class JsNode(JsonLinesProcess):
    """One node; `discv5_node.mjs` lists the commands. `port` and `number` make a restarted node the same."""

    def __init__(self, *, protocol_id: str, number: int, port: int = 0, seq: int = 1) -> None:
        node = shutil.which("node")
        if node is None:
            raise FileNotFoundError("there is no `node` executable")
        command = [node, "--import", "./polyfill.mjs", "--import", "./protocol_id.mjs", "discv5_node.mjs"]
        command += ["--seed", f"{number:02x}" * 32, "--port", str(port), "--seq", str(seq)]
        environment = {**os.environ, "DISCV5_PROTOCOL_ID": protocol_id}
        super().__init__("chainsafe discv5", command, cwd=FOLDER, env=environment)
        try:
            ready = self.wait_event("ready", deadline=30)
        except BaseException:
            self.kill()
            raise
        self.enr: str = ready["enr"]
        self.node_id = bytes.fromhex(ready["nodeId"])

    async def ask(self, cmd: str, **arguments: Any) -> Any:
        """`request` without holding up the loop."""
        return await trio.to_thread.run_sync(lambda: self.request(cmd, **arguments))

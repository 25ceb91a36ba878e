"""An app that brings its own node: own_node.py <data directory> [preset].

Kernel and Messaging API run as child processes and end with the app. Without a preset it is a local network
on loopback.
"""

from __future__ import annotations

import asyncio
import sys

from logos_client import MessageReceived
from logos_deploy import launch

TOPIC = "/own-node/1/notes/plain"


async def main(data_dir: str, preset: str = "") -> None:
    overrides = {} if preset else {"tcp-port": 0}
    async with launch(preset, overrides=overrides, data_dir=data_dir, name="notes") as node:
        print("node", (await node.client.node_info(["MyPeerId"]))["MyPeerId"])
        await node.client.subscribe(TOPIC)
        await node.client.send(TOPIC, b"a note to myself")
        async for event in node.client:
            if isinstance(event, MessageReceived):
                print(event.payload.decode())
                break


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

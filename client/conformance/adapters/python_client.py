"""The adapter of `logos_client`: commands as lines of JSON on stdin, answers on stdout. See ../README.md."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "client")]

from logos_client import KernelClient, KernelFeed, LogosError, MessagingClient  # noqa: E402


class Subject:
    """One client at a time, and its last event."""

    client: MessagingClient
    event: Any = None
    kernel: KernelClient | None = None
    feed: KernelFeed

    async def run(self, cmd: str, timeout_ms: int = 10_000, **arguments: Any) -> object:
        """Carry out one command."""
        limit = timeout_ms / 1000
        if cmd == "connect":
            endpoint = arguments.pop("endpoint")
            self.client = await MessagingClient.connect(endpoint, timeout=limit, **arguments)
            return None
        if cmd == "kernel_connect":
            where = arguments.pop("directory")
            self.kernel = await KernelClient.connect(where, timeout=limit, **arguments)
            return None
        if self.kernel is not None:
            return await self.run_kernel(self.kernel, cmd, limit, arguments)
        client = self.client
        match cmd:
            case "next":
                self.event = await client.next_event(limit)
                return self.event.to_dict()
            case "send":
                sent = await client.send(
                    arguments["topic"],
                    bytes.fromhex(arguments["payload"]),
                    request_id=bytes.fromhex(arguments["request_id"]) if "request_id" in arguments else None,
                    timeout=limit,
                )
                return sent.hex()
            case "status":
                return (await client.status(timeout=limit)).to_body()
            case "find_send":
                request_id = bytes.fromhex(arguments["request_id"])
                if "channel" in arguments:
                    ended = await client.find_channel_send(arguments["channel"], request_id, timeout=limit)
                    return None if ended is None else ended.end
                found = await client.find_send(request_id, timeout=limit)
                return None if found is None else found.state
            case "ack":
                await client.ack(self.event)
                return None
            case "close":
                await client.close()
                return None
            case "channel_create":
                await client.set_channel_encryption(arguments["channel"], seal, unseal)
                await client.create_channel(arguments["channel"], arguments["topic"], hooks=True)
                return None
            case "channel_send":
                payload = bytes.fromhex(arguments["payload"])
                return (await client.send_to_channel(arguments["channel"], payload)).hex()
            case "subscribe" | "unsubscribe" | "subscriptions":
                return await getattr(client, cmd)(**arguments)
        raise ValueError(f"no command {cmd}")

    async def run_kernel(
        self, kernel: KernelClient, cmd: str, limit: float, arguments: dict[str, Any]
    ) -> object:
        """Carry out a command of a kernel's client."""
        match cmd:
            case "feed":
                self.feed = kernel.events(**arguments, health=True, peers=True)
                await self.feed.__aenter__()
                return None
            case "next":
                return (await self.feed.next_event(limit)).to_dict()
            case "publish":
                payload = bytes.fromhex(arguments["payload"])
                return (await kernel.publish(arguments["topic"], payload, timeout=limit)).message_hash.hex()
            case "query":
                own = str((await kernel.info(["MyPeerId"]))["MyPeerId"])
                page = await kernel.store_query(
                    content_topics=arguments["topics"], include_data=True, peer=own
                )
                return [one.message.payload.hex() for one in page.messages]
            case "peers":
                return len(await kernel.peers())
            case "health":
                return {"state": (await kernel.health()).state}
            case "close":
                await kernel.close()
                return None
        raise ValueError(f"no command {cmd}")


def seal(segment: bytes) -> bytes:
    """Hide nothing, but show what was done to each segment."""
    return b"+" + bytes(byte ^ 0x20 for byte in segment)


def unseal(segment: bytes) -> bytes:
    """Undo `seal`."""
    if not segment.startswith(b"+"):
        raise ValueError("not sealed")
    return bytes(byte ^ 0x20 for byte in segment[1:])


async def main() -> None:
    """Carry out commands until the end of the input. They may overlap."""
    subject, loop = Subject(), asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()
    async for line in reader:
        task = loop.create_task(answer(subject, **json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()


async def answer(subject: Subject, id: int, **command: Any) -> None:  # noqa: A002 (the protocol's name)
    """Carry out a command and report its result."""
    try:
        said = {"ok": True, "result": await subject.run(**command)}
    except LogosError as error:
        names = ("code", "retriable", "message", "retry_after_ms")
        said = {"ok": False, "error": {name: getattr(error, name) for name in names}}
    sys.stdout.write(json.dumps({"id": id, **said}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())

"""The adapter of `logos_client`: commands as lines of JSON on stdin, answers on stdout. See ../README.md."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "client")]

from logos_client import LogosError, MessagingClient  # noqa: E402


class Subject:
    """One client at a time, and the last event it gave."""

    client: MessagingClient
    event: Any = None

    async def run(self, cmd: str, timeout_ms: int = 10_000, **arguments: Any) -> object:
        """Carry out one command."""
        limit = timeout_ms / 1000
        if cmd == "connect":
            endpoint = arguments.pop("endpoint")
            self.client = await MessagingClient.connect(endpoint, timeout=limit, **arguments)
            return None
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
            case "ack":
                await client.ack(self.event)
                return None
            case "close":
                await client.close()
                return None
            case "subscribe" | "unsubscribe" | "subscriptions":
                return await getattr(client, cmd)(**arguments)
        raise ValueError(f"no command {cmd}")


async def main() -> None:
    """Until the end of the input. Commands may overlap."""
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
    """Carry out a command and say what came of it."""
    try:
        said = {"ok": True, "result": await subject.run(**command)}
    except LogosError as error:
        names = ("code", "retriable", "message", "retry_after_ms")
        said = {"ok": False, "error": {name: getattr(error, name) for name in names}}
    sys.stdout.write(json.dumps({"id": id, **said}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())

"""The app's side of the pipeline: a MessagingClient whose events are taken by iteration.

    python -m tests.bench.pipeline.app MAPI_RUN_DIRECTORY ACK_SOCKET CONTENT_TOPIC [NAME]

With a name the app is durable (journal on). Commands: expect {round, messages, ack_every, timed}.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys

from logos_client import MessageReceived, MessagingClient
from tests.bench.lines import emit
from tests.bench.pipeline.wire import Tally


async def _commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def main(run_directory: str, ack_path: str, topic: str, name: str | None = None) -> None:
    acks = socket.socket(socket.AF_UNIX)
    acks.connect(ack_path)
    acks.sendall(topic.encode())
    tally: Tally | None = None

    async def take(client: MessagingClient) -> None:
        async for event in client:
            if type(event) is MessageReceived and tally is not None:
                tally.take(event.payload)

    async with MessagingClient.connect(run_directory, name=name, timeout=30) as client:
        errors = await client.subscribe(topic)
        assert not errors, errors
        taking = asyncio.create_task(take(client))
        emit("ready")
        lines = await _commands()
        while line := await lines.readline():
            command = json.loads(line)
            tally = Tally(
                acks,
                command["round"],
                command["messages"],
                command["ack_every"],
                timed=command["timed"],
            )
            emit("expecting")
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
    acks.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""Answer each message on a content topic once: echo.py <run directory> <content topic>.

The app has a name, so the node keeps its subscription and its place in the stream while it is away. Asking
for the next event acknowledges the one before; the answer's request id is derived from the message, so that a
message that is handled twice after a crash is answered once.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys

from logos_client import MessageReceived, MessagingClient

MARK = b"echo: "


async def main(run_dir: str, topic: str) -> None:
    async with MessagingClient.connect(run_dir, name="echo") as app:
        await app.subscribe(topic)
        print("listening on", topic, flush=True)
        async for event in app:
            if not isinstance(event, MessageReceived) or event.payload.startswith(MARK):
                continue
            request_id = hashlib.sha256(b"echo" + event.message_hash).digest()[:16]
            await app.send(topic, MARK + event.payload, request_id=request_id)
            print("answered", event.payload.decode(errors="replace"), flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

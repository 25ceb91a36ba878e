"""The same framework and server as the gateway's, answering at once: what no work behind HTTP costs.

One JSON line on standard output says where it listens; it ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sys
from collections.abc import AsyncIterator

import uvicorn
import uvloop
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.websockets import WebSocket

EVENT = {
    "kind": "message_received",
    "messageHash": "0x" + "ab" * 32,
    "contentTopic": "/bench/1/gateway/proto",
    "payload": base64.b64encode(b"." * 1024).decode(),
    "timestamp": 1_700_000_000_000_000_000,
    "meta": "",
    "ephemeral": False,
    "version": 0,
    "streamId": "ab" * 16,
    "seq": 100_000,
    "timeNs": 1_700_000_000_000_000_000,
}


def application() -> FastAPI:
    """Routes of the gateway's paths, without a middleware and without work."""
    app = FastAPI(openapi_url=None)
    shown = json.dumps(EVENT, separators=(",", ":"))
    sse = f"id: {'ab' * 16}:100000\nevent: message_received\ndata: {shown}\n\n".encode()
    frame = f'{{"type":"event","cost":1280,"event":{shown}}}'

    @app.post("/apps/v1/{name}/sends")
    async def send(request: Request) -> Response:
        await request.body()
        return Response(f'{{"requestId":"{os.urandom(16).hex()}"}}', 202, media_type="application/json")

    @app.post("/relay/v1/auto/messages")
    async def publish(request: Request) -> Response:
        await request.body()
        return PlainTextResponse("OK")

    @app.get("/apps/v1/{name}/events")
    async def events(count: int) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield sse

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.websocket("/apps/v1/{name}/socket")
    async def app_socket(websocket: WebSocket, count: int) -> None:
        await websocket.accept()
        for _ in range(count):
            await websocket.send_text(frame)

    return app


async def _main() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application(),
        http="httptools",
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    serving = asyncio.create_task(uvicorn.Server(config).serve(sockets=[listening]))
    port = listening.getsockname()[1]
    print(json.dumps({"event": "ready", "url": f"http://127.0.0.1:{port}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    serving.cancel()


if __name__ == "__main__":
    uvloop.run(_main())

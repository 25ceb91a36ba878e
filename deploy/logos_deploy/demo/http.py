"""The demonstration over HTTP: three requests, shown as the `curl` lines that make them."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from logos_deploy.demo.app import DemoError

HTTP_TOPIC: Final = "/logos-demo/1/http/plain"
_APP: Final = "carol"
_SECONDS: Final = 20.0

Say = Callable[[str], None]


async def show_http(url: str, say: Say) -> None:
    """Ask for health, open an app's event stream, send to it, and show what came. Raises `DemoError`."""
    try:
        await asyncio.to_thread(_talk, url, say)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DemoError(f"{url}: {error}") from error


def _talk(url: str, say: Say) -> None:
    path = f"/apps/v1/{_APP}/events?" + urlencode({"ack": "auto", "topic": HTTP_TOPIC}, safe="/")
    body = json.dumps({"contentTopic": HTTP_TOPIC, "payload": base64.b64encode(b"hello over HTTP").decode()})
    say(f"$ curl {url}/health")
    say(f"  {_ready(url)}")
    say(f"$ curl -N '{url}{path}' &")
    stream = _connection(url)
    try:
        stream.request("GET", path)
        events = stream.getresponse()
        events.readline()  # a comment: the stream is open, and its topic subscribed
        say(f"$ curl -d '{body}' {url}/apps/v1/{_APP}/sends")
        say(f"  {_request(url, 'POST', f'/apps/v1/{_APP}/sends', body)}")
        say(f"  {_received(events)}")
    finally:
        stream.close()


def _ready(url: str) -> str:
    """The answer of `/health` once the gateway has reached the kernel."""
    deadline = time.monotonic() + _SECONDS
    while True:
        answer = _request(url, "GET", "/health")
        if '"READY"' in answer or time.monotonic() > deadline:
            return answer
        time.sleep(0.05)


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_SECONDS)


def _request(url: str, method: str, path: str, body: str | None = None) -> str:
    connection = _connection(url)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if not 200 <= response.status < 300:
        raise ValueError(f"{method} {path}: {response.status} {text}")
    return text if len(text) <= 100 else text[:100] + "…"


def _received(events: http.client.HTTPResponse) -> str:
    """The payload of the first message on the stream, with what it is."""
    while line := events.readline().decode():
        if line.startswith("data: "):
            event: dict[str, Any] = json.loads(line[6:])
            if event.get("kind") == "message_received":
                return f'data: {{…, "payload": "{event["payload"]}", …}}'
    raise ValueError("the event stream ended before the message came")

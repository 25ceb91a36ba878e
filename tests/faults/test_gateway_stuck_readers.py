"""Readers of an app's events that never read, by SSE and by WebSocket, beside those that do."""

from __future__ import annotations

import base64
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from tests.integration.logos_node import short_directory
from tests.support.gateway_process import Answer, GatewayProcess, SseEvent
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess

pytestmark = pytest.mark.integration

TOPIC = "/stuck/1/readers/proto"
COUNT = 2000
SIZE = 4096
"""So that far more is sent than sockets and the window hold."""
WINDOW = 1 << 20
LIMITS = {
    "logos_gateway.http_server:WRITE_SECONDS": 4.0,
    "logos_gateway.http_server:KEEP_ALIVE_SECONDS": 2,
    "logos_gateway.apps.journals:_WINDOW_BYTES": WINDOW,
}


@pytest.fixture(scope="module")
def node() -> Iterator[tuple[KernelProcess, GatewayProcess]]:
    with (
        short_directory() as path,
        KernelProcess(path / "n", "--shard=0") as kernel,
        MapiProcess(path / "n"),
        GatewayProcess(path / "n", constants=LIMITS) as gateway,
    ):
        gateway.wait_for("/health", lambda answer: answer.json["nodeHealth"] == "READY")
        yield kernel, gateway


def never_reading(gateway: GatewayProcess, path: str, *headers: str) -> socket.socket:
    """A connection that asks for events and does not read one byte."""
    url = urlsplit(gateway.urls["rest"])
    assert url.port is not None
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", url.port))
    head = [f"GET {path} HTTP/1.1", f"Host: {url.netloc}", *headers]
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    return connection


def publish(kernel: KernelProcess, count: int) -> None:
    dealer = kernel.dealer("publisher")
    for number in range(count):
        payload = b"%8d" % number + b"." * (SIZE - 8)
        # No peer is there to take it; readers of the node itself get it all the same.
        dealer.ask("relay.publish", {"content_topic": TOPIC, "timestamp": time.time_ns()}, payload)
    dealer.close()


def numbers(reader: Iterator[SseEvent], count: int) -> list[int]:
    found: list[int] = []
    for event in reader:
        if event.kind == "message_received":
            found.append(int(base64.b64decode(event.data["payload"])[:8]))
            if len(found) == count:
                break
    return found


def figure(page: str, name: str) -> float:
    (line,) = [one for one in page.splitlines() if one.startswith(f"logos_delivery_{name} ")]
    return float(line.rpartition(" ")[2])


def stalled(page: str) -> float:
    return sum(
        figure(page, f'gateway_readers_stalled_total{{kind="{kind}"}}') for kind in ("http", "websocket")
    )


def test_one_that_never_reads_costs_the_others_nothing(node: tuple[KernelProcess, GatewayProcess]) -> None:
    kernel, gateway = node
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
    )
    credit = f"credit={1 << 39}"
    for name in ("mixed", "other", "lonely"):
        answer = gateway.request("POST", f"/apps/v1/{name}/subscriptions", {"topics": [TOPIC]})
        assert answer.json == {"errors": {}}

    def readers(answer: Answer) -> float:
        return figure(answer.text, "gateway_readers")

    with (
        closing(never_reading(gateway, "/apps/v1/mixed/events?ack=auto")) as sse,
        closing(never_reading(gateway, "/apps/v1/mixed/events")) as explicit,
        closing(never_reading(gateway, f"/apps/v1/mixed/socket?ack=auto&{credit}", *upgrade)) as web,
        closing(never_reading(gateway, "/apps/v1/lonely/events?ack=auto")) as lonely,
        gateway.events("/apps/v1/mixed/events?ack=auto") as good,
        gateway.events("/apps/v1/other/events?ack=auto") as other,
        ThreadPoolExecutor() as pool,
    ):
        gateway.wait_for("/metrics", lambda answer: readers(answer) == 6, server="metrics")
        found = [pool.submit(numbers, iter(reader), COUNT) for reader in (good, other)]
        publish(kernel, COUNT)
        assert [one.result() for one in found] == [list(range(COUNT))] * 2
        page = gateway.wait_for("/metrics", lambda answer: readers(answer) == 2, server="metrics").text
        # On a slow host the socket's time may run out before the window of the others is full.
        assert figure(page, "gateway_readers_lagging_total") + stalled(page) >= 4
        assert figure(page, "gateway_window_bytes") < 3 * (WINDOW + 4 * SIZE), "one for each app"
        # What the good readers have had is dropped when the Messaging API has confirmed that it is handled.
        gateway.wait_for(
            "/metrics",
            lambda answer: figure(answer.text, "gateway_window_bytes") < 2 * WINDOW,
            server="metrics",
        )

        def ended(connection: socket.socket) -> bool:
            """What had been sent is still there; behind it the gateway has left."""
            try:
                while connection.recv(1 << 20):
                    pass
            except ConnectionResetError:
                pass
            return True

        # What the host's buffers did not take has been given up; the others may have had all that was theirs.
        assert 'gateway_readers_stalled_total{kind="http"} 0.0' not in page
        assert all(ended(connection) for connection in (sse, explicit, web, lonely))

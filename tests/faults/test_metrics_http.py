"""Clients of the metrics page that are slow, many or talk nonsense: the process does not notice."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.support.exposition import check_histogram, parse
from tests.support.kernel_process import Dealer, KernelProcess, eventually, short_directory
from tests.support.mapi_process import MapiProcess

pytestmark = pytest.mark.integration

SERVE = ("--metrics-server=true", "--metrics-server-port=0", "--metrics-prefix=waku_")


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def control(endpoint: str) -> dict[str, Any]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = Dealer(context, endpoint)
    try:
        return dealer.ok("health")
    finally:
        dealer.close()
        context.term()


@contextmanager
def serving(kind: str, place: Path) -> Iterator[tuple[int, str]]:
    """A process that serves its pages: the port and the endpoint of its control."""
    with KernelProcess(place / "k", *(SERVE if kind == "kernel" else ())) as kernel:
        if kind == "kernel":
            yield kernel.info("MyBoundPorts")["MyBoundPorts"]["metrics"], kernel.endpoints.control
            return
        mapi = MapiProcess(place / "m", *SERVE, kernel_dir=place / "k")
        mapi.start()
        try:
            eventually(lambda: Path(mapi.control.removeprefix("ipc://")).exists())
            eventually(lambda: control(mapi.control)["ready"])
            yield control(mapi.control)["metrics_port"], mapi.control
        finally:
            mapi.stop()


@pytest.mark.parametrize("kind", ["kernel", "mapi"])
def test_pages_and_bad_clients(kind: str) -> None:
    with short_directory() as place, serving(kind, place) as (port, endpoint), ExitStack() as stack:
        status, page = get(port, "/metrics")
        assert status == 200
        families = parse(page)
        assert [family.name for family in families.values() if family.kind == "untyped"] == []
        assert [family.name for family in families.values() if not family.help] == []
        for family in families.values():
            if family.kind == "histogram":
                check_histogram(family)
        assert 'waku_version{version="' in page
        assert "\nprocess_resident_memory_bytes " in page
        assert ("waku_peers_dials" in page) is (kind == "kernel")
        assert ("waku_messaging_sends" in page) is (kind == "mapi")
        assert get(port, "/ready") == (200, "READY\n")
        told = json.loads(get(port, "/health")[1])
        assert told["ready"] is True
        assert told["pid"] == control(endpoint)["pid"]
        assert get(port, "/metrics", "HEAD") == (200, "")
        assert get(port, "/", "GET")[0] == 404
        assert get(port, "/metrics", "DELETE")[0] == 405

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=15))

        garbage = connect()
        garbage.sendall(b"\x16\x03\x01" + os.urandom(2000))
        assert garbage.recv(100).startswith(b"HTTP/1.1 400 ")
        long = connect()
        long.sendall(b"GET /" + b"a" * 9000)
        assert long.recv(100).startswith(b"HTTP/1.1 4")
        gone = connect()
        gone.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        gone.close()
        # As many as are let in, none of which ever says enough; then one more.
        idle = [connect() for _ in range(60)]
        for client in idle[::2]:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert get(port, "/metrics")[0] == 503
        assert control(endpoint)["ready"] is True
        # Their time is over: each of them is closed, and the page is there again.
        for client in idle:
            while client.recv(1000):
                pass
        status, page = eventually(lambda: (found := get(port, "/metrics"))[0] == 200 and found)
        slow = re.search(r'waku_http_requests\{outcome="too_slow"\} (\d+)', page)
        assert slow is not None
        assert int(slow[1]) >= 10


def test_a_port_that_is_taken_is_named() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        zmq.Context() as context,
        short_directory() as place,
    ):
        port = taken.getsockname()[1]
        options = ("--metrics-server=true", f"--metrics-server-port={port}")
        kernel = KernelProcess(place / "k", *options, context=context)
        assert kernel.launch().wait(20) == 70
        assert f"metrics-server-port {port}" in kernel.log.read_text()
        mapi = MapiProcess(place / "m", *options).start()
        assert mapi.wait() == 70
        assert f"metrics-server-port {port}" in mapi.logged()

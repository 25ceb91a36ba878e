"""Two connected nodes with some life on them, one of them served with the dashboard."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.integration.logos_node import LogosUp, short_directory
from tests.support.gateway_process import GatewayProcess

CONTENT = "/weather/1/berlin/json"
NETWORK = ("cluster-id=7", "num-shards-in-network=2")


class ServedNode(NamedTuple):
    """The node that is looked at, its gateway, and the gateway of its peer."""

    node: LogosUp
    gateway: GatewayProcess
    peer: GatewayProcess
    directory: Path


@contextlib.contextmanager
def served_node(*arguments: str) -> Iterator[ServedNode]:
    """`arguments`: of the gateway that is looked at."""
    with short_directory() as path:
        nodes = [LogosUp(path / "a", *NETWORK, "store=true"), LogosUp(path / "b", *NETWORK)]
        gateways: list[GatewayProcess] = []
        try:
            for node in nodes:
                node.wait_said("the node is ready: apps connect to")
            gateways.append(GatewayProcess(nodes[0].data_dir, "--dashboard", "--rest-admin", *arguments))
            gateways.append(GatewayProcess(nodes[1].data_dir, "--rest-admin"))
            a, b = gateways
            for gateway in gateways:
                gateway.wait_for("/health", lambda answer: answer.json["nodeHealth"] == "READY")
            (address,) = a.request("GET", "/info").json["listenAddresses"]
            assert b.request("POST", "/admin/v1/peers", [address]).text == "OK"
            for gateway in gateways:
                answer = gateway.request("POST", "/apps/v1/station/subscriptions", {"topics": [CONTENT]})
                assert answer.json == {"errors": {}}
            a.wait_for("/admin/v1/peers/mesh", lambda answer: any(one["peers"] for one in answer.json))
            yield ServedNode(nodes[0], a, b, path)
        finally:
            for gateway in gateways:
                gateway.close()
            for node in nodes:
                node.close()


def send(gateway: GatewayProcess, text: str, *, topic: str = CONTENT, app: str = "station") -> None:
    """Send a message as an app."""
    body = {"contentTopic": topic, "payload": base64.b64encode(text.encode()).decode()}
    assert gateway.request("POST", f"/apps/v1/{app}/sends", body).status == 202

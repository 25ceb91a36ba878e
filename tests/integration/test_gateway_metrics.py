"""The page that Prometheus reads, on a node that does a little of everything; dashboards and alerts on it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.logos_node import LogosUp, short_directory
from tests.support.gateway_process import Answer, GatewayProcess

pytestmark = pytest.mark.integration

NETWORK = ("cluster-id=7", "num-shards-in-network=1", "discv5-discovery=true", "discv5-udp-port=0")
CONTENT = "/gateway-metrics/1/test/proto"


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """The page of a node with an archive, after a message from its peer went to an app."""
    with short_directory() as path:
        nodes = [LogosUp(path / "a", *NETWORK, "store=true"), LogosUp(path / "b", *NETWORK)]
        gateways: list[GatewayProcess] = []
        try:
            for node in nodes:
                node.wait_said("the node is ready: apps connect to")
                gateways.append(GatewayProcess(node.data_dir, "--rest-admin"))
            a, b = gateways
            for gateway in gateways:
                gateway.wait_for("/health", lambda answer: answer.json["nodeHealth"] == "READY")
            (address,) = b.request("GET", "/info").json["listenAddresses"]
            assert a.request("POST", "/admin/v1/peers", [address]).status == 200
            assert a.request("POST", "/apps/v1/me/subscriptions", {"topics": [CONTENT]}).status == 200
            for gateway in gateways:
                gateway.wait_for("/admin/v1/peers/mesh/on/0", lambda answer: len(answer.json["peers"]) == 1)
            body = {"contentTopic": CONTENT, "payload": base64.b64encode(b"metrics").decode()}
            assert b.request("POST", "/apps/v1/me/sends", body).status == 202
            with a.events("/apps/v1/me/events?ack=auto") as reader:
                reader.take("message_received", 1)

            def stored(answer: Answer) -> bool:
                return 'archive_messages{type="stored"} 1.0' in answer.text

            yield a.wait_for("/metrics", stored, server="metrics").text
        finally:
            for gateway in gateways:
                gateway.close()
            for node in nodes:
                node.close()


def test_dump(page: str) -> None:
    Path("/tmp/ops-page.txt").write_text(page)

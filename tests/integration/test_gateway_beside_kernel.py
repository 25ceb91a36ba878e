"""The reference's routes where a protocol is off, no peer is known, or there is no Messaging API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.logos_node import short_directory
from tests.support.gateway_process import GatewayProcess
from tests.support.kernel_process import KernelProcess

pytestmark = pytest.mark.integration

MESSAGE = {"payload": "aGk=", "contentTopic": "/a/1/b/c"}
NO_PEER = "SERVICE_UNAVAILABLE: No suitable service peer & none discovered"


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    """Beside a kernel alone, without relay and services."""
    off = ("--relay=false", "--filter=false", "--lightpush=false", "--store=false")
    with (
        short_directory() as path,
        KernelProcess(path / "k", "--num-shards-in-network=1", *off),
        GatewayProcess(path / "k", "--mapi=false", "--rest-admin") as process,
    ):
        process.wait_for("/version", lambda answer: answer.status == 200)
        yield process


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        (
            "GET",
            "/relay/v1/messages/x",
            None,
            404,
            "/relay endpoints are not available. Please check your configuration: --relay",
        ),
        ("POST", "/relay/v1/auto/messages", MESSAGE, 404, "/relay endpoints are not available."),
        ("GET", "/admin/v1/peers/relay", None, 503, "Error: Relay Protocol is not mounted to the node"),
        ("GET", "/admin/v1/peers/mesh", None, 503, "Error: Relay Protocol is not mounted to the node"),
        ("GET", "/admin/v1/peers/relay/on/0", None, 503, "Error: Relay Protocol is not mounted to the node"),
        ("GET", "/admin/v1/peers/mesh/on/0", None, 503, "Error: Relay Protocol is not mounted to the node"),
        (
            "GET",
            "/admin/v1/filter/subscriptions",
            None,
            400,
            "Error: Filter Protocol is not mounted to the node",
        ),
        (
            "POST",
            "/filter/v2/subscriptions",
            {"requestId": "r", "contentFilters": ["/a/1/b/c"]},
            503,
            f'{{"requestId":"r","statusDesc":"{NO_PEER}"}}',
        ),
        ("POST", "/lightpush/v3/message", {"message": MESSAGE}, 503, f'{{"statusDesc":"{NO_PEER}"}}'),
        (
            "POST",
            "/lightpush/v1/message",
            {"message": MESSAGE},
            503,
            f"Failed to request a message push: {NO_PEER}",
        ),
        ("GET", "/store/v3/messages", None, 412, "No suitable service peer & none discovered"),
        ("GET", "/messaging/v1/events/received", None, 404, "/messaging endpoints are not available."),
        ("GET", "/admin/v1/peers", None, 200, "[]"),
        ("GET", "/admin/v1/peers/service", None, 200, "[]"),
    ],
)
def test_what_is_not_there_is_reported_as_the_reference_does(
    gateway: GatewayProcess, method: str, path: str, body: object, status: int, text: str
) -> None:
    answer = gateway.request(method, path, body)
    assert (answer.status, answer.text[: len(text)]) == (status, text)


def test_apps_and_health_without_a_messaging_api(gateway: GatewayProcess) -> None:
    refused = gateway.request("GET", "/apps/v1/me/status")
    assert (refused.status, refused.json["code"], refused.json["retriable"]) == (503, "not_ready", False)
    health = gateway.request("GET", "/health").json
    assert {"Relay": "NOT_MOUNTED"} in health["protocolsHealth"]
    assert health["connectionStatus"] == "Disconnected"


def test_before_the_kernel_is_up_and_without_admin() -> None:
    with short_directory() as path, GatewayProcess(path / "k") as alone:
        for group in ("relay", "filter", "lightpush", "store"):
            route = {
                "relay": "/relay/v1/messages/x",
                "filter": "/filter/v2/messages/x",
                "lightpush": "/lightpush/v3/message",
                "store": "/store/v3/messages",
            }[group]
            answer = alone.request("POST" if group == "lightpush" else "GET", route)
            expected = f"/{group} endpoints are not available while initializing."
            assert (answer.status, answer.text) == (404, expected)
        answer = alone.request("GET", "/admin/v1/peers")
        expected = "/admin endpoints are not available. Please check your configuration: --rest-admin=true"
        assert (answer.status, answer.text) == (404, expected)
        health = alone.request("GET", "/health").json
        assert health == {
            "nodeHealth": "INITIALIZING",
            "connectionStatus": "Disconnected",
            "protocolsHealth": [],
        }
        assert alone.request("OPTIONS", "/relay/v1/auto/messages").status == 200

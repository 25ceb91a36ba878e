"""What the gateway gives the person who runs the node: figures, apps, log level, pages, each by its scope."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.logos_node import LogosUp, short_directory
from tests.support.gateway_process import Answer, GatewayProcess

pytestmark = pytest.mark.integration

TOPIC = "/gateway-operator/1/test/proto"
TOKENS = {scope: f"{scope}-token-0123456789" for scope in ("apps", "kernel", "admin")}


@pytest.fixture(scope="module")
def node() -> Iterator[LogosUp]:
    with short_directory() as path:
        up = LogosUp(path / "n", "store=true")
        try:
            up.wait_said("the node is ready: apps connect to")
            yield up
        finally:
            up.close()


@pytest.fixture(scope="module")
def gateway(node: LogosUp) -> Iterator[GatewayProcess]:
    """With tokens, the dashboard and the admin routes."""
    file = node.data_dir.with_name("tokens")
    file.write_text("".join(f"{token} {scope}\n" for scope, token in TOKENS.items()))
    file.chmod(0o600)
    with GatewayProcess(node.data_dir, "--dashboard", "--rest-admin", f"--rest-token-file={file}") as process:
        process.wait_for("/gateway/v1/about", lambda answer: answer.json["kernel"], headers=bearer("admin"))
        yield process


def bearer(scope: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[scope]}"}


def ask(gateway: GatewayProcess, scope: str, path: str, method: str = "GET", body: object = None) -> Answer:
    return gateway.request(method, path, body, headers=bearer(scope))


def test_what_a_token_may_do(gateway: GatewayProcess) -> None:
    about = ask(gateway, "kernel", "/gateway/v1/about").json
    assert (about["scopes"], about["admin"], about["messagingApi"]) == (["kernel"], True, True)
    assert about["network"]["shardCount"] > 0
    assert ask(gateway, "admin", "/gateway/v1/about").json["scopes"] == ["admin", "apps", "kernel"]
    assert gateway.request("GET", "/gateway/v1/about").status == 401


def test_apps_and_sends_of_all_apps(gateway: GatewayProcess) -> None:
    path = "/apps/v1/listed"
    assert ask(gateway, "apps", f"{path}/subscriptions", "POST", {"topics": [TOPIC]}).status == 200
    payload = base64.b64encode(b"hello").decode()
    sent = ask(gateway, "apps", f"{path}/sends", "POST", {"contentTopic": TOPIC, "payload": payload}).json
    found = ask(gateway, "apps", "/apps/v1").json
    (app,) = [one for one in found["apps"] if one["name"] == "listed"]
    assert (app["durable"], app["connected"], app["topics"], app["sends"]) == (True, True, 1, 1)
    assert app["backlog"] == app["last"] - app["acked"]
    (send,) = [one for one in found["sends"]["sends"] if one["requestId"] == sent["requestId"]]
    assert (send["app"], send["contentTopic"]) == ("listed", TOPIC)
    refused = ask(gateway, "kernel", "/apps/v1")
    assert (refused.status, refused.json["code"]) == (403, "unauthorised")


def test_figures_health_peers_and_apps_in_one_stream(gateway: GatewayProcess) -> None:
    path = "/kernel/v1/events?figures=true&health=true&peers=true&apps=true"
    with gateway.events(path, headers=bearer("admin")) as reader:
        assert reader.status == 200
        wanted = {"health", "peers", "figures", "apps"}
        events = iter(reader)
        seen: dict[str, Any] = {}
        while wanted - seen.keys():
            event = next(events)
            seen[event.kind] = event.data
        before = seen["figures"]["atMs"]
        while (event := next(events)).kind != "figures":
            pass
        assert event.data["atMs"] > before
    assert set(seen["figures"]["processes"]) == {"kernel", "mapi", "gateway"}
    assert seen["figures"]["archive"]["ready"] is True
    assert seen["health"]["protocols"]
    assert "sends" in seen["apps"]
    with gateway.events(path, headers=bearer("kernel")) as reader:
        assert reader.status == 403, "apps need their own scope"


def test_the_log_level(gateway: GatewayProcess) -> None:
    path = "/gateway/v1/log-level"
    assert ask(gateway, "kernel", path, "PUT", {"level": "DEBUG"}).status == 403
    before = ask(gateway, "admin", path, "PUT", {"level": "debug"}).json["previous"]
    assert ask(gateway, "admin", path, "PUT", {"level": "INFO"}).json["previous"] == dict.fromkeys(
        before, "DEBUG"
    )
    for body in (b"{", b"[]", {"level": "LOUD"}, {"level": 1}, b"x" * 2000):
        answer = ask(gateway, "admin", path, "PUT", body)
        assert answer.status in (400, 413), body
        assert answer.headers["content-type"] == "application/problem+json"


def test_pages_need_no_token_and_have_a_policy(gateway: GatewayProcess) -> None:
    for path, kind in (
        ("/dashboard", "text/html; charset=utf-8"),
        ("/dashboard/app.mjs", "text/javascript; charset=utf-8"),
        ("/dashboard/panels/health.mjs", "text/javascript; charset=utf-8"),
        ("/dashboard/style.css", "text/css; charset=utf-8"),
        ("/docs", "text/html; charset=utf-8"),
    ):
        answer = gateway.request("GET", path)
        assert (answer.status, answer.headers["content-type"]) == (200, kind), path
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        again = gateway.request("GET", path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
    slash = gateway.request("GET", "/dashboard/")
    assert (slash.status, slash.headers["location"]) == (308, "../dashboard"), "else its links would be wrong"
    for path in ("/dashboard/../tokens.py", "/dashboard/%2e%2e/pages.py", "/dashboard/nothing"):
        assert gateway.request("GET", path).status == 404, path

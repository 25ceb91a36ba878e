"""The OpenAPI document is held against the routes, and is what OpenAPI 3.1 says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI

from logos_gateway.api_document import UndescribedError, describe
from logos_gateway.api_document.document import OPERATIONS
from logos_gateway.apps import channels as app_channels
from logos_gateway.apps import routes as app_routes
from logos_gateway.apps import socket as app_socket
from logos_gateway.apps.channels import CHANNEL_OPERATIONS
from logos_gateway.operator import kernel_events, node_routes
from logos_gateway.reference import admin, filter, lightpush, messaging, node, relay, store  # noqa: A004

MODULES = (
    node,
    relay,
    filter,
    lightpush,
    store,
    messaging,
    admin,
    app_routes,
    app_channels,
    kernel_events,
    node_routes,
)


def application(*more: APIRouter) -> FastAPI:
    app = FastAPI(version="1.2.3")
    for router in (*(module.router for module in MODULES), *more):
        app.include_router(router)
    return app


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return describe(application(), secured=True, complete=True)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def test_every_route_is_described_and_every_description_is_served(document: dict[str, Any]) -> None:
    found = {f"{method.upper()} {path}" for method, path, _ in operations(document)}
    assert found - {"GET /apps/v1/{name}/socket"} == set(OPERATIONS)


def test_a_route_without_a_description_is_refused() -> None:
    router = APIRouter()

    @router.get("/new")
    async def new() -> None:
        """Nothing."""

    with pytest.raises(UndescribedError, match="GET /new is served and not described"):
        describe(application(router), secured=True, complete=True)


def test_a_description_without_a_route_is_refused() -> None:
    app = FastAPI()
    app.include_router(node.router)
    with pytest.raises(UndescribedError, match="described and not served: DELETE"):
        describe(app, secured=True, complete=True)
    assert set(describe(app, secured=False, complete=False)["paths"]) == {"/health", "/info", "/version"}


def test_parameters_of_paths_are_those_of_the_path(document: dict[str, Any]) -> None:
    for _, path, operation in operations(document):
        named = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path)), path


def test_every_reference_leads_somewhere_and_every_schema_is_used(document: dict[str, Any]) -> None:
    named = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)))
    assert named == set(document["components"]["schemas"])


def test_security_and_refusals_are_documented(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    send = document["paths"]["/apps/v1/{name}/sends"]["post"]
    assert send["security"] == [{"bearer": ["apps"]}]
    assert set(send["responses"]) == {"202", "401", "403", "default"}
    assert set(send["responses"]["default"]["content"]) == {"application/problem+json"}
    publish = document["paths"]["/relay/v1/auto/messages"]["post"]
    assert publish["security"] == [{"bearer": ["kernel"]}]
    assert set(publish["responses"]["default"]["content"]) == {"text/plain"}
    open_document = describe(application(), secured=False, complete=True)
    assert all("security" not in operation for _, _, operation in operations(open_document))


def test_the_page_has_every_operation_of_the_websocket() -> None:
    source = Path(app_socket.__file__).read_text(encoding="utf-8")
    served = {*re.findall(r'^ +case "(\w+)":$', source, re.MULTILINE), *CHANNEL_OPERATIONS}
    page = (Path(__file__).parents[3] / "docs" / "http.md").read_text(encoding="utf-8")
    listed = page.partition("with `op` one of ")[2].partition(";")[0]
    assert set(re.findall(r"\w+", listed)) == served

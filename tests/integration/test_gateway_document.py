"""What `/openapi.json` promises is what the gateway does: schemathesis asks a live one, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.integration.logos_node import LogosUp, short_directory
from tests.support.gateway_process import GatewayProcess

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

CHECKS = (
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
EXAMPLES = 6
"""For each operation."""
OURS = ("/apps/", "/gateway/")
LEFT_OUT = "/events$|/socket$|^/admin/v1/peers$"
"""Streams have no end, and what these tests invent is not dialled."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with short_directory() as path:
        node = LogosUp(path / "n", "store=true", "filter=true", "lightpush=true")
        try:
            node.wait_said("the node is ready: apps connect to")
            with GatewayProcess(node.data_dir, "--rest-admin") as process:
                process.wait_for("/health", lambda answer: answer.json["nodeHealth"] == "READY")
                yield process
                assert process.process.poll() is None
                assert "Traceback" not in process.log()
        finally:
            node.close()


def test_answers_are_those_of_the_document(gateway: GatewayProcess) -> None:
    """All operations in one test: each takes a moment, and starting a node takes more."""
    document = gateway.request("GET", "/openapi.json").json
    schema = schemathesis.openapi.from_dict(document).exclude(path_regex=LEFT_OUT)
    asked: set[str] = set()
    broken: dict[str, str] = {}
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]  # an error of the document raises
        asked.add(operation.label)
        checks = [*CHECKS, not_a_server_error] if operation.path.startswith(OURS) else list(CHECKS)
        try:
            _ask(operation, gateway.urls["rest"], checks)
        except Exception as error:
            broken[operation.label] = str(error)
    assert not broken, "\n\n".join(f"{label}\n{text}" for label, text in broken.items())
    assert len(asked) > 40


def _ask(operation: Any, url: str, checks: list[Any]) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        response = case.call(base_url=url, timeout=30)
        case.validate_response(response, checks=checks)

    ask()

"""A node of the demonstration: the environment of the person who runs it does not configure it."""

from __future__ import annotations

from pathlib import Path

import pytest

from logos_deploy.demo.node import DemoNode


def test_variables_of_another_node_add_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOGOS_BRIDGE_NATS_URL", "nats://127.0.0.1:4222")
    monkeypatch.setenv("LOGOS_GATEWAY_REST", "true")
    supervisor = DemoNode("A", tmp_path, 0)._supervisor
    assert [program.name for program in supervisor.programs] == ["kernel", "mapi"]

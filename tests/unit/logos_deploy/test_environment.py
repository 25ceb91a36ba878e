"""The configuration of a running process, from its command line, environment and file."""

from __future__ import annotations

from pathlib import Path

import pytest

from logos_deploy.node.environment import ProcessConfigError, config_of_process, resolved_from


def test_all_sources_count(tmp_path: Path) -> None:
    (tmp_path / "n.toml").write_text("[mapi]\nmax-apps = 7\nsend-window = '5s'\n")
    command = ["/opt/python", "-P", "-m", "mapi_proc", "--config-file=n.toml", "--send-window=30s"]
    environ = {"LOGOS_MAPI_MODE": "edge", "PATH": "/bin"}
    resolved = resolved_from("mapi", command, environ, tmp_path)
    assert resolved.source_of("send-window").source() == "flag --send-window"
    assert resolved.source_of("mode").source() == "environment LOGOS_MAPI_MODE"
    assert resolved.value("max-apps") == 7
    assert "n.toml line 2" in resolved.source_of("max-apps").source()


def test_the_script_of_the_package_is_known_too(tmp_path: Path) -> None:
    command = ["/v/bin/python", "/v/bin/logos-kernel", "--tcp-port", "7"]
    assert resolved_from("kernel", command, {}, tmp_path).value("tcp-port") == 7


def test_another_program_and_no_program(tmp_path: Path) -> None:
    with pytest.raises(ProcessConfigError, match="not started as mapi"):
        resolved_from("mapi", ["/bin/sh", "-c", "true"], {}, tmp_path)
    with pytest.raises(ProcessConfigError, match="cannot look at process"):
        config_of_process("mapi", 0x7FFFFFFF)

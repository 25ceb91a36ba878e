"""What `launch` makes of its arguments, before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import logos_deploy
from ipc_schema.config.options import ConfigError
from logos_deploy import launcher
from logos_deploy.launcher_logs import LogFile
from logos_deploy.launcher_node import config_error_of
from logos_deploy.node.plan import LaunchRequest, NodePlan
from logos_deploy.node.plan import plan_launch as plan_request
from logos_deploy.node.programs import launch_programs
from logos_process.config_file import read_toml


def plan_launch(
    preset: str, mode: str, overrides: Mapping[str, object], data_dir: Path | None, file: Path | None = None
) -> NodePlan:
    request = LaunchRequest(
        preset=preset, mode=mode, overrides=overrides, data_dir=data_dir, config_file=file
    )
    return plan_request(request, read_toml, Path.cwd())


def test_both_processes_get_what_concerns_them(tmp_path: Path) -> None:
    plan = plan_launch("logos.test", "core", {"tcp-port": 0, "max-apps": 7}, tmp_path / "node")
    kernel, mapi = launch_programs(plan)
    assert plan.data_dir == tmp_path / "node"
    assert plan.kernel.network.preset == "logos.test"
    assert plan.mapi is not None
    assert plan.mapi.apps.max_apps == 7
    assert kernel.variables["LOGOS_KERNEL_TCP_PORT"] == "0"
    assert mapi.variables["LOGOS_MAPI_MODE"] == "core"
    assert plan.mapi.kernel.requests == plan.kernel.endpoints.requests
    assert plan.mapi.kernel.control == plan.kernel.endpoints.control
    assert kernel.command[1:4] == ("-P", "-m", "kernel_proc")
    assert f"--data-dir={tmp_path / 'node'}" in mapi.command


def test_a_core_node_carries_every_shard_of_its_network(tmp_path: Path) -> None:
    own = {"cluster-id": 9, "num-shards-in-network": 3, "tcp-port": 0}
    assert plan_launch("", "core", own, tmp_path).kernel.shards == (0, 1, 2)
    assert plan_launch("logos.test", "core", {"tcp-port": 0}, tmp_path).kernel.shards == tuple(range(8))
    assert plan_launch("", "core", own | {"shard": [1]}, tmp_path).kernel.shards == (1,)
    assert plan_launch("", "core", own | {"shard": "none"}, tmp_path).kernel.shards == ()
    assert plan_launch("", "core", own | {"num-shards-in-network": 0}, tmp_path).kernel.shards == ()
    assert plan_launch("", "edge", own, tmp_path).kernel.shards == ()
    kernel, _ = launch_programs(plan_launch("", "core", own, tmp_path))
    assert kernel.variables["LOGOS_KERNEL_SHARD"] == "all"


def test_a_secret_is_in_no_command_line(tmp_path: Path) -> None:
    key = "11" * 32
    plan = plan_launch("", "core", {"nodekey": key}, tmp_path)
    kernel, mapi = launch_programs(plan)
    assert kernel.variables["LOGOS_KERNEL_NODEKEY"] == key
    assert key not in " ".join((*kernel.command, *mapi.command, *mapi.variables.values()))


def test_the_environment_of_the_app_does_not_configure_the_node(tmp_path: Path) -> None:
    plan = plan_launch("", "core", {}, tmp_path)
    environment = launch_programs(plan)[0].environment(
        {"PATH": "/bin", "LOGOS_KERNEL_TCP_PORT": "1", "LOGOS_MAPI_MODE": "edge", "LOGOS_OTHER": "1"}
    )
    assert environment["PATH"] == "/bin"
    assert environment["LOGOS_OTHER"] == "1"
    assert "LOGOS_KERNEL_TCP_PORT" not in environment
    assert "LOGOS_MAPI_MODE" not in environment


def test_an_option_may_be_given_to_one_process(tmp_path: Path) -> None:
    overrides: dict[str, object] = {
        "tcp-port": 0,
        "log-level": "WARN",
        "metrics-server": True,
        "gateway.metrics-server-port": 0,
        "mapi.ipc-max-in-flight": 7,
        "staticnode": ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"],
    }
    plan = plan_launch("", "core", overrides, tmp_path)
    assert plan.mapi is not None
    assert plan.gateway is not None
    assert plan.gateway.metrics is not None
    assert plan.gateway.metrics.port == 0
    assert (plan.kernel.max_in_flight, plan.mapi.max_in_flight) == (256, 7)
    assert plan.kernel.log_level == plan.mapi.log_level == "WARN"
    assert plan.kernel.static_nodes == ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2")
    with pytest.raises(ConfigError, match="log-level: is given twice"):
        plan_launch("", "core", {"log-level": "WARN", "kernel.log-level": "INFO"}, tmp_path)


def test_a_file_is_read_and_the_processes_read_it_again(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[kernel]\ntcp-port = 60007\n[mapi]\nmax-apps = 3\n")
    plan = plan_launch("", "core", {"max-apps": 4}, tmp_path / "n", file)
    assert plan.mapi is not None
    assert (plan.kernel.tcp_port, plan.mapi.apps.max_apps) == (60007, 4)
    kernel, mapi = launch_programs(plan)
    assert (
        kernel.variables["LOGOS_KERNEL_CONFIG_FILE"] == mapi.variables["LOGOS_MAPI_CONFIG_FILE"] == str(file)
    )


def test_relative_directories_are_those_of_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan_launch("", "core", {}, None).data_dir == tmp_path / "data"
    assert plan_launch("", "core", {"data-dir": "own"}, None).data_dir == tmp_path / "own"


@pytest.mark.parametrize(
    ("preset", "mode", "overrides", "key"),
    [
        ("no such", "core", {}, "preset"),
        ("", "center", {}, "mode"),
        ("", "core", {"tcp-prot": 1}, "tcp-prot"),
        ("", "core", {"tcp-port": "many"}, "tcp-port"),
        ("", "core", {"relay": False}, "relay"),
        ("", "core", {"mode": "edge"}, "mode"),
        ("", "core", {"data-dir": "x"}, "data-dir"),
        ("", "core", {"kernel-dir": "/elsewhere"}, "kernel-dir"),
        ("", "core", {"tcp-port": 60000, "ipc-requests": "tcp://127.0.0.1:60000"}, "tcp-port|ipc-requests"),
    ],
)
def test_errors_name_the_key(
    tmp_path: Path, preset: str, mode: str, overrides: dict[str, object], key: str
) -> None:
    with pytest.raises(ConfigError, match=key) as caught:
        plan_launch(preset, mode, overrides, tmp_path)
    assert caught.value.key in key.split("|")


def test_a_refusal_of_a_process_is_the_same_error() -> None:
    error = config_error_of("logos-kernel: data-dir: is on fire")
    assert error is not None
    assert (error.key, error.message) == ("data-dir", "is on fire")
    assert config_error_of("logos-mapi: mode: no") is not None
    assert config_error_of("2026-01-01 INF ready") is None
    assert config_error_of("logos-kernel: something else: no") is None


def test_the_package_has_the_launcher() -> None:
    for name in logos_deploy.__all__:
        assert getattr(logos_deploy, name) is getattr(launcher, name)
    assert logos_deploy.__all__ == launcher.__all__
    with pytest.raises(AttributeError, match="nothing"):
        _ = logos_deploy.nothing


def test_logs_are_bounded(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "kernel.log", max_bytes=100)
    assert log.size() == 0
    assert not log.rotate()
    descriptor = log.open()
    import os

    try:
        for number in range(6):
            os.write(descriptor, b"%d" % number * 101 + b"\n")
            assert log.rotate()
        os.write(descriptor, b"now\n")  # the same descriptor goes on, at the beginning
    finally:
        os.close(descriptor)
    assert log.path.read_bytes() == b"now\n"
    assert log.lines_since(0) == ["now"]
    backups = sorted(tmp_path.glob("kernel.log.*"))
    assert [(path.name, path.read_bytes()[:1]) for path in backups] == [
        ("kernel.log.1", b"5"),
        ("kernel.log.2", b"4"),
        ("kernel.log.3", b"3"),
    ]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in backups)

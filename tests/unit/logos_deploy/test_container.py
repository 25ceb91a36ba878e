"""The container files against the code: every option, port, path and variable. No engine is needed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from ipc_schema.config.kernel import KERNEL_SCHEMA
from ipc_schema.config.sources import variable_of
from logos_deploy import cli
from logos_deploy.node.overrides import SCHEMAS
from logos_deploy.node.plan import NodeRequest, plan_node
from logos_process.command_line import CommandLine

HERE = Path(__file__).parents[3] / "deploy" / "container"
ROOT = HERE.parents[1]


def defaults() -> dict[str, str]:
    """The variables of `.env.example`."""
    lines = (HERE / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def compose() -> dict[str, Any]:
    """The compose file with the values of `.env.example`, as the engine would read it."""
    values = defaults()

    def value(match: re.Match[str]) -> str:
        name, operator, default = match[1], match[2] or "", match[3] or ""
        if operator == ":?":
            assert values.get(name), f"{name} has no value in .env.example"
        return values.get(name) or default

    text = (HERE / "compose.yaml").read_text()
    text = re.sub(r"(?<!\$)\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)
    found: dict[str, Any] = yaml.safe_load(text.replace("$$", "$"))
    return found


def instructions() -> list[list[str]]:
    """The instructions of the Containerfile, continued lines joined."""
    text = (HERE / "Containerfile").read_text().replace("\\\n", " ")
    return [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]


def test_the_node_of_the_compose_file_is_one_that_can_be_planned() -> None:
    service = compose()["services"]["node"]
    known = {variable_of(schema, option.name) for schema in SCHEMAS.values() for option in schema}
    assert set(service["environment"]) <= known
    plan = plan_node(
        NodeRequest(data_dir="/var/lib/logos"),
        {name: str(value or "") for name, value in service["environment"].items()},
        lambda path: pytest.fail(path),
        "/",
    )
    published = {str(port).rpartition(":")[2] for port in service["ports"]}
    assert f"{plan.kernel.tcp_port}/tcp" in published
    assert f"{plan.kernel.discovery.discv5_port}/udp" in published
    assert plan.kernel.services.store
    assert not [warning for warning in plan.kernel.warnings if "no effect" in warning]
    assert plan.gateway is not None
    assert plan.gateway.metrics is not None
    scrape = yaml.safe_load((HERE / "prometheus.yml").read_text())["scrape_configs"]
    metrics = plan.gateway.metrics
    assert scrape[0]["static_configs"][0]["targets"] == [f"{metrics.address}:{metrics.port}"]
    database = str(service["environment"]["LOGOS_KERNEL_STORE_MESSAGE_DB_URL"])
    account = compose()["services"]["postgres"]["environment"]
    credentials = f"{account['POSTGRES_USER']}:{account['POSTGRES_PASSWORD']}"
    assert database == f"postgres://{credentials}@postgres:5432/{account['POSTGRES_DB']}"


def test_only_the_ports_of_the_network_are_public() -> None:
    for name, service in compose()["services"].items():
        for port in service.get("ports", ()):
            assert str(port).startswith("127.0.0.1:") or name == "node", port
    public = [one for one in compose()["services"]["node"]["ports"] if not one.startswith("127.0.0.1:")]
    assert len(public) == 2
    node = compose()["services"]["node"]
    assert node["read_only"]
    assert node["cap_drop"] == ["ALL"]


def test_what_the_compose_file_names_exists() -> None:
    parts = compose()
    for service in parts["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (HERE / source).resolve().is_file(), source
            else:
                assert source in parts["volumes"]
        for other in service.get("depends_on", ()):
            assert other in parts["services"]
    node = parts["services"]["node"]["build"]
    assert (HERE / node["context"] / node["dockerfile"]).resolve() == HERE / "Containerfile"
    assert f" AS {node['target']}" in (HERE / "Containerfile").read_text()
    used = set(re.findall(r"\$\{(\w+)", (HERE / "compose.yaml").read_text()))
    assert set(defaults()) <= used, "a variable that nothing reads"
    assert used - set(defaults()) == {"LOGOS_IMAGE"}


def test_grafana_finds_its_data_source_and_the_dashboard() -> None:
    parts = compose()["services"]
    (source,) = yaml.safe_load((HERE / "grafana" / "datasource.yml").read_text())["datasources"]
    assert source["url"].endswith(":9090")
    assert parts["grafana"]["network_mode"] == parts["prometheus"]["network_mode"] == "service:node"
    (provider,) = yaml.safe_load((HERE / "grafana" / "dashboards.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in parts["grafana"]["volumes"])
    target = mounts["../grafana/logos-node.json"]
    assert Path(target).parent == Path(provider["options"]["path"])
    assert json.loads((ROOT / "deploy" / "grafana" / "logos-node.json").read_text())["panels"]


def test_the_images_run_commands_that_exist_as_another_user_than_root() -> None:
    lines = instructions()
    entries = [json.loads(rest) for name, rest in lines if name == "ENTRYPOINT"]
    assert [entry[0] for entry in entries] == ["logos-kernel", "logos"]
    CommandLine("logos-kernel", "0", KERNEL_SCHEMA, "").parse_args(entries[0][1:])
    cli.build_parser().parse_args(entries[1][1:])
    (check,) = [rest for name, rest in lines if name == "HEALTHCHECK"]
    cli.build_parser().parse_args(json.loads(check.partition("CMD ")[2])[1:])
    users = [rest for name, rest in lines if name == "USER"]
    assert users == ["10001:10001"]
    exposed = shlex.split(next(rest for name, rest in lines if name == "EXPOSE"))
    ports = {option.name: option.default for option in KERNEL_SCHEMA}
    assert exposed == [f"{ports['tcp-port']}/tcp", f"{ports['discv5-udp-port']}/udp"]


def test_what_the_image_copies_is_in_the_context() -> None:
    text = (HERE / "Containerfile.dockerignore").read_text()
    kept = re.findall(r"^!(\S+)$", text, re.MULTILINE)
    assert all((ROOT / name).exists() for name in kept)
    packages = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages is not None
    needed = {name.split("/")[0] for name in json.loads(packages[1])}
    assert needed <= set(kept)


@pytest.mark.skipif(shutil.which("awk") is None, reason="there is no awk")
def test_the_driver_for_postgresql_is_found_in_the_lock() -> None:
    (command,) = re.findall(r"awk '([^']+)'", (HERE / "Containerfile").read_text())
    done = subprocess.run(
        ["awk", command, str(ROOT / "requirements" / "dev.lock")], capture_output=True, text=True, timeout=30
    )
    names = re.findall(r"^([a-z0-9-]+)==", done.stdout, re.MULTILINE)
    assert names == ["psycopg", "psycopg-binary"]
    assert all(line.startswith(("psycopg", "    ")) for line in done.stdout.splitlines())

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
from logos_deploy.node.plan import NodePlan, NodeRequest, plan_node
from logos_deploy.node.processes import SCHEMAS
from logos_process.command_line import CommandLine
from tests.unit.logos_deploy.container_files import CONTAINER, compose, defaults, instructions

ROOT = CONTAINER.parents[1]


def text_of(name: str) -> str:
    return (CONTAINER / name).read_text()


def planned(service: dict[str, Any]) -> NodePlan:
    """The node that this service starts; every variable is one of an option."""
    known = {variable_of(schema, option.name) for schema in SCHEMAS.values() for option in schema}
    assert set(service["environment"]) <= known
    return plan_node(
        NodeRequest(data_dir="/var/lib/logos"),
        {name: str(value or "") for name, value in service["environment"].items()},
        lambda path: pytest.fail(path),
        "/",
    )


def test_the_node_of_the_compose_file_is_one_that_can_be_planned() -> None:
    service = compose()["services"]["node"]
    plan = planned(service)
    published = {str(port).rpartition(":")[2] for port in service["ports"]}
    assert f"{plan.kernel.tcp_port}/tcp" in published
    assert f"{plan.kernel.discovery.discv5_port}/udp" in published
    assert plan.kernel.services.store
    assert not [warning for warning in plan.kernel.warnings if "no effect" in warning]
    assert plan.gateway is not None
    assert plan.gateway.metrics is not None
    scrape = yaml.safe_load((CONTAINER / "prometheus.yml").read_text())["scrape_configs"]
    metrics = plan.gateway.metrics
    assert scrape[0]["static_configs"][0]["targets"] == [f"{metrics.address}:{metrics.port}"]
    database = str(service["environment"]["LOGOS_KERNEL_STORE_MESSAGE_DB_URL"])
    account = compose()["services"]["postgres"]["environment"]
    credentials = f"{account['POSTGRES_USER']}:{account['POSTGRES_PASSWORD']}"
    assert database == f"postgres://{credentials}@postgres:5432/{account['POSTGRES_DB']}"


def test_secure_websocket_is_laid_over_it() -> None:
    """The node waits for its certificate, reads it where the service writes it, and announces the name."""
    services = compose("wss", DOMAIN="node.example.org")["services"]
    node, service = services["node"], services["certificates"]
    plan = planned(node)
    files = plan.kernel.websocket_tls
    assert files is not None
    assert plan.kernel.discovery.domain == "node.example.org" == service["environment"]["DOMAIN"]
    assert f"{plan.kernel.websocket_port}:{plan.kernel.websocket_port}/tcp" in node["ports"]
    assert not [warning for warning in plan.kernel.warnings if "no effect" in warning]
    # waits for exactly the file that it reads, beside those that it waits for anyway
    assert service["healthcheck"]["test"] == ["CMD", "test", "-s", files.certificate]
    assert node["depends_on"]["certificates"] == {"condition": "service_healthy"}
    assert "postgres" in node["depends_on"]
    stage = dict(instructions("certificates"))
    volume = json.loads(f'["{stage["VOLUME"]}"]')[0]
    assert Path(files.certificate).parent == Path(files.key).parent == Path(volume) / "live" / "node"
    assert service["volumes"] == [f"certificates:{volume}"]
    assert f"certificates:{volume}:ro" in node["volumes"]
    # the key has mode 0600: both are one user, and the volume is made with that owner
    assert stage["USER"] == dict(instructions("base"))["USER"]
    assert f"-o 10001 -g 10001 -m 0700 {volume}" in stage["RUN"]
    assert service["ports"] == [f"80:{stage['EXPOSE']}"]


def test_the_certificate_service_gets_all_that_its_script_reads() -> None:
    script = text_of("certificates.sh")
    stage = instructions("certificates")
    fixed = {rest.split("=")[0] for name, rest in stage if name == "ENV"}
    given = set(compose("wss", DOMAIN="a.example")["services"]["certificates"]["environment"])
    assert set(re.findall(r"\$\{?([A-Z_]+)", script)) == fixed | given | {"HTTP_PORT"}
    assert f'"${{HTTP_PORT:-{dict(stage)["EXPOSE"].removesuffix("/tcp")}}}"' in script
    copied = dict(stage)["COPY"].split()
    assert [ROOT / copied[0], json.loads(dict(stage)["ENTRYPOINT"])] == [
        CONTAINER / "certificates.sh",
        [Path(copied[1]).name],
    ]
    assert (CONTAINER / "certificates.sh").stat().st_mode & 0o111
    # what the interoperability test runs is what the image has
    image = re.search(r"^FROM \S+/certbot:v(\S+) AS certificates$", text_of("Containerfile"), re.MULTILINE)
    assert image is not None
    assert f"certbot=={image[1]} " in (ROOT / "tests" / "interop" / "acme" / "certbot.lock").read_text()


def test_only_the_ports_of_the_network_are_public() -> None:
    for name, service in compose()["services"].items():
        for port in service.get("ports", ()):
            assert str(port).startswith("127.0.0.1:") or name == "node", port
    public = [one for one in compose()["services"]["node"]["ports"] if not one.startswith("127.0.0.1:")]
    assert len(public) == 2
    for name in ("node", "certificates"):
        service = compose("wss", DOMAIN="a.example")["services"][name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


def test_what_the_compose_files_name_exists() -> None:
    parts = compose("wss", DOMAIN="a.example")
    for service in parts["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (CONTAINER / source).resolve().is_file(), source
            else:
                assert source in parts["volumes"]
        for other in service.get("depends_on", ()):
            assert other in parts["services"]
        if "build" in service:
            build = service["build"]
            assert (
                CONTAINER / build["context"] / build["dockerfile"]
            ).resolve() == CONTAINER / "Containerfile"
            assert instructions(build["target"])
    files = sorted(path.name for path in CONTAINER.glob("compose*.yaml"))
    used = set(re.findall(r"\$\{(\w+)", "".join(text_of(name) for name in files)))
    # COMPOSE_FILE is read by Compose itself
    assert set(defaults()) - {"COMPOSE_FILE"} <= used, "a variable that nothing reads"
    assert used - set(defaults()) == {"LOGOS_IMAGE", "CERTIFICATES_IMAGE"}
    assert re.findall(r"COMPOSE_FILE=(\S+)", text_of(".env.example")) == [
        files[-1],
        ":".join(reversed(files)),
    ]


def test_grafana_finds_its_data_source_and_the_dashboard() -> None:
    parts = compose()["services"]
    (source,) = yaml.safe_load((CONTAINER / "grafana" / "datasource.yml").read_text())["datasources"]
    assert source["url"].endswith(":9090")
    assert parts["grafana"]["network_mode"] == parts["prometheus"]["network_mode"] == "service:node"
    (provider,) = yaml.safe_load((CONTAINER / "grafana" / "dashboards.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in parts["grafana"]["volumes"])
    target = mounts["../grafana/logos-node.json"]
    assert Path(target).parent == Path(provider["options"]["path"])
    assert json.loads((ROOT / "deploy" / "grafana" / "logos-node.json").read_text())["panels"]


def test_the_images_run_commands_that_exist_as_another_user_than_root() -> None:
    lines = instructions("base")
    entries = [json.loads(dict(instructions(target))["ENTRYPOINT"]) for target in ("kernel", "node")]
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
    text = (CONTAINER / "Containerfile.dockerignore").read_text()
    kept = re.findall(r"^!(\S+)$", text, re.MULTILINE)
    assert all((ROOT / name).exists() for name in kept)
    packages = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages is not None
    needed = {name.split("/")[0] for name in json.loads(packages[1])}
    assert needed <= set(kept)


@pytest.mark.skipif(shutil.which("awk") is None, reason="there is no awk")
def test_the_driver_for_postgresql_is_found_in_the_lock() -> None:
    (command,) = re.findall(r"awk '([^']+)'", (CONTAINER / "Containerfile").read_text())
    done = subprocess.run(
        ["awk", command, str(ROOT / "requirements" / "dev.lock")], capture_output=True, text=True, timeout=30
    )
    names = re.findall(r"^([a-z0-9-]+)==", done.stdout, re.MULTILINE)
    assert names == ["psycopg", "psycopg-binary"]
    assert all(line.startswith(("psycopg", "    ")) for line in done.stdout.splitlines())

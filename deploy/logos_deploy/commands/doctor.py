"""`logos doctor`: find problems of this host, and of the node that these arguments describe."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ipc_schema.config.options import ConfigError, PortUse
from ipc_schema.errors import IpcError
from ipc_schema.kernel.records import NodeHealth
from ipc_schema.paths import kernel_directory, lock_path, mapi_directory
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient
from logos_deploy.commands.output import as_lines, print_result
from logos_deploy.commands.up import add_node, plan_of
from logos_deploy.control import ask_health
from logos_deploy.exits import Exit
from logos_deploy.node import checkup
from logos_deploy.node.checkup import Finding, Level
from logos_deploy.node.conf import supervisor_paths
from logos_deploy.node.network_view import check_sources, diagnose, look
from logos_deploy.node.plan import NodePlan
from logos_deploy.node.supervisor import wanted_descriptors
from logos_deploy.text import count, one_line
from logos_process.lock import holder_of

HELP: Final = "check packages, directories, ports, limits and clock; explain why a node finds no peers"

_PATIENCE: Final = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_node(parser)


def run(arguments: argparse.Namespace) -> int:
    findings = list(examine(arguments))
    bad = [finding for finding in findings if finding.level is Level.FAIL]
    print_result(arguments, {"ok": not bad, "findings": findings}, as_text(findings), indent=2)
    return Exit.FAILED if bad else Exit.OK


def examine(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Run all checks that can be run."""
    yield checkup.check_python()
    yield from checkup.check_packages()
    try:
        plan = plan_of(arguments)
        paths = supervisor_paths(
            plan.data_dir, Path(plan.kernel.ipc_dir) if plan.kernel.resolved.explicit("ipc-dir") else None
        )
    except ConfigError as error:
        yield Finding(Level.FAIL, "configuration", str(error), "logos config shows what is read from where")
        return
    yield Finding(Level.OK, "configuration", "can be used")
    yield checkup.check_directory("data directory", plan.data_dir)
    if not Path(plan.kernel.ipc_dir).is_relative_to(plan.data_dir):
        yield checkup.check_directory("socket directory", Path(plan.kernel.ipc_dir))
    yield checkup.check_disk(plan.data_dir)
    yield checkup.check_clock(plan.data_dir)
    if plan.kernel.websocket_tls is not None:
        yield checkup.check_certificate(Path(plan.kernel.websocket_tls.certificate))
    yield checkup.check_descriptors(wanted_descriptors(plan.kernel.peers.max_connections))
    try:
        running = holder_of(paths.lock) is not None
    except OSError as error:
        yield Finding(Level.FAIL, "supervisor", f"{paths.lock}: {error.strerror}")
        running = False
    kernel, mapi = asyncio.run(_processes(plan))
    yield kernel[0]
    if mapi is not None:
        yield mapi[0]
    if running or kernel[1] or (mapi is not None and mapi[1]):
        # the node itself uses its ports; but its kernel can be asked
        if kernel[0].level is Level.OK and kernel[1]:
            health = asyncio.run(ask_health(plan.kernel.endpoints.control))
            yield from archive_findings(health.more.get("health") if health is not None else None)
            yield from asyncio.run(_network(plan))
        if plan.mapi is not None and mapi is not None and mapi[1]:
            health = asyncio.run(ask_health(plan.mapi.endpoints.control))
            yield from sends_findings(health.more.get("sends") if health is not None else None)
        return
    yield from checkup.check_ports(plan.ports)
    discovery = plan.kernel.discovery
    if discovery.discv5 and discovery.discv5_port:
        use = PortUse("discv5-udp-port", plan.kernel.listen_address, discovery.discv5_port)
        yield from checkup.check_ports([use], udp=True)
    yield check_sources(plan.kernel)


def archive_findings(health: object) -> list[Finding]:
    """Why the archive does not serve, or what it lost, by the `health` of the kernel's health."""
    try:
        protocols = NodeHealth.from_body(health).protocols if isinstance(health, dict) else ()
    except (IpcError, ValueError):
        return []  # of another version
    return [
        Finding(Level.WARN, "archive", one_line(protocol.description))
        for protocol in protocols
        if protocol.name == "Store" and protocol.description
    ]


def sends_findings(sends: object) -> list[Finding]:
    """Return why sends wait, from `sends` in MAPI's health."""
    if not isinstance(sends, dict):
        return []
    states = sends.get("states")
    propagated = int(states.get("propagated", 0)) if isinstance(states, dict) else 0
    waiting = int(sends.get("pending", 0)) - propagated
    if waiting <= 0:
        return []
    cause = one_line(str(sends.get("cause", ""))) or "none was attempted yet"
    return [Finding(Level.WARN, "sends", f"{count(waiting, 'send')} for the network to take; last: {cause}")]


async def _network(plan: NodePlan) -> list[Finding]:
    """Return findings from a running kernel's peers."""
    try:
        async with KernelClient.connect(plan.kernel.endpoints, timeout=_PATIENCE) as client:
            return list(diagnose(await look(client)))
    except LogosError as error:
        return [Finding(Level.WARN, "peers", f"the kernel does not answer: {error.message}")]


async def _processes(plan: NodePlan) -> tuple[tuple[Finding, bool], tuple[Finding, bool] | None]:
    """Check the sockets of each process, and whether they belong to a running one."""
    kernel = await _process("kernel", kernel_directory(plan.kernel.ipc_dir), plan.kernel.endpoints.control)
    if plan.mapi is None:
        return kernel, None
    return kernel, await _process("mapi", mapi_directory(plan.mapi.ipc_dir), plan.mapi.endpoints.control)


async def _process(name: str, directory: Path, control: str) -> tuple[Finding, bool]:
    try:
        holder = holder_of(lock_path(directory))
    except OSError as error:
        return Finding(Level.FAIL, name, f"{directory}: {error.strerror}"), False
    answers = holder is not None and await ask_health(control) is not None
    return checkup.check_sockets(name, directory, holder, answers), holder is not None


def as_text(findings: list[Finding]) -> Iterator[str]:
    """Format a line per finding, with advice below it, and a verdict at the end."""
    yield from as_lines(findings)
    counts = [sum(finding.level is level for finding in findings) for level in (Level.FAIL, Level.WARN)]
    if counts[0]:
        yield f"a node cannot run here: {counts[0]} to mend, {counts[1]} to look at"
    else:
        yield "a node can run here" + (f"; {counts[1]} to look at" if counts[1] else "")

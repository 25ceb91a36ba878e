"""`logos check`: dial a node, and report what it is and whether its services answer."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any, Final

from ipc_schema.config.addresses import check_multiaddr
from ipc_schema.config.presets import find_preset
from logos_deploy.commands.output import print_result
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.canary import SERVICES, NodeReport, ServiceAnswer, look_at
from logos_deploy.session import run_interruptible
from logos_deploy.text import one_line, table

HELP: Final = "dial any node: transport, agent, cluster, shards, latency, and whether its services answer"

_TIMEOUT: Final = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address", metavar="MULTIADDR", help="/ip4/…/tcp/…/p2p/<peer id>; also /dns4, /ws, /wss"
    )
    parser.add_argument(
        "--require",
        metavar="SERVICE,…",
        default="",
        help=f"fail unless it offers these, and they answer: {', '.join(SERVICES)}",
    )
    parser.add_argument("--require-shard", type=int, action="append", default=[], metavar="SHARD")
    parser.add_argument("--preset", default="", help="its network (default: the one that it says)")
    parser.add_argument("--cluster-id", type=int, metavar="N", help="its cluster, instead of a preset")
    parser.add_argument(
        "--timeout", type=float, default=_TIMEOUT, metavar="SECONDS", help="for each step (default: 15)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    try:
        check_multiaddr(arguments.address)
    except ValueError as error:
        raise CommandError(Exit.DATA, str(error)) from None
    required = tuple(name.strip() for name in arguments.require.split(",") if name.strip())
    if unknown := [name for name in required if name not in SERVICES]:
        raise CommandError(Exit.USAGE, f"--require: {unknown[0]!r} is none of {', '.join(SERVICES)}")
    find_preset(arguments.preset)
    return run_interruptible(_check(arguments, required))


async def _check(arguments: argparse.Namespace, required: tuple[str, ...]) -> int:
    report = await look_at(
        arguments.address,
        preset=arguments.preset,
        cluster=arguments.cluster_id,
        timeout=arguments.timeout,
    )
    problems = _problems(report, required, arguments.require_shard)
    print_result(arguments, as_json(report, problems), as_text(report, problems))
    if not report.reached:
        return Exit.UNAVAILABLE
    return Exit.FAILED if problems else Exit.OK


def _problems(report: NodeReport, required: tuple[str, ...], shards: list[int]) -> list[str]:
    if not report.reached or report.error:
        return [report.error]
    problems = [
        f"{name} does not answer" if report.services[name].offered else f"{name} is not offered"
        for name in report.failing(required)
    ]
    return problems + [f"it is not on shard {shard}" for shard in shards if shard not in report.shards]


def as_json(report: NodeReport, problems: list[str]) -> dict[str, Any]:
    """Return `{ok, problems, address, reached, …, services: {name: {offered, answers, ms, detail}}}`."""
    return {"ok": not problems, "problems": problems, **dataclasses.asdict(report)}


def as_text(report: NodeReport, problems: list[str]) -> Iterator[str]:
    """Format for a terminal."""
    if report.reached:
        yield table(list(_rows(report)))
        rows = [(name, *_state(one)) for name, one in report.services.items()]
        if rows:
            yield ""
            yield table(rows, heads=("service", "", "ms", ""), right=(2,))
    for problem in problems:
        yield f"FAIL  {one_line(problem)}"


def _rows(report: NodeReport) -> Iterator[tuple[str, str]]:
    yield "peer id", report.peer_id
    yield "transport", report.transport
    connect = "" if report.connect_ms is None else f"TCP {report.connect_ms} ms, "
    yield "latency", f"{connect}whole dial {report.dial_ms} ms"
    yield "agent", one_line(report.agent)
    yield "cluster", "not reported" if report.cluster is None else str(report.cluster)
    yield "shards", ", ".join(map(str, report.shards)) or "none reported"
    for address in report.addresses:
        yield "address", one_line(address)
    yield "protocols", one_line(", ".join(report.protocols))


def _state(one: ServiceAnswer) -> tuple[str, str, str]:
    if not one.offered:
        return "not offered", "", ""
    said = {None: "offered", True: "answers", False: "SILENT"}[one.answers]
    return said, "" if one.ms is None else str(one.ms), one_line(one.detail)

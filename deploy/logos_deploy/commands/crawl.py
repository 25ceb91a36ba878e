"""`logos crawl`: walk a network by discv5 and peer exchange, and count its nodes."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import ipaddress
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from ipc_schema.config.addresses import check_multiaddr, is_multiaddr, peer_id_in
from ipc_schema.config.presets import find_preset
from logos_deploy.commands.output import print_result
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.crawl_census import DIMENSIONS, Census, CrawledNode, take_census
from logos_deploy.node.crawler import Crawl, CrawlPlan, crawling
from logos_deploy.session import run_interruptible
from logos_deploy.text import count, one_line, table

HELP: Final = "walk a network by discv5 and peer exchange, and count its nodes"

_PROGRESS_SECONDS: Final = 5.0
_MAX_PARALLEL: Final = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="", help="the network, with its bootstrap nodes")
    parser.add_argument("--cluster-id", type=int, metavar="N", help="the network, instead of a preset")
    parser.add_argument(
        "--bootstrap",
        action="append",
        default=[],
        metavar="NODE",
        help="where to begin instead: enr:…, a multiaddr with a peer id, or enrtree://… (repeatable)",
    )
    parser.add_argument("--name-server", metavar="IP[:PORT]", help="DNS server for enrtree://…")
    parser.add_argument(
        "--listen-address",
        default="0.0.0.0",  # noqa: S104 - a socket on loopback reaches only this host
        metavar="IP",
        help="to ask from (default: 0.0.0.0)",
    )
    parser.add_argument("--limit", type=int, default=10_000, metavar="NODES", help="(default: 10,000)")
    parser.add_argument(
        "--max-seconds", type=float, default=300.0, metavar="SECONDS", help="for all (default: 300)"
    )
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="for each dial (default: 10)"
    )
    parser.add_argument("--parallel", type=int, default=16, metavar="N", help="nodes at once (default: 16)")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every node")
    parser.add_argument(
        "--prometheus",
        type=Path,
        metavar="FILE.prom",
        help="also write the counts for node_exporter's textfile collector",
    )


def run(arguments: argparse.Namespace) -> int:
    plan = _plan(arguments)
    return run_interruptible(_crawl(plan, arguments))


def _plan(arguments: argparse.Namespace) -> CrawlPlan:
    preset = find_preset(arguments.preset)
    cluster = preset.cluster if preset is not None else arguments.cluster_id
    if cluster is None or (preset is not None and arguments.cluster_id is not None):
        raise CommandError(Exit.USAGE, "give --preset, or --cluster-id with --bootstrap")
    own = () if preset is None else (*preset.discv5_boot_nodes, *preset.entry_nodes)
    bootstrap = tuple(arguments.bootstrap) or own
    if not bootstrap:
        raise CommandError(Exit.USAGE, "there is no node to begin with: give --bootstrap")
    if not 0 <= cluster <= 0xFFFF:
        raise CommandError(Exit.USAGE, "--cluster-id: 0 to 65535")
    if arguments.limit < 1 or not 1 <= arguments.parallel <= _MAX_PARALLEL:
        raise CommandError(Exit.USAGE, f"--limit: at least 1; --parallel: 1 to {_MAX_PARALLEL}")
    if arguments.max_seconds <= 0 or arguments.timeout <= 0:
        raise CommandError(Exit.USAGE, "--max-seconds and --timeout: more than 0")
    for entry in bootstrap:
        _check_bootstrap(entry)
    try:
        ipaddress.ip_address(arguments.listen_address)
    except ValueError as error:
        raise CommandError(Exit.USAGE, f"--listen-address: {error}") from None
    return CrawlPlan(
        cluster,
        bootstrap,
        listen_address=arguments.listen_address,
        name_server=arguments.name_server,
        limit=arguments.limit,
        seconds=arguments.max_seconds,
        timeout=arguments.timeout,
        parallel=arguments.parallel,
    )


def _check_bootstrap(entry: str) -> None:
    if is_multiaddr(entry):
        try:
            check_multiaddr(entry)
        except ValueError as error:
            raise CommandError(Exit.DATA, f"--bootstrap: {error}") from None
        if peer_id_in(entry) is None:
            raise CommandError(Exit.DATA, f"--bootstrap: {entry} has no peer id")
    elif not entry.startswith(("enr:", "enrtree:")):
        raise CommandError(Exit.DATA, f"--bootstrap: {entry!r} is none of enr:…, enrtree://… and a multiaddr")


async def _crawl(plan: CrawlPlan, arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    async with crawling(plan) as crawl:
        try:
            await crawl.run(_Progress(quiet=arguments.quiet))
        except asyncio.CancelledError:
            crawl.cut_off = "Ctrl-C"
            _report(crawl, time.monotonic() - started, arguments)
            raise
    _report(crawl, time.monotonic() - started, arguments)
    if not crawl.answered:
        return Exit.UNAVAILABLE
    return Exit.OK if crawl.complete else Exit.UNDECIDED


class _Progress:
    """Say on standard error how far it is, every few seconds."""

    def __init__(self, *, quiet: bool) -> None:
        self._next = float("inf") if quiet else time.monotonic() + _PROGRESS_SECONDS

    def __call__(self, crawl: Crawl) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + _PROGRESS_SECONDS
            found = f"{count(len(crawl.nodes), 'node')} found, {crawl.answered} answered"
            print(f"{found}, {crawl.waiting} to be asked", file=sys.stderr, flush=True)


# --- what was found ---------------------------------------------------------------------------------------


def _report(crawl: Crawl, seconds: float, arguments: argparse.Namespace) -> None:
    census = take_census(crawl.nodes.values())
    if arguments.prometheus is not None:
        _write_textfile(arguments.prometheus, crawl, census, seconds)
    print_result(arguments, as_json(crawl, census, seconds), as_text(crawl, census, seconds))


def as_json(crawl: Crawl, census: Census, seconds: float) -> dict[str, Any]:
    """Return `{complete, cut_off, problems, seconds, cluster, nodes, counts, list: [node]}`."""
    return {
        "complete": crawl.complete,
        "cut_off": crawl.cut_off,
        "problems": crawl.problems,
        "seconds": round(seconds, 1),
        "cluster": crawl.plan.cluster,
        "nodes": census.nodes,
        "counts": census.counts,
        "list": [_as_object(node) for node in crawl.nodes.values()],
    }


def _as_object(node: CrawledNode) -> dict[str, Any]:
    record = node.record
    return {
        **dataclasses.asdict(node),
        "record": None if record is None else record.enr,
        "capabilities": None if record is None else record.capabilities,
        "reachability": node.reach,
    }


def as_text(crawl: Crawl, census: Census, seconds: float) -> Iterator[str]:
    """Format for a terminal."""
    yield f"{count(census.nodes, 'node')} found in {seconds:.1f} s, {crawl.answered} answered"
    for dimension in DIMENSIONS:
        if values := census.counts[dimension]:
            yield ""
            yield table([*values.items()], heads=(dimension, "nodes"), right=(1,))
    for problem in crawl.problems:
        yield f"not read: {one_line(problem)}"
    if crawl.cut_off:
        yield f"ended by {crawl.cut_off}: there may be more nodes"


def _write_textfile(path: Path, crawl: Crawl, census: Census, seconds: float) -> None:
    """Write the counts in Prometheus's text format, in one step: a scrape never sees half a file."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"logos_crawl_{name}", text, labels, registry=registry)

    gauge("nodes", "Nodes found").set(census.nodes)
    gauge("answered_nodes", "Nodes that answered discv5 or a dial").set(crawl.answered)
    gauge("complete", "1 if every node found was asked").set(crawl.complete)
    gauge("duration_seconds", "Duration of the crawl").set(seconds)
    gauge("end_timestamp_seconds", "When the crawl ended").set(time.time())
    for dimension in DIMENSIONS:
        nodes = gauge(f"nodes_by_{dimension}", f"Nodes by {dimension}", (dimension,))
        for value, number in census.counts[dimension].items():
            nodes.labels(value).set(number)
    write_to_textfile(str(path), registry)

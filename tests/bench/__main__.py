"""`python -m tests.bench [NAME …]`: all benches, or those named. See docs/benchmarks.md.

One JSON line on what it runs on, then one for each case. Exit code 1 when a run is not valid (a loss, a
process that ended), 0 otherwise: a target that is not reached is shown in its line, not by the exit code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.bench.apps import apps
from tests.bench.archive import archive
from tests.bench.archive_pg import archive_pg
from tests.bench.archive_relay.driver import archive_relay
from tests.bench.bridge import bridge
from tests.bench.channels import channels
from tests.bench.clients.driver import clients
from tests.bench.dedup import dedup
from tests.bench.discovery import discovery
from tests.bench.discv5 import discv5
from tests.bench.enr import enr
from tests.bench.filter import filter_bench
from tests.bench.footprint import footprint
from tests.bench.gateway.driver import gateway
from tests.bench.harness import BenchError, Options, emit, machine
from tests.bench.lightpush import lightpush
from tests.bench.mesh.driver import mesh
from tests.bench.outbox import outbox
from tests.bench.pipeline.driver import pipeline
from tests.bench.relay.driver import relay
from tests.bench.rpc import rpc
from tests.bench.send import send
from tests.bench.startup import startup
from tests.bench.store_sync import store_sync
from tests.bench.topics import topics
from tests.bench.wss import wss

BENCHES: Final[dict[str, Callable[[Options], Iterator[dict[str, Any]]]]] = {
    "relay": relay,
    "wss": wss,
    "pipeline": pipeline,
    "filter": filter_bench,
    "lightpush": lightpush,
    "archive": archive,
    "archive-pg": archive_pg,
    "archive-relay": archive_relay,
    "store-sync": store_sync,
    "rpc": rpc,
    "footprint": footprint,
    "startup": startup,
    "topics": topics,
    "apps": apps,
    "mesh": mesh,
    "enr": enr,
    "discv5": discv5,
    "discovery": discovery,
    "send": send,
    "outbox": outbox,
    "dedup": dedup,
    "channels": channels,
    "gateway": gateway,
    "clients": clients,
    "bridge": bridge,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Benchmarks with references.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; none: all")
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each side (5)")
    parser.add_argument("--scale", type=float, default=1.0, help="length of the runs (1)")
    parser.add_argument("--case", default="", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the data of archive-pg for further runs"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHES]
    if unknown or arguments.runs < 1 or arguments.scale <= 0:
        parser.error(f"unknown bench: {', '.join(unknown)}" if unknown else "runs and scale are above 0")
    options = Options(arguments.runs, arguments.scale, arguments.case, arguments.keep)
    emit(machine())
    for name in arguments.names or BENCHES:
        try:
            for line in BENCHES[name](options):
                emit(line)
        except BenchError as error:
            sys.stderr.write(f"bench {name}: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

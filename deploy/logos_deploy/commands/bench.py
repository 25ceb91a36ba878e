"""`logos bench`: put load on one's own node, and show the rate, the latencies and the losses."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, Final

from logos_client.messaging import MessagingClient
from logos_deploy.commands.output import print_result
from logos_deploy.commands.where import NodePlace, add_where, where
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.load import Load, LoadResult, percentile, run_load
from logos_deploy.session import run_interruptible
from logos_deploy.text import one_line, table

HELP: Final = "send messages through this node, and show the rate, the latencies and the losses"

_CONNECT: Final = 5.0
_TOPIC: Final = "/logos-bench/1/load/plain"
_SHARES: Final = (("median", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--messages",
        type=int,
        default=1000,
        metavar="N",
        help="how many (default: 1000)",
    )
    parser.add_argument(
        "--rate", type=float, default=100.0, help="per second; 0: as fast as accepted (default: 100)"
    )
    parser.add_argument("--size", type=int, default=1024, metavar="BYTES", help="payload (default: 1024)")
    parser.add_argument("--in-flight", type=int, default=32, metavar="N", help="most at once (default: 32)")
    parser.add_argument("--topic", default=_TOPIC, help=f"content topic (default: {_TOPIC})")
    parser.add_argument(
        "--drain", type=float, default=30.0, metavar="SECONDS", help="wait for outcomes (default: 30)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_where(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.messages < 1 or arguments.rate < 0 or arguments.in_flight < 1 or arguments.drain < 0:
        raise CommandError(
            Exit.USAGE, "--messages and --in-flight: at least 1; --rate and --drain: at least 0"
        )
    if arguments.size < 16:
        raise CommandError(Exit.USAGE, "--size: at least 16, so that no two messages are the same")
    return run_interruptible(_bench(where(arguments), arguments))


async def _bench(place: NodePlace, arguments: argparse.Namespace) -> int:
    load = Load(
        content_topic=arguments.topic,
        messages=arguments.messages,
        rate=arguments.rate,
        size=arguments.size,
        in_flight=arguments.in_flight,
        drain=arguments.drain,
    )
    async with MessagingClient.connect(place.mapi.apps, timeout=_CONNECT) as client:
        result = await run_load(client, load)
    print_result(arguments, as_json(load, result), as_text(load, result))
    if result.clean:
        return Exit.OK
    return Exit.FAILED if result.refused or result.failed else Exit.UNDECIDED


def as_json(load: Load, result: LoadResult) -> dict[str, Any]:
    """Return counts, rate and latencies. Latencies in milliseconds; null where there are none."""
    return {
        "messages": load.messages,
        "size": load.size,
        "seconds": round(result.seconds, 3),
        "acceptedPerSecond": _rate(result),
        "accepted": result.accepted,
        "propagated": len(result.propagate_ms),
        "undecided": result.undecided,
        "refused": dict(result.refused),
        "failed": dict(result.failed),
        "acceptMs": _latencies(result.accept_ms),
        "propagateMs": _latencies(result.propagate_ms),
    }


def _rate(result: LoadResult) -> float:
    return round(result.accepted / result.seconds, 1) if result.seconds else 0.0


def _latencies(values: list[float]) -> dict[str, float | None]:
    found = {name: percentile(values, share) for name, share in _SHARES}
    return {name: None if value is None else round(value, 2) for name, value in found.items()}


def as_text(load: Load, result: LoadResult) -> Iterator[str]:
    """Format for a terminal."""
    yield (
        f"{result.accepted} of {load.messages} messages of {load.size} bytes accepted in "
        f"{result.seconds:.1f} s: {_rate(result)} per second"
    )
    rows = [
        (name, *("" if value is None else f"{value:.1f}" for value in _latencies(values).values()))
        for name, values in (("accepted", result.accept_ms), ("propagated", result.propagate_ms))
    ]
    yield table(rows, heads=("ms until", *(name for name, _ in _SHARES)), right=range(1, len(_SHARES) + 1))
    yield f"{len(result.propagate_ms)} propagated, {result.undecided} without an outcome"
    for word, reasons in (("refused", result.refused), ("failed", result.failed)):
        for reason, number in reasons.most_common():
            yield f"{number} {word}: {one_line(reason)}"

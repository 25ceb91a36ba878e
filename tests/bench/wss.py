"""The bench `wss`: relay over a secure WebSocket, against our plain WebSocket, our TCP, and go-libp2p."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.bench.harness import Case, Options, alternate, result
from tests.bench.relay.pair import NodePair
from tests.bench.relay.sides import OURS, Side, build_references
from tests.support.certificates import Certificates

SIZE: Final = 1024
MESSAGES: Final = 10_000


def wss(options: Options) -> Iterator[dict[str, Any]]:
    """Throughput at 1 KiB, node to node; one line for each reference."""
    with TemporaryDirectory() as directory, ExitStack() as stack:
        files = Certificates(Path(directory), "127.0.0.1")
        wants_go = options.wants("1 KiB against go")
        go = build_references(wanted=lambda key: wants_go and key == "go", log=_log)
        sides = {
            "ws": _over("ws", OURS, files),
            "tcp": _over("tcp", OURS, files),
            **{side.key: _over("wss", side, files) for side in go},
        }
        chosen = {name: side for name, side in sides.items() if options.wants(f"1 KiB against {name}")}
        pairs = [NodePair(stack, side) for side in (_over("wss", OURS, files), *chosen.values())]
        messages = options.count(MESSAGES)
        for pair in pairs:
            pair.run(SIZE, options.count(OURS.warm_up))
        ours, *others = alternate(options.runs, *(partial(pair.run, SIZE, messages) for pair in pairs))
        for (name, side), rounds in zip(chosen.items(), others, strict=True):
            case = Case("wss", f"1 KiB against {name}", "msg/s", side.name, more={"messages": messages})
            yield result(case, ours, rounds)


def _over(transport: str, side: Side, files: Certificates) -> Side:
    trust = ("env", f"SSL_CERT_FILE={files.trusted}")
    flags = ("--transport", transport, "--tls-cert", str(files.chain), "--tls-key", str(files.key))
    return replace(side, name=f"{side.name}, {transport}", command=(*trust, *side.command, *flags))


def _log(line: str) -> None:
    sys.stderr.write(f"{line}\n")

"""`logos demo`: two nodes, two apps, messages, two kills; in under a minute, leaving nothing behind."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from logos_deploy.demo.story import play
from logos_deploy.exits import Exit
from logos_deploy.session import run_interruptible

HELP: Final = "two nodes on this machine: messages both ways, kill -9, recovery"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", action="store_true", help="leave the nodes' directory, with all logs")


def run(arguments: argparse.Namespace) -> int:

    async def run_demo() -> int:
        return Exit.OK if await play(_say, _complain, keep=arguments.keep) else Exit.FAILED

    return run_interruptible(run_demo())


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

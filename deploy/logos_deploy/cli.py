"""The `logos` command: its subcommands, and the mapping of errors to exit codes (see `exits`)."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Final

from ipc_schema.config.options import ConfigError
from logos_client.exceptions import (
    ConflictError,
    DeadlineError,
    LogosError,
    NotReadyError,
    RequestError,
    TemporaryError,
)
from logos_deploy.exits import COMMAND_EXITS, CommandError, Exit
from logos_process.output import reserve_standard_descriptors, unblocked_output
from logos_process.version import version

COMMANDS: Final[Mapping[str, ModuleType]] = {
    name: import_module(f"logos_deploy.commands.{name.replace('-', '_')}") for name in COMMAND_EXITS
}

_EXITS: Final = """exit codes:
  0 done    1 failed    2 wrong command line    65 input refused    69 no node there
  73 the data directory is in use    75 outcome not known in time    78 configuration refused
  130 interrupted"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="logos",
        description="Run and inspect a Logos Delivery node, send and listen.",
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"logos {version()}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, module in COMMANDS.items():
        sub = commands.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=_epilog(name), allow_abbrev=False
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def _epilog(command: str) -> str:
    codes = "; ".join(f"{int(code)}: {text}" for code, text in COMMAND_EXITS[command].items())
    return f"exit codes: {codes}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. Return its exit code."""
    reserve_standard_descriptors()
    parsed = _parse(arguments)
    with unblocked_output() if parsed.command in ("up", "node") else contextlib.nullcontext():
        return _run(parsed)


def _run(parsed: argparse.Namespace) -> int:
    try:
        code: int = parsed.run(parsed)
        if sys.stdout is not None:  # closed before we started
            sys.stdout.flush()
    except ConfigError as error:
        return _refuse(Exit.CONFIG, str(error))
    except CommandError as error:
        return _refuse(error.code, error.message)
    except LogosError as error:
        return _refuse(exit_of(error), _explain(error))
    except UnicodeEncodeError as error:
        return _refuse(Exit.DATA, f"not valid UTF-8: {error.object!r}")
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except OSError as error:
        _discard_output()
        return Exit.FAILED if isinstance(error, BrokenPipeError) else _refuse(Exit.FAILED, str(error))
    return code


def _discard_output() -> None:
    """Drop unwritten output after its reader has gone or its disk is full: Python's exit would flush it and
    fail again."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse interleaved: argparse does not take positionals on both sides of a flag (`a=1 --data-dir d b=2`)
    in a subcommand."""
    parser = build_parser()
    parsed, rest = parser.parse_known_args(arguments)
    overrides: list[str] | None = getattr(parsed, "overrides", None)
    if overrides is not None and not any(word.startswith("-") for word in rest):
        overrides += rest
    elif rest:
        hint = "" if overrides is None else " (options of the node have no dashes: tcp-port=60001)"
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    return parsed


def exit_of(error: LogosError) -> Exit:
    """Return the exit code for a client's error."""
    if isinstance(error, NotReadyError):
        return Exit.UNAVAILABLE
    if isinstance(error, ConflictError):
        return Exit.FAILED  # another program uses the name
    if isinstance(error, RequestError):
        return Exit.DATA
    if isinstance(error, DeadlineError | TemporaryError):
        return Exit.UNDECIDED
    return Exit.FAILED


def _explain(error: LogosError) -> str:
    if isinstance(error, NotReadyError) and error.message.startswith("no answer from "):
        return f"{error.message} (does `logos up` run, with this --data-dir?)"
    return error.message


def _refuse(code: Exit, message: str) -> int:
    print(f"logos: {message}", file=sys.stderr)
    return code

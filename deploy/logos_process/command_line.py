"""The command line of a process: `--help`, `--version`, options, and the sources of their values."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from ipc_schema.config.options import Schema
from ipc_schema.config.sources import (
    TomlFile,
    add_arguments,
    config_file_of,
    variable_of,
    visible_secret,
)
from logos_process.config_file import read_toml
from logos_process.exits import ExitCode


class Sources(NamedTuple):
    """The configuration sources of a process, as arguments of `load_kernel_config` and `load_mapi_config`."""

    flags: Mapping[str, object]
    environ: Mapping[str, str]
    file: TomlFile | None


class CommandLine(argparse.ArgumentParser):
    """The argument parser of a process. Invalid arguments end the process with exit code 78."""

    def __init__(self, program: str, version: str, schema: Schema[Any], description: str) -> None:
        example = schema.options[0].name
        super().__init__(
            prog=program,
            usage=f"{program} [--config-file PATH] [--option value …]",
            description=description,
            epilog=f"Each option may also stand in the environment ({variable_of(schema, example)}) or, as "
            f"{example}, in the table [{schema.table}] of the file. The command line beats the environment, "
            "that the file, that the preset.",
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self._schema = schema
        self.add_argument("--version", action="version", version=f"{program} {version}")
        add_arguments(self, schema)

    def error(self, message: str) -> NoReturn:
        """Report the error in one line, without the usage text."""
        self.exit(ExitCode.CONFIG, f"{self.prog}: {message} ({self.prog} --help names all options)\n")

    def sources(
        self,
        arguments: Sequence[str] | None,
        environ: Mapping[str, str],
        read: Callable[[str], TomlFile] = read_toml,
    ) -> Sources:
        """Return all sources of a start.

        Raise `ConfigError` for a secret among the arguments and for an unusable file, and `SystemExit` for
        unknown arguments (with a message on stderr) and after `--help` and `--version`.
        """
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            name = unknown[0].removeprefix("--").partition("=")[0]
            self.error(f"{unknown[0]}: there is no such option{self._schema.hint(name)}")
        flags = vars(known)
        for option in self._schema:
            if option.name in flags and option.secret_in(flags[option.name]):
                raise visible_secret(self._schema, option.name)
        path = config_file_of(self._schema, flags, environ)
        return Sources(flags, environ, read(path) if path is not None else None)


class _Formatter(argparse.HelpFormatter):
    """Wide enough for the option names with help text beside them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)

    def _split_lines(self, text: str, width: int) -> list[str]:
        # Names of options and values contain hyphens: if a line broke at one, it could not be copied.
        return textwrap.wrap(text, width, break_on_hyphens=False)

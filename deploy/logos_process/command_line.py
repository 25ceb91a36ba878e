"""The command line of a process: `--help`, `--version`, its options, and the sources of their values.

Nothing is read here but what is given; reading the file is the caller's.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from ipc_schema.config.options import ConfigError, Schema
from ipc_schema.config.sources import (
    TomlFile,
    add_arguments,
    config_file_of,
    parse_toml,
    variable_of,
)
from logos_process.exits import ExitCode

__all__ = ["CommandLine", "Sources"]


class Sources(NamedTuple):
    """What people say about a process, as `load_kernel_config` and `load_mapi_config` take it."""

    flags: Mapping[str, object]
    environ: Mapping[str, str]
    file: TomlFile | None


class CommandLine(argparse.ArgumentParser):
    """The parser of a process. What it refuses ends the process with the exit code 78."""

    def __init__(self, program: str, version: str, schema: Schema, description: str) -> None:
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
        """Say what is wrong in one line, without the page of help."""
        self.exit(ExitCode.CONFIG, f"{self.prog}: {message} ({self.prog} --help names all options)\n")

    def sources(
        self,
        arguments: Sequence[str] | None,
        environ: Mapping[str, str],
        read: Callable[[str], str],
    ) -> Sources:
        """All sources of a start; `read` gives the text of a file.

        Raises `ConfigError` for a file that cannot be read or is no TOML, and `SystemExit` for arguments
        that are none (with a text on stderr) and after `--help` and `--version`.
        """
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            name = unknown[0].removeprefix("--").partition("=")[0]
            self.error(f"{unknown[0]}: there is no such option{self._schema.hint(name)}")
        flags = vars(known)
        path = config_file_of(self._schema, flags, environ)
        if path is None:
            return Sources(flags, environ, None)
        try:
            text = read(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("config-file", f"cannot read {path}: {error}") from error
        return Sources(flags, environ, parse_toml(text, path))


class _Formatter(argparse.HelpFormatter):
    """Wide enough for the names of options and a line of text beside them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)

    def _split_lines(self, text: str, width: int) -> list[str]:
        # Names of options and values have hyphens: a line that ends in one cannot be copied.
        return textwrap.wrap(text, width, break_on_hyphens=False)

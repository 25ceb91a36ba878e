"""The sources of configuration as layers: TOML text, environment variables, command-line flags.

Pure: texts and mappings in, layers out. Reading the file is the caller's job; `config_file_of` says which
one.

- File: one TOML file for all processes, with a table for each (`[kernel]`, `[mapi]`, `[gateway]`,
  `[bridge]`); keys are the option names.
- Environment: `LOGOS_KERNEL_TCP_PORT`, `LOGOS_MAPI_LOG_LEVEL`: prefix, table, name in upper case, `-` as `_`.
  Lists are comma-separated. An empty variable counts as unset. An unknown variable is an error if it looks
  like a mistyped option, otherwise ignored with a warning: Kubernetes sets `LOGOS_KERNEL_SERVICE_HOST` and
  more for a service named `logos-kernel`.
- Flags: `--tcp-port 60001` or `--tcp-port=60001`; list options are repeated; a bare `--websocket-support` is
  true.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from ipc_schema.config.kinds import BOOLEAN
from ipc_schema.config.options import ConfigError, Layer, Option, Origin, Schema

C = TypeVar("C")

ENVIRONMENT_PREFIX: Final = "LOGOS_"
TABLES: Final = ("kernel", "mapi", "gateway", "bridge")
"""The tables that a configuration file may have. Each process reads its own and ignores the others."""
CONFIG_FILE: Final = "config-file"
"""Flag (and variable) that names the file. Not an option, since it makes no sense in a file."""

# What Kubernetes (and Docker's links) set for a service: its address as `…_SERVICE_HOST`,
# `…_SERVICE_PORT_<name>`, `…_PORT_60000_TCP_ADDR` and so on, and as a URL in `…_PORT`, whose name may be an
# option's.
_SERVICE_VARIABLE: Final = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$"
)
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://[^/]+$")

_KEY_LINE: Final = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""")
_TABLE_LINE: Final = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]")


# --- the file ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A parsed configuration file. `lines` gives the line of (table, key), where known."""

    path: str
    tables: Mapping[str, Mapping[str, object]]
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict)


def parse_toml(text: str, path: str) -> TomlFile:
    """Parse the text of a configuration file. `path` is only for messages. Raises `ConfigError`."""
    text = text.removeprefix("\ufeff")  # a byte order mark, as Windows editors write it
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, f"is not valid TOML: {error}") from error
    for name, table in document.items():
        if name not in TABLES:
            allowed = " and ".join(f"[{table}]" for table in TABLES)
            raise ConfigError(name, f"does not belong at the top of {path}: options stand under {allowed}")
        if not isinstance(table, dict):
            raise ConfigError(name, f"must be a table: [{name}] ({path})")
    return TomlFile(path, document, _lines_of(text))


def _lines_of(text: str) -> dict[tuple[str, str], int]:
    """Find the lines of keys.

    For messages only, so a line inside a multi-line string may be taken for a key.
    """
    lines: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE_LINE.match(line):
            table = header[1]
        elif key := _KEY_LINE.match(line):
            lines.setdefault((table, key[1]), number)
    return lines


def file_layer(schema: Schema[Any], file: TomlFile) -> Layer:
    """Return the schema's table of the file."""
    values = file.tables.get(schema.table, {})
    details = {
        key: f"{file.path} line {file.lines[schema.table, key]}"
        for key in values
        if (schema.table, key) in file.lines
    }
    return Layer(Origin.FILE, values, details, file.path)


# --- the environment --------------------------------------------------------------------------------------


def variable_of(schema: Schema[Any], name: str) -> str:
    """Return the environment variable of an option: `LOGOS_KERNEL_TCP_PORT`."""
    return f"{ENVIRONMENT_PREFIX}{schema.table}_{name}".upper().replace("-", "_")


def environment_layer(schema: Schema[Any], environ: Mapping[str, str]) -> Layer:
    """Return the schema's options set in the environment.

    Raises `ConfigError` for a variable that looks like a mistyped option; other unknown ones are listed as
    ignored.
    """
    names = {variable_of(schema, name): name for option in schema for name in (option.name, *option.aliases)}
    reserved = variable_of(schema, CONFIG_FILE)
    prefix = variable_of(schema, "")
    values: dict[str, object] = {}
    details: dict[str, str] = {}
    ignored: list[str] = []
    for variable, text in environ.items():
        if not variable.startswith(prefix) or variable == reserved:
            continue
        name = names.get(variable)
        if _SERVICE_URL.match(text) or (name is None and _SERVICE_VARIABLE.search(variable)):
            ignored.append(variable)
            continue
        if name is None:
            hint = schema.hint(variable[len(prefix) :])
            if hint:
                raise ConfigError(variable, f"names no option of [{schema.table}]{hint}")
            ignored.append(variable)
            continue
        if text.strip():
            listed = schema.option(name).repeatable
            values[name] = [part.strip() for part in text.split(",") if part.strip()] if listed else text
            details[name] = variable
    return Layer(Origin.ENVIRONMENT, values, details, ignored=tuple(ignored))


# --- flags ------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser, schema: Schema[Any]) -> None:
    """Add `--config-file` and one argument per option to the parser.

    Values stay text for `resolve` to parse, so that an invalid one is reported in the same words as from a
    file. Build the parser with `allow_abbrev=False`: otherwise a new option changes what an abbreviation
    means.
    """
    parser.add_argument(
        f"--{CONFIG_FILE}",
        metavar="PATH",
        dest=CONFIG_FILE,
        default=argparse.SUPPRESS,
        help=f"TOML file; this process reads its table [{schema.table}]",
    )
    for title, options in schema.sections:
        group = parser.add_argument_group(title)
        for option in options:
            special: dict[str, Any] = {}
            if option.repeatable:
                special = {"action": "append"}
            elif option.kind is BOOLEAN:
                special = {"nargs": "?", "const": "true"}
            group.add_argument(
                *(f"--{name}" for name in (option.name, *option.aliases)),
                dest=option.name,
                metavar=_metavar(option),
                default=argparse.SUPPRESS,
                # argparse expands % in help texts
                help=_help(schema, option).replace("%", "%%"),
                **special,
            )


def _metavar(option: Option) -> str:
    """Return the placeholder of the value: the words of a choice, else the name of the kind."""
    if option.kind is BOOLEAN:
        return "true|false"
    words = re.split(r", | or ", option.kind.name)
    return "|".join(words) if len(words) > 1 else option.kind.name.upper().replace(" ", "-")


def _help(schema: Schema[Any], option: Option) -> str:
    default = option.unset if option.default is None else option.kind.show(option.default)
    if isinstance(default, bool):
        default = "true" if default else "false"
    notes = [f"default: {default}"] if default != "" else []
    if option.repeatable:
        notes.append("may be given several times")
    if option.secret:
        notes.append(f"better in the environment, as {variable_of(schema, option.name)}")
    return f"{option.doc} ({'; '.join(notes)})" if notes else option.doc


def flag_layer(flags: Mapping[str, object]) -> Layer:
    """Return flags by option name, from `vars(parser.parse_args())`; also used for a program's own
    overrides.

    `--config-file` is skipped; `resolve` rejects anything else that is not an option.
    """
    values = {name: value for name, value in flags.items() if name != CONFIG_FILE}
    return Layer(Origin.FLAG, values, {name: f"--{name}" for name in values})


def load_config(
    schema: Schema[Any],
    build: Callable[[Iterable[Layer]], C],
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: TomlFile | None = None,
) -> C:
    """Load the configuration of a process; `build` makes it of the explicit layers, which are all but presets
    and defaults. Raises `ConfigError`."""
    layers = [environment_layer(schema, environ or {}), flag_layer(flags or {})]
    if file is not None:
        layers.append(file_layer(schema, file))
    return build(layers)


def config_file_of(
    schema: Schema[Any], flags: Mapping[str, object], environ: Mapping[str, str]
) -> str | None:
    """Return the path of the configuration file: flag, else variable, else None."""
    named = flags.get(CONFIG_FILE) or environ.get(variable_of(schema, CONFIG_FILE))
    return str(named) if named else None


def visible_secret(schema: Schema[Any], name: str) -> ConfigError:
    """Build the error for a secret on a command line."""
    variable = variable_of(schema, schema.option(name).name)
    return ConfigError(
        name, f"holds a secret, and every user of the host can read a command line: set {variable}"
    )


# --- back to text, for starting a process -----------------------------------------------------------------


def _texts_of(schema: Schema[Any], name: str, value: object) -> Sequence[str]:
    option = schema.option(name)
    items: Sequence[object] = value if option.repeatable and isinstance(value, list | tuple) else (value,)
    return [_text_of(item) for item in items]


def _text_of(item: object) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    return str(item)


def to_flags(schema: Schema[Any], values: Mapping[str, object]) -> list[str]:
    """Return raw option values as arguments of the process (`--name=value`), without those that are None.

    Rejects a secret: arguments can be read by every user of the host. Use `to_environment` for it.
    """
    arguments: list[str] = []
    for name, value in values.items():
        if value is None:
            continue
        if schema.option(name).secret_in(value):
            raise visible_secret(schema, name)
        arguments += [f"--{name}={text}" for text in _texts_of(schema, name, value)]
    return arguments


def to_environment(schema: Schema[Any], values: Mapping[str, object]) -> dict[str, str]:
    """Return raw option values as environment variables of the process, without those that are None."""
    variables: dict[str, str] = {}
    for name, value in values.items():
        if value is None:
            continue
        texts = _texts_of(schema, name, value)
        if schema.option(name).repeatable and any("," in text for text in texts):
            raise ConfigError(name, "a list with a comma inside an item cannot be given by the environment")
        variables[variable_of(schema, name)] = ",".join(texts)
    return variables

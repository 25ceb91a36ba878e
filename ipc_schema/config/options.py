"""Options, where their values come from, and which source wins.

    flag  >  environment  >  file  >  preset  >  default

- A later layer of the same origin beats an earlier one. `None` (null) means "not set here".
- **List options** take the strongest explicit layer (flag, environment or file) as a whole, behind what the
  preset gives: a preset's entry nodes stay, and an own list is added to them. Repeats are dropped. (nwaku
  joins preset and explicit lists in the same way.)
- Nothing is guessed: an unknown key or a bad value is a `ConfigError` that names the key, where it stands,
  and the nearest known key.

Everything here is pure; reading files and the environment is the caller's (see `sources`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, NamedTuple

from ipc_schema.config.kinds import Kind

__all__ = [
    "ConfigError",
    "Layer",
    "Option",
    "Origin",
    "PortUse",
    "Resolved",
    "Schema",
    "Section",
    "Value",
    "refuse_port_clashes",
    "resolve",
]


class ConfigError(ValueError):
    """A configuration that cannot be used. `key` is the option (or variable, or table) to change."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message


class Origin(StrEnum):
    """Where a value came from, weakest first."""

    DEFAULT = "default"
    PRESET = "preset"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


_STRENGTH = {origin: rank for rank, origin in enumerate(Origin)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting. `default` is a parsed value; None means "unset", and the reader of the value says what
    then holds (`unset`, shown to people). `aliases` are other names for the same option."""

    name: str
    kind: Kind
    doc: str
    default: Any = None
    unset: str = ""
    repeatable: bool = False
    secret: bool = False
    conceals: Callable[[str], bool] | None = None
    """Whether a value holds a secret, where only some do."""
    aliases: tuple[str, ...] = ()

    def secret_in(self, raw: object) -> bool:
        """Whether a raw value must not be seen by other users."""
        return self.secret or (self.conceals is not None and self.conceals(str(raw)))


class Value(NamedTuple):
    """A resolved value and where it came from; `detail` is the file and line, variable, flag or preset."""

    value: Any
    origin: Origin
    detail: str = ""

    def source(self) -> str:
        """For people: `file node.toml line 3`, `default`."""
        return f"{self.origin} {self.detail}".rstrip()


@dataclass(frozen=True, slots=True)
class Layer:
    """Raw values of one source. `details` says for a key where exactly it stood, `detail` for all others;
    `ignored`: what stood there and is not ours."""

    origin: Origin
    values: Mapping[str, object]
    details: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""
    ignored: tuple[str, ...] = ()

    def where(self, key: str) -> str:
        return self.details.get(key, self.detail)

    def place(self, key: str) -> str:
        """For people: `flag --tcp-port`."""
        return f"{self.origin} {self.where(key)}".rstrip()


class Section(NamedTuple):
    """Options that are shown to people under one title."""

    title: str
    options: tuple[Option, ...]


class Schema:
    """The options of one process, by name. `table` is its table in the file and part of variable names."""

    def __init__(self, table: str, *sections: Section) -> None:
        self.table = table
        self.sections = sections
        self.options = tuple(option for section in sections for option in section.options)
        self._by_name: dict[str, Option] = {}
        for option in self.options:
            for name in (option.name, *option.aliases):
                if name in self._by_name:
                    raise ValueError(f"two options are named {name}")
                self._by_name[name] = option

    def __iter__(self) -> Iterator[Option]:
        return iter(self.options)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def option(self, name: str, place: str = "") -> Option:
        """The option of that name or alias; `ConfigError` with the nearest known name otherwise."""
        found = self._by_name.get(name)
        if found is None:
            raise ConfigError(name, f"there is no such option in [{self.table}]{self.hint(name)}{_at(place)}")
        return found

    def hint(self, name: str) -> str:
        """`, did you mean tcp-port?` or nothing."""
        near = difflib.get_close_matches(name.lower().replace("_", "-"), self._by_name, n=1, cutoff=0.6)
        return f", did you mean {near[0]}?" if near else ""


class Resolved(Mapping[str, Any]):
    """Every option of the schema with its value. Indexing gives the value, `source_of` where it came from."""

    def __init__(self, schema: Schema, values: Mapping[str, Value], ignored: Iterable[str] = ()) -> None:
        self.schema = schema
        self.ignored = tuple(ignored)
        """What the sources hold that is not ours."""
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def source_of(self, name: str) -> Value:
        """The value with its origin and detail."""
        return self._values[name]

    def explicit(self, name: str) -> bool:
        """Whether a person set it: in a file, a variable or a flag."""
        return _STRENGTH[self._values[name].origin] > _STRENGTH[Origin.PRESET]

    def refuse(self, name: str, message: str) -> ConfigError:
        """An error about this option that says where its value stands."""
        return ConfigError(name, message + _at(self._values[name].source()))


def resolve(schema: Schema, layers: Iterable[Layer]) -> Resolved:
    """Parse and merge the layers (in any order). Raises `ConfigError`."""
    chosen: dict[str, Value] = {}
    preset_lists: dict[str, Value] = {}
    # sorted() is stable: of two layers of one origin the later one is applied later, and wins
    ordered = sorted(layers, key=lambda layer: _STRENGTH[layer.origin])
    for layer in ordered:
        seen: dict[str, str] = {}
        for key, raw in layer.values.items():
            option = schema.option(key, layer.place(key))
            if raw is None:
                continue
            if option.name in seen:
                raise ConfigError(key, f"is the same option as {seen[option.name]}: give one of them")
            seen[option.name] = key
            kept_apart = option.repeatable and layer.origin is Origin.PRESET
            into = preset_lists if kept_apart else chosen
            into[option.name] = Value(_parse(option, key, raw, layer), layer.origin, layer.where(key))
    return Resolved(
        schema,
        {
            option.name: _combine(option, chosen.get(option.name), preset_lists.get(option.name))
            for option in schema
        },
        (name for layer in ordered for name in layer.ignored),
    )


def _combine(option: Option, explicit: Value | None, preset_list: Value | None) -> Value:
    if preset_list is None:
        default = () if option.repeatable and option.default is None else option.default
        return explicit or Value(default, Origin.DEFAULT)
    if explicit is None:
        return preset_list
    return explicit._replace(value=tuple(dict.fromkeys((*preset_list.value, *explicit.value))))


def _at(place: str) -> str:
    return f" ({place})" if place else ""


def _parse(option: Option, key: str, raw: object, layer: Layer) -> Any:
    try:
        for text in raw if isinstance(raw, list | tuple) else (raw,):
            # Bytes of arguments and variables that are not UTF-8 arrive as lone surrogates (PEP 383), which
            # no socket path, message or file can hold.
            if isinstance(text, str) and not _is_utf8(text):
                raise ValueError("is not valid UTF-8")
        if not option.repeatable:
            if isinstance(raw, list | tuple | dict):
                raise ValueError("takes one value, not a list or a table")
            return option.kind.parse(raw)
        items: Sequence[object] = raw if isinstance(raw, list | tuple) else (raw,)
        return tuple(dict.fromkeys(option.kind.parse(item) for item in items))
    except ValueError as error:
        raise ConfigError(key, f"{error}{_at(layer.place(key))}") from None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class PortUse(NamedTuple):
    """A port that an option makes the process listen on."""

    key: str
    address: str
    port: int


def refuse_port_clashes(uses: Iterable[PortUse]) -> None:
    """Refuse two listeners on one port of one address (or of a wildcard address). Port 0 never clashes."""
    seen: list[PortUse] = []
    for use in uses:
        if not use.port:
            continue
        for other in seen:
            if use.port == other.port and _same_address(use.address, other.address):
                raise ConfigError(
                    use.key,
                    f"port {use.port} on {use.address} is already taken by {other.key} (0 = automatic)",
                )
        seen.append(use)


def _same_address(one: str, other: str) -> bool:
    return one == other or ip_address(one).is_unspecified or ip_address(other).is_unspecified

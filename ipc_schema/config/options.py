"""Options, the sources of their values, and precedence between sources.

    flag  >  environment  >  file  >  preset  >  default

- A later layer of the same origin beats an earlier one. `None` (null) means "not set here".
- **List options** take the strongest explicit layer (flag, environment or file) as a whole, appended to the
  preset's: a preset's entry nodes stay, and an own list is added to them. Duplicates are dropped. (nwaku
  joins preset and explicit lists in the same way.)
- Nothing is guessed: an unknown key or an invalid value is a `ConfigError` that names the key, its place,
  and the nearest known key.

Everything here is pure; reading files and the environment is the caller's job (see `sources`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar, get_type_hints

from ipc_schema.config.kinds import Kind

OptionsT = TypeVar("OptionsT")


class ConfigError(ValueError):
    """An unusable configuration. `key` is the option (or variable, or table) to change."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message


class Origin(StrEnum):
    """Origin of a value, weakest first."""

    DEFAULT = "default"
    PRESET = "preset"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


_STRENGTH = {origin: rank for rank, origin in enumerate(Origin)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting, as its field in an option section declares it.

    `default` is a parsed value; None means "unset", and the reader of the value decides what that means
    (`unset` is its displayed text). `aliases` are other names of the same option.
    """

    kind: Kind
    doc: str
    name: str = ""
    default: Any = None
    unset: str = ""
    repeatable: bool = False
    secret: bool = False
    conceals: Callable[[str], bool] | None = None
    """Whether a value holds a secret, where only some do."""
    aliases: tuple[str, ...] = ()

    @property
    def initial(self) -> Any:
        """The value while nothing is set: the default, and an empty tuple for a list without one."""
        return () if self.repeatable and self.default is None else self.default

    def secret_in(self, raw: object) -> bool:
        """Return whether a raw value must be hidden from other users."""
        return self.secret or (self.conceals is not None and self.conceals(str(raw)))


def option(kind: Kind, doc: str, **settings: Any) -> Any:
    """Declare an option as a field of a section; `settings` are further fields of `Option`. The option's name
    is the field's, with `-` for `_`.

    The annotation is the type of a parsed value: `T | None` without a default, `tuple[T, ...]` when
    repeatable.
    """
    declared = Option(kind=kind, doc=doc, **settings)
    shown = not declared.secret and declared.conceals is None
    return field(default=declared.initial, metadata={_OPTION: declared}, repr=shown)


_OPTION: Final = "option"


@dataclass(frozen=True, kw_only=True)
class OptionSection:
    """Options shown under one title. Subclasses are frozen dataclasses of `option` fields."""

    TITLE: ClassVar[str] = ""

    @classmethod
    def declared(cls) -> dict[str, Option]:
        """Return the options by field name, in order."""
        return {
            one.name: replace(one.metadata[_OPTION], name=one.name.replace("_", "-")) for one in fields(cls)
        }


class Value(NamedTuple):
    """A resolved value and its source; `detail` is the file and line, variable, flag or preset."""

    value: Any
    origin: Origin
    detail: str = ""

    def source(self) -> str:
        """Return the source for display: `file node.toml line 3`, `default`."""
        return f"{self.origin} {self.detail}".rstrip()


@dataclass(frozen=True, slots=True)
class Layer:
    """Raw values of one source.

    `details` gives the exact place per key, `detail` the place of all others; `ignored` lists what was
    found there that is not ours.
    """

    origin: Origin
    values: Mapping[str, object]
    details: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""
    ignored: tuple[str, ...] = ()

    def where(self, key: str) -> str:
        return self.details.get(key, self.detail)

    def place(self, key: str) -> str:
        """Return a key's place for display: `flag --tcp-port`."""
        return f"{self.origin} {self.where(key)}".rstrip()


class Schema(Generic[OptionsT]):
    """The options of one process.

    `table` is its table in the file and part of variable names. `options` is a frozen dataclass whose
    fields are option sections. `moved` says where options of an earlier version are now.
    """

    def __init__(self, table: str, options: type[OptionsT], moved: Mapping[str, str] | None = None) -> None:
        self.table = table
        self._type = options
        self._moved = dict(moved or {})
        self._sections: dict[str, type[OptionSection]] = get_type_hints(options)
        self.sections = tuple(
            (section.TITLE, tuple(section.declared().values())) for section in self._sections.values()
        )
        """(title, options) of each section."""
        self.options = tuple(option for _, section in self.sections for option in section)
        self._by_name: dict[str, Option] = {}
        for option in self.options:
            for name in (option.name, *option.aliases):
                if name in self._by_name:
                    raise ValueError(f"two options are named {name}")
                self._by_name[name] = option

    def build(self, values: Mapping[str, object]) -> OptionsT:
        """Build the typed options from parsed values by option name."""
        sections: dict[str, Any] = {
            name: section(**{field: values[option.name] for field, option in section.declared().items()})
            for name, section in self._sections.items()
        }
        return self._type(**sections)

    def __iter__(self) -> Iterator[Option]:
        return iter(self.options)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def option(self, name: str, place: str = "") -> Option:
        """Return the option of that name or alias. Raises `ConfigError` with the nearest known name."""
        found = self._by_name.get(name)
        if found is None and name in self._moved:
            raise ConfigError(name, f"is now {self._moved[name]}{_at(place)}")
        if found is None:
            raise ConfigError(name, f"there is no such option in [{self.table}]{self.hint(name)}{_at(place)}")
        return found

    def hint(self, name: str) -> str:
        """Return `, did you mean tcp-port?` or nothing."""
        near = difflib.get_close_matches(name.lower().replace("_", "-"), self._by_name, n=1, cutoff=0.6)
        return f", did you mean {near[0]}?" if near else ""


class Resolved(Generic[OptionsT]):
    """Every option of a schema with its value: typed in `options`, by name with its source in `source_of`."""

    def __init__(
        self, schema: Schema[OptionsT], values: Mapping[str, Value], ignored: Iterable[str] = ()
    ) -> None:
        self.schema = schema
        self.ignored = tuple(ignored)
        """Entries of the sources that are not ours."""
        self._values = dict(values)
        self.options: OptionsT = schema.build({name: value.value for name, value in values.items()})

    def value(self, name: str) -> object:
        """Return the parsed value of an option whose name is only known at run time."""
        return self._values[name].value

    def source_of(self, name: str) -> Value:
        """Return the value with its origin and detail."""
        return self._values[name]

    def explicit(self, name: str) -> bool:
        """Return whether the operator set it: in a file, a variable or a flag."""
        return _STRENGTH[self._values[name].origin] > _STRENGTH[Origin.PRESET]

    def refuse(self, name: str, message: str) -> ConfigError:
        """Build an error about this option that says where its value was set."""
        return ConfigError(name, message + _at(self._values[name].source()))


def resolve(schema: Schema[OptionsT], layers: Iterable[Layer]) -> Resolved[OptionsT]:
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
        return explicit or Value(option.initial, Origin.DEFAULT)
    if explicit is None:
        return preset_list
    return explicit._replace(value=tuple(dict.fromkeys((*preset_list.value, *explicit.value))))


def _at(place: str) -> str:
    return f" ({place})" if place else ""


def _parse(option: Option, key: str, raw: object, layer: Layer) -> Any:
    try:
        for text in raw if isinstance(raw, list | tuple) else (raw,):
            # Arguments and variables that are not UTF-8 arrive as lone surrogates (PEP 383), which no socket
            # path, message or file can hold.
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
    """Reject two listeners on one port of one address (or of a wildcard address). Port 0 never clashes."""
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

"""A configuration of the reference's node as one of ours, so that its operators edit nothing. Pure.

The reference reads a command line, variables (`LOGOS_DELIVERY_NODE_…`, once `WAKUNODE2_…`) and a flat TOML
file. They are merged with its precedence, and become variables of ours (`LOGOS_KERNEL_TCP_PORT`, …): the
processes inherit them, and secrets among them are on none of our command lines. Variables of ours beat
those of the reference and its file; its command line beats both.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ipc_schema.config.kinds import ALL, BOOLEAN, NONE
from ipc_schema.config.options import ConfigError
from ipc_schema.config.presets import find_preset
from ipc_schema.config.sources import CONFIG_FILE, TABLES, config_file_of, to_environment, variable_of
from ipc_schema.topics import autoshard
from logos_deploy.node.processes import SCHEMAS
from logos_deploy.node.reference import REFERENCE_LISTS, REFERENCE_OPTIONS, Fate

PREFIXES: Final = ("WAKUNODE2_", "LOGOS_DELIVERY_NODE_")
"""Prefixes of the reference's variables; a later one wins."""
_KERNEL: Final = "kernel"
_DECIDED_BY_MODE: Final = ("relay", "filter", "lightpush")
_VISIBLE: Final = "{} holds a secret that every user of the host can read on a command line: better in {}"

ReadText = Callable[[str], str]
"""Returns the text of a file. Raises `OSError` or `UnicodeDecodeError`."""


class _Given(NamedTuple):
    """An option as it was given. `place`: the flag, the variable or the file."""

    value: Any
    place: str
    from_flag: bool = False


@dataclass(frozen=True, slots=True)
class TranslatedSources:
    """What the node is planned from."""

    environ: Mapping[str, str]
    """The whole environment, with the reference's options as variables of ours."""
    kernel_only: bool = False
    config_file: str | None = None
    """A file of ours, as it was given."""
    warnings: tuple[str, ...] = ()


def split_words(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split `key=value` words into ours, and flags of the reference that no process of ours has."""
    ours: list[str] = []
    theirs: list[str] = []
    for word in words:
        name = word.partition("=")[0].strip()
        # Our own way to name a file has a flag and an error message of its own.
        taken = name in REFERENCE_OPTIONS and name != CONFIG_FILE and not _tables_of(name)
        (theirs if taken else ours).append(f"--{word}" if taken else word)
    return ours, theirs


def take_over(
    arguments: Sequence[str],
    config_file: str | None,
    environ: Mapping[str, str],
    read: ReadText,
    words: Iterable[str] = (),
) -> TranslatedSources:
    """Translate. `config_file` is our flag's, and may name a file of either kind; `words` are `key=value` of
    ours beside them. Raises `ConfigError`."""
    flags = dict(_flags(arguments))
    variables, foreign = _variables(environ)
    named = config_file or next(
        (str(one[CONFIG_FILE].value) for one in (flags, variables) if CONFIG_FILE in one), None
    )
    theirs, ours = _file(named, read)
    if named is None:
        # a file that one of our own variables names may be the reference's too
        named = config_file_of(SCHEMAS[_KERNEL], {}, environ)
        theirs, _ = _file(named, read)
    given = {**theirs, **variables, **flags}
    given.pop(CONFIG_FILE, None)
    warnings = [f"no option, ignored: {', '.join(foreign)}"] if foreign else []
    beside = {
        name.strip().removeprefix("kernel."): value
        for name, _, value in (word.partition("=") for word in words)
    }
    translation = _Translation(given, environ, beside, warnings)
    below, above, kernel_only = translation.run()
    own = {name: text for name, text in environ.items() if text.strip() or name not in below}
    if theirs:
        own = {name: text for name, text in own.items() if not _names_file(name, text, named)}
    return TranslatedSources({**below, **own, **above}, kernel_only, ours, tuple(warnings))


def _names_file(variable: str, text: str, path: str | None) -> bool:
    return text == path and variable in {variable_of(schema, CONFIG_FILE) for schema in SCHEMAS.values()}


# --- the sources ------------------------------------------------------------------------------------------


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, _Given]]:
    """Parse `--name=value`, `--name:value`, `--name value` and a bare `--name`, as the reference does."""
    collected: dict[str, list[str]] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise ConfigError(word, "is not an option of the form --name=value")
        cut = min((at for at in (word.find("="), word.find(":")) if at > 0), default=len(word))
        name, value = word[2:cut].lower(), word[cut + 1 :]
        _check_known(name, f"flag --{name}")
        if cut == len(word):
            takes_next = words and not words[0].startswith("--") and not _is_switch(name)
            value = words.pop(0) if takes_next else "true"
        collected.setdefault(name, []).append(value)
    for name, values in collected.items():
        if len(values) > 1 and not _is_list(name):
            raise ConfigError(name, f"is given {len(values)} times")
        yield name, _Given(values if _is_list(name) else values[0], f"--{name}", from_flag=True)


def _variables(environ: Mapping[str, str]) -> tuple[dict[str, _Given], list[str]]:
    known = {name.upper().replace("-", "_"): name for name in _names()}
    found: dict[str, _Given] = {}
    foreign: list[str] = []
    for prefix in PREFIXES:
        for variable, text in environ.items():
            if not variable.startswith(prefix) or not text.strip():
                continue
            name = known.get(variable.removeprefix(prefix))
            if name is None:
                foreign.append(variable)
            else:
                found[name] = _Given(_list_in(text) if _is_list(name) else text, variable)
    return found, foreign


def _list_in(text: str) -> list[str]:
    """Return the items of `a,b` or `["a", "b"]`."""
    stripped = text.strip()
    if stripped.startswith("["):
        try:
            return [str(item) for item in tomllib.loads(f"items = {stripped}")["items"]]
        except tomllib.TOMLDecodeError:
            pass
    return [part.strip() for part in stripped.split(",") if part.strip()]


def _file(path: str | None, read: ReadText) -> tuple[dict[str, _Given], str | None]:
    """Return the options of a file of the reference, or the path of one of ours."""
    if path is None:
        return {}, None
    try:
        document = tomllib.loads(read(path).removeprefix("\ufeff"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(CONFIG_FILE, f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, f"is not valid TOML: {error}") from error
    # Ours has tables only, the reference's has none.
    if not document or any(name in TABLES or isinstance(value, dict) for name, value in document.items()):
        return {}, path
    for name in document:
        _check_known(name, f"file {path}")
    return {name: _Given(value, f"file {path}") for name, value in document.items()}, None


def _names() -> set[str]:
    names = {name for schema in SCHEMAS.values() for one in schema for name in (one.name, *one.aliases)}
    return names | set(REFERENCE_OPTIONS)


def _check_known(name: str, place: str) -> None:
    if name not in REFERENCE_OPTIONS and not _tables_of(name):
        hints = (schema.hint(name) for schema in SCHEMAS.values())
        raise ConfigError(name, f"there is no such option{next(filter(None, hints), '')} ({place})")


def _tables_of(name: str) -> list[str]:
    return [table for table, schema in SCHEMAS.items() if name in schema]


def _is_list(name: str) -> bool:
    tables = _tables_of(name)
    return SCHEMAS[tables[0]].option(name).repeatable if tables else name in REFERENCE_LISTS


def _is_switch(name: str) -> bool:
    tables = _tables_of(name)
    if tables:
        return SCHEMAS[tables[0]].option(name).kind is BOOLEAN
    return name not in REFERENCE_LISTS and REFERENCE_OPTIONS[name].asks


# --- the translation --------------------------------------------------------------------------------------


class _Translation:
    """Turns what was given into variables of ours."""

    def __init__(
        self,
        given: dict[str, _Given],
        environ: Mapping[str, str],
        beside: Mapping[str, str],
        warnings: list[str],
    ) -> None:
        self._given = given
        self._beside = beside
        self._environ = environ
        self._warnings = warnings

    def run(self) -> tuple[dict[str, str], dict[str, str], bool]:
        """Return the variables below our own, those above them, and whether there is no MAPI."""
        if not self._given:
            return {}, {}, False
        kernel_only = self._entry_layer()
        self._refuse_and_ignore()
        self._network()
        if kernel_only:
            self._drop("mode", "the kernel alone has no mode")
        else:
            for name in _DECIDED_BY_MODE:
                self._drop(name, "the mode decides it, as in the reference")
        below: dict[str, str] = {}
        above: dict[str, str] = {}
        for name, one in self._given.items():
            for table in _tables_of(name):
                if not (kernel_only and table == "mapi"):
                    schema = SCHEMAS[table]
                    variable = variable_of(schema, schema.option(name).name)
                    (above if one.from_flag else below).update(to_environment(schema, {name: one.value}))
                    if one.from_flag and schema.option(name).secret_in(one.value):
                        self._warnings.append(_VISIBLE.format(one.place, variable))
        return below, above, kernel_only

    def _drop(self, name: str, why: str) -> None:
        if (one := self._given.pop(name, None)) is not None:
            self._warnings.append(f"{one.place} does nothing here: {why}")

    def _entry_layer(self) -> bool:
        one = self._given.pop("entry-layer", None)
        layer = "channels" if one is None else str(one.value).strip().lower()
        if layer not in ("kernel", "messaging", "channels"):
            raise ConfigError("entry-layer", f"{layer!r} is none of kernel, messaging, channels")
        return layer == "kernel"

    def _refuse_and_ignore(self) -> None:
        for name in [name for name in self._given if name in REFERENCE_OPTIONS and not _tables_of(name)]:
            option, one = REFERENCE_OPTIONS[name], self._given[name]
            if option.fate is Fate.MAPPED:
                continue
            del self._given[name]
            if option.asks and not self._is_true(name, one):
                continue
            if option.fate is Fate.REFUSED:
                raise ConfigError(name, f"{option.why} ({one.place})")
            self._warnings.append(f"{one.place} does nothing here: {option.why}")

    def _is_true(self, name: str, one: _Given) -> bool:
        try:
            return bool(BOOLEAN.parse(one.value))
        except ValueError as error:
            raise ConfigError(name, f"{error} ({one.place})") from None

    def _network(self) -> None:
        """Apply what follows from the network options in the reference, but not here."""
        preset = self._value("preset")
        cluster = self._value("cluster-id")
        if not preset and cluster == "1":
            self._given["preset"] = self._given["cluster-id"]._replace(value="twn")
            self._warnings.append("cluster-id 1 without a preset: the preset twn, as in the reference")
        elif not preset and cluster == "2":
            raise ConfigError(
                "cluster-id",
                "the reference takes 2 for logos.dev, whose cluster is 3: "
                "give preset=logos.test (cluster 2) or preset=logos.dev",
            )
        elif not preset and self._value("num-shards-in-network") in ("", "0"):
            self._given["num-shards-in-network"] = _Given("0", "default")
            self._warnings.append(
                "neither preset nor num-shards-in-network: static sharding, as in the reference"
            )
        self._content_topics()

    def _value(self, name: str) -> str:
        """Return the text of an option, ours or the reference's; empty if it is not set."""
        if name in self._beside:
            return self._beside[name].strip()
        own = self._environ.get(variable_of(SCHEMAS[_KERNEL], name), "").strip()
        one = self._given.get(name)
        if one is None or (own and not one.from_flag):
            return own
        return str(one.value).strip()

    def _content_topics(self) -> None:
        one = self._given.pop("content-topic", None)
        shards = self._given.get("shard")
        if one is None or shards is None:
            return  # without shard the node is on every shard of the network
        found = find_preset(self._value("preset"))
        count = int(self._value("num-shards-in-network") or (found.shard_count if found else 0))
        topics = one.value if isinstance(one.value, list) else [one.value]
        named = shards.value if isinstance(shards.value, list) else [shards.value]
        if not count:
            raise ConfigError("content-topic", f"needs num-shards-in-network ({one.place})")
        if not {ALL, NONE} & set(map(str, named)):
            try:
                more = [str(autoshard(str(topic), count)) for topic in topics]
            except ValueError as error:
                raise ConfigError("content-topic", f"{error} ({one.place})") from None
            self._given["shard"] = shards._replace(value=list(dict.fromkeys([*map(str, named), *more])))

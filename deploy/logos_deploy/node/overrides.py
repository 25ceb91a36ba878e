"""Split the options given for a node between its processes, from command-line words or a program's values.
Pure.

An option that several processes have goes to each; `kernel.<option>`, `mapi.<option>`, `gateway.<option>`
and `bridge.<option>` address one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from ipc_schema.config.options import ConfigError
from ipc_schema.config.sources import CONFIG_FILE, visible_secret
from logos_deploy.node.processes import SCHEMAS

# The same name in both processes, but one value for both would clash.
_OWN_TO_EACH: Final = frozenset({"ipc-control"})


class NodeOverrides:
    """Raw values by process. Lists are collected; anything else may be given once."""

    def __init__(self, tables: Sequence[str], *, visible: bool) -> None:
        """`tables`: the processes of the node.

        `visible`: the values are on a command line, where secrets are refused.
        """
        self.of: dict[str, dict[str, Any]] = {table: {} for table in SCHEMAS}
        self._tables = tables
        self._visible = visible

    def add_words(self, words: Iterable[str]) -> None:
        """Take `key=value` words. Raises `ConfigError`."""
        for word in words:
            key, equals, value = word.partition("=")
            key = key.strip()
            if not equals or not key:
                raise ConfigError(word, "is not key=value")
            self.add(key, value)

    def add(self, key: str, value: object) -> None:
        """Give a value to the processes that have this option. Raises `ConfigError`."""
        prefix, dot, name = key.partition(".")
        if dot and prefix in SCHEMAS:
            if prefix not in self._tables:
                raise ConfigError(key, "there is no MAPI with --kernel-only")
            self._put(prefix, name, value)
            return
        if key == CONFIG_FILE:
            raise ConfigError(key, f"is not an option of a process: give --{CONFIG_FILE}")
        having = [table for table in self._tables if key in SCHEMAS[table]]
        if not having:
            if key in SCHEMAS["mapi"]:
                raise ConfigError(key, "is an option of MAPI, which --kernel-only leaves out")
            hints = (SCHEMAS[table].hint(key) for table in self._tables)
            raise ConfigError(key, f"there is no such option{next(filter(None, hints), '')}")
        if key in _OWN_TO_EACH and len(having) > 1:
            raise ConfigError(key, f"belongs to one process: give kernel.{key} or mapi.{key}")
        for table in having:
            self._put(table, key, value)

    def _put(self, table: str, key: str, value: object) -> None:
        option = SCHEMAS[table].option(key)
        if self._visible and option.secret_in(value):
            raise visible_secret(SCHEMAS[table], key)
        values = self.of[table]
        if option.repeatable:
            values.setdefault(option.name, []).extend(value if isinstance(value, list | tuple) else (value,))
        elif option.name in values:
            raise ConfigError(key, "is given twice")
        else:
            values[option.name] = value

"""Read a TOML configuration file, for parts that are otherwise pure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ipc_schema.config.options import ConfigError
from ipc_schema.config.sources import CONFIG_FILE, TomlFile, parse_toml


def read_text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def read_toml(path: str, read: Callable[[str], str] = read_text) -> TomlFile:
    """Return the parsed file, whose text `read` returns. Raise `ConfigError`, also if it cannot be read."""
    try:
        text = read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(CONFIG_FILE, f"cannot read {path}: {error}") from error
    return parse_toml(text, path)

"""Reading configuration files, for what is pure elsewhere."""

from __future__ import annotations

from pathlib import Path

from ipc_schema.config.options import ConfigError
from ipc_schema.config.sources import CONFIG_FILE, TomlFile, parse_toml

__all__ = ["read_toml"]


def read_toml(path: str) -> TomlFile:
    """The parsed file. Raises `ConfigError`, also when it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(CONFIG_FILE, f"cannot read {path}: {error}") from error
    return parse_toml(text, path)

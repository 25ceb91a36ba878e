"""Small files that a process keeps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def replace_file(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file, readable by its owner only, in one step for its readers. Raises OSError.

    `durable`: after a crash of the host, too, it is the old one or the new one; this waits for the disk.
    """
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path, *, version: int, max_bytes: int) -> Any:
    """Return the content of a JSON file, an object of this `version`. Raises OSError, ValueError, KeyError,
    TypeError or RecursionError: a file may have been edited or damaged."""
    if path.stat().st_size > max_bytes:
        raise ValueError(f"more than {max_bytes} bytes")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["version"] != version:
        raise ValueError(f"version {content['version']}")
    return content

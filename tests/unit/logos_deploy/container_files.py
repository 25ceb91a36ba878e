"""The files of deploy/container, read as an engine reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

CONTAINER = Path(__file__).parents[3] / "deploy" / "container"


def defaults() -> dict[str, str]:
    """The variables of `.env.example`."""
    lines = (CONTAINER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def compose(*further: str, **environ: str) -> dict[str, Any]:
    """The compose file with the values of `.env.example` and `environ`, as the engine would read it.

    `further`: of `compose.NAME.yaml`, laid over it in that order.
    """
    values = defaults() | environ

    def value(match: re.Match[str]) -> str:
        name, operator, default = match[1], match[2] or "", match[3] or ""
        if operator == ":?":
            assert values.get(name), f"{name} has no value in .env.example"
        return values.get(name) or default

    found: dict[str, Any] = {}
    for file in ("compose.yaml", *(f"compose.{name}.yaml" for name in further)):
        text = (CONTAINER / file).read_text()
        text = re.sub(r"(?<!\$)\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)
        found = _laid_over(found, yaml.safe_load(text.replace("$$", "$")))
    return found


def _laid_over(under: Any, over: Any) -> Any:
    """Merge as Compose does: tables key by key, lists one after the other."""
    if isinstance(under, dict) and isinstance(over, dict):
        return under | {name: _laid_over(under.get(name), value) for name, value in over.items()}
    if isinstance(under, list) and isinstance(over, list):
        return under + over
    return over


def instructions(target: str = "") -> list[list[str]]:
    """The instructions of the Containerfile, continued lines joined; of all stages, or of that one alone."""
    text = (CONTAINER / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    if not target:
        return lines
    (start,) = [
        at for at, (name, rest) in enumerate(lines) if name == "FROM" and rest.endswith(f" AS {target}")
    ]
    rest = lines[start + 1 :]
    return rest[: next((at for at, line in enumerate(rest) if line[0] == "FROM"), len(rest))]

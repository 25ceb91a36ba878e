"""The tables of options and exit codes in docs/operate.md, made from the schemas and from `exits`.

python -m tests.unit.logos_deploy.option_tables      writes them into the file
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ipc_schema.config.bridge import BRIDGE_SCHEMA
from ipc_schema.config.common import ProcessOptions, describe
from ipc_schema.config.gateway import GATEWAY_SCHEMA
from ipc_schema.config.kernel import KERNEL_SCHEMA
from ipc_schema.config.mapi import MAPI_SCHEMA
from ipc_schema.config.options import Schema
from logos_deploy.exits import COMMAND_EXITS

PAGE = Path(__file__).parents[3] / "docs" / "operate.md"


def table(schema: Schema[Any], *, common: bool) -> str:
    """The options of one process that the other has too (`common`), or those that it alone has."""
    shared = {option.name for option in ProcessOptions.declared().values()}
    lines = ["| option | default | what it is |", "|---|---|---|"]
    for row, option in zip(describe(schema), schema, strict=True):
        if (option.name in shared) is not common:
            continue
        default = _default(row["default"], option.unset)
        names = " or ".join(f"`{name}`" for name in (option.name, *option.aliases))
        marks = "*" if option.repeatable else ""
        lines.append(f"| {names}{marks} | {_cell(default)} | {_cell(option.doc)} |")
    return "\n".join(lines)


def _default(value: object, unset: str) -> str:
    if value in (None, "", []):
        return unset
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def exits() -> str:
    """What the exit codes mean of each command."""
    lines = ["| `logos …` | exit codes |", "|---|---|"]
    for command, meanings in COMMAND_EXITS.items():
        text = "; ".join(f"{int(code)}: {meaning}" for code, meaning in meanings.items())
        lines.append(f"| `{command}` | {text} |")
    return "\n".join(lines)


TABLES = {
    "exits": exits(),
    "kernel": table(KERNEL_SCHEMA, common=False),
    "mapi": table(MAPI_SCHEMA, common=False),
    "gateway": table(GATEWAY_SCHEMA, common=False),
    "bridge": table(BRIDGE_SCHEMA, common=False),
    "common": table(KERNEL_SCHEMA, common=True),
}


def with_tables(text: str) -> str:
    """The page with its tables as they must be. ValueError when one has no place in it."""
    for name, content in TABLES.items():
        begin, end = f"<!-- options: {name} -->\n", "<!-- end -->"
        head, found, rest = text.partition(begin)
        tail = rest.partition(end)[2]
        if not found or not tail:
            raise ValueError(f"{PAGE.name} has no place for the table {name!r}")
        text = f"{head}{begin}{content}\n{end}{tail}"
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

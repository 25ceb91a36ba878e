"""Build hook of `logos-client`: put the contract, `ipc_schema`, into the wheel and the source
distribution.

The contract is at the top of the repository, one directory above this project. A source distribution has
its own copy beside this file and builds from that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ContractHook(BuildHookInterface):  # type: ignore[misc,type-arg,unused-ignore]
    """Add `ipc_schema/` without its vectors, which only tests read."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        contract = next(
            place for place in (root / "ipc_schema", root.parent / "ipc_schema") if place.is_dir()
        )
        for file in sorted([*contract.rglob("*.py"), contract / "py.typed", contract / "SPEC.md"]):
            build_data["force_include"][str(file)] = f"ipc_schema/{file.relative_to(contract).as_posix()}"

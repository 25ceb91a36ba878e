"""Build hook of `logos-client`: put the contract, `ipc_schema`, into the wheel and the source
distribution.

The contract is at the top of the repository, one directory above this project. A source distribution has
its own copy beside this file and builds from that.

With `LOGOS_COMPILED=1` in the environment a wheel that is built in the repository has the modules that every
message passes compiled, by `deploy/compile.py`, and is for one platform and Python.
"""

from __future__ import annotations

import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ContractHook(BuildHookInterface):  # type: ignore[misc,type-arg,unused-ignore]
    """Add `ipc_schema/` without its vectors, which only tests read, and what is compiled."""

    def dependencies(self) -> list[str]:
        compiler = self._compiler()
        return compiler.requirements() if compiler is not None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        contract = next(
            place for place in (root / "ipc_schema", root.parent / "ipc_schema") if place.is_dir()
        )
        for file in sorted([*contract.rglob("*.py"), contract / "py.typed", contract / "SPEC.md"]):
            build_data["force_include"][str(file)] = f"ipc_schema/{file.relative_to(contract).as_posix()}"
        compiler = self._compiler()
        if compiler is not None and self.target_name == "wheel":
            self._built = compiler.build_into(build_data, [compiler.CLIENT])

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if built := getattr(self, "_built", None):
            shutil.rmtree(built)

    def _compiler(self) -> ModuleType | None:
        """Return the compiling of the repository, if it is there and wanted."""
        path = Path(self.root).parent / "deploy" / "compile.py"
        spec = spec_from_file_location("logos_compile", path) if path.is_file() else None
        if spec is None or spec.loader is None:
            return None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module if module.wanted() else None

"""A go-libp2p host with AutoNAT and circuit relay, in a place of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.interop.json_lines import JsonLinesProcess

SOURCE = Path(__file__).parent / "reach"
BUILD_SECONDS = 300


def build_go_host(program: Path) -> Path:
    """Compile it; returns `program`."""
    command = ["go", "build", "-trimpath", "-o", str(program), "."]
    done = subprocess.run(
        command, cwd=SOURCE, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return program


class GoHost:
    """As a context manager it is stopped at the end."""

    def __init__(self, program: Path, listen: str, *, through: Sequence[str] = ()) -> None:
        self._process = JsonLinesProcess(
            "go-libp2p", [*through, str(program), f"--listen={listen}"], cwd=SOURCE
        )
        ready = self._process.wait_event("ready", deadline=30)
        self.peer_id: str = ready["peerId"]
        self.address: str = ready["addresses"][0]

    def ask(self, command: str, address: str = "", *, deadline: float = 30.0) -> Any:
        """Run a command; raises CommandError."""
        return self._process.request(command, deadline=deadline, address=address)

    def connected(self) -> dict[str, list[str]]:
        """Addresses of connections by peer id."""
        found: dict[str, list[str]] = {}
        for one in self.ask("peers"):
            found.setdefault(one["peerId"], []).append(one["address"])
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close()

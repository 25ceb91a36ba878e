"""Debian's Chromium without a window, driven by `driver.mjs`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Self

import pytest

from tests.interop.json_lines import JsonLinesProcess
from tests.interop.npm import install_packages

HERE = Path(__file__).parent
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def chromium_path() -> str:
    """Where the browser is. Skips the test where there is none, but not in CI."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        text = "no Chromium here: install Debian's `chromium` to test what runs in a browser"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    return found


class Chromium:
    """One browser with one page."""

    def __init__(self, *flags: str) -> None:
        path = chromium_path()
        install_packages(HERE)
        self._process = JsonLinesProcess(
            "chromium", ["node", "driver.mjs", path, *flags], cwd=HERE, env={**os.environ, "HOME": "/tmp"}
        )
        self._process.wait_event("ready", deadline=60)

    def __call__(self, cmd: str, **arguments: Any) -> Any:
        """Run one command of the driver."""
        return self._process.request(cmd, deadline=60, **arguments)

    def wait(self, script: str, seconds: float = 30) -> Any:
        """Wait until an expression is true in the page; its value."""
        return self("wait", script=script, timeout=seconds * 1000)

    def value(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self("eval", script=script)

    def seen(self, kind: str) -> list[Any]:
        """What the page did: `console` and `pageerror` (complaints), `request` (addresses)."""
        return self._process.pending(kind)

    def close(self) -> None:
        """End the browser."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

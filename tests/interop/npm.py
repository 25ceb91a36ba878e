"""Locked npm packages, installed once, also when several test processes want them at the same time."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

NPM_CI_SECONDS = 240


def install_packages(folder: Path) -> None:
    """`npm ci` in a folder whose packages are missing or older than its lock file.

    Skips the test only where there is no Node.js at all: a failing installation is a failure.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no `node` and `npm` here: js-waku cannot be run")
    with (folder / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = folder / "node_modules" / ".package-lock.json"
        if installed.exists() and installed.stat().st_mtime >= Path(lock.name).stat().st_mtime:
            return
        done = subprocess.run(
            [npm, "ci", "--no-fund", "--no-audit"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=NPM_CI_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            pytest.fail(f"npm ci in {folder} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
        installed.touch()

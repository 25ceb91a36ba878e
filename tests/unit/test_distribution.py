"""The two distributions and their locks agree with each other and with the code."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def project(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


def locked(name: str) -> dict[str, str]:
    """Package to version; every package has at least one hash."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    return {entry.split("==")[0]: entry.split("==")[1].split()[0] for entry in entries}


def test_both_distributions_have_one_version_and_need_each_other_exactly() -> None:
    node, client = project("pyproject.toml")["project"], project("client/pyproject.toml")["project"]
    assert node["version"] == client["version"]
    assert f"logos-client=={client['version']}" in node["dependencies"]
    assert set(client["dependencies"]) < set(node["dependencies"])
    assert node["urls"]["Source"] == client["urls"]["Source"]
    javascript = json.loads((ROOT / "client/js/package.json").read_text(encoding="utf-8"))
    assert javascript["version"] == client["version"]
    assert f"## {client['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for name in ("LICENSE-MIT", "LICENSE-APACHE"):
        assert (ROOT / name).read_bytes() == (ROOT / "client" / name).read_bytes()


def test_the_locks_have_hashes_and_the_larger_holds_the_smaller() -> None:
    runtime, dev = locked("runtime.lock"), locked("dev.lock")
    assert runtime.items() <= dev.items()
    locked("docs.lock")


def test_the_locks_need_no_compiler_and_bring_no_stubs_that_hide_trio() -> None:
    assert not {"fastecdsa", "trio-typing"} & locked("dev.lock").keys()

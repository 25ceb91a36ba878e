"""The static pages hold nothing that their own policy would refuse, and name only files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import logos_gateway
from logos_gateway.pages import CONTENT_SECURITY_POLICY

STATIC = Path(logos_gateway.__file__).parent / "static"
FILES = [path for path in sorted(STATIC.rglob("*")) if path.is_file()]


def test_the_policy_allows_nothing_from_elsewhere() -> None:
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none';")
    assert not re.search(r"unsafe|\*|https?:|data:|blob:", CONTENT_SECURITY_POLICY)


@pytest.mark.parametrize("page", sorted(STATIC.glob("*/index.html")), ids=lambda page: str(page.parent.name))
def test_a_page_has_no_inline_script_or_style(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]* src=)|<style|\son[a-z]+=|\sstyle=|javascript:", text)
    named = re.findall(r'(?:src|href)="([^"#]+)"', text)
    for reference in named:
        if "." in reference and reference != "openapi.json":
            assert (STATIC / reference).is_file(), reference


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(STATIC)))
def test_a_file_names_no_outside_address(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}
    for imported in re.findall(r'from "([^"]+)"', text):
        assert (file.parent / imported).is_file(), imported
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)

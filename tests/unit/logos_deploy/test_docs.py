"""The documentation says what is so: options, exit codes, links, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from logos_deploy import cli
from logos_deploy.exits import Exit
from tests.unit.logos_deploy.option_tables import PAGE, with_tables

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_the_tables_of_options_are_those_of_the_schemas() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_tables(text), "run: python -m tests.unit.logos_deploy.option_tables"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_reachable_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES:
        if page.name != "README.md":
            assert f"docs/{page.name}" in text


def test_every_exit_code_and_command_is_explained() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for code in Exit:
        assert re.search(rf"^\| {int(code)} \|", text, re.MULTILINE), code
    for module in cli.COMMANDS:
        assert f"`logos {module.NAME}" in text


def test_the_help_text_has_every_exit_code() -> None:
    text = cli.build_parser().epilog or ""
    for code in Exit:
        assert re.search(rf"\b{int(code)} [a-z]", text), code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_can_be_parsed(page: Path) -> None:
    """Each line that begins with `$ logos`: the command line exists."""
    import shlex

    for line in re.findall(r"^\$ (logos .*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        words = shlex.split(line.split("|")[0], comments=True)[1:]
        parsed, rest = cli.build_parser().parse_known_args(words)
        assert not [word for word in rest if word.startswith("-")], line
        assert parsed.command

"""The documentation says what is so: options, exit codes, links, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from logos_deploy import cli
from logos_deploy.exits import Exit
from tests.unit.logos_deploy.option_tables import PAGE, with_tables

ROOT = Path(__file__).parents[3]
HERE = "https://github.com/logos-mapi/logos-mapi"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LINKING = sorted(
    {
        page
        for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "client/*.md", "client/js/*.md")
        for page in ROOT.glob(pattern)
    }
)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")


def test_the_tables_of_options_are_those_of_the_schemas() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_tables(text), "run: python -m tests.unit.logos_deploy.option_tables"


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings have on the web."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Relative ones, fragments, and absolute ones into this repository."""
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(HERE):
            path = ROOT / re.sub(r"^/(blob|tree)/main/", "", target.removeprefix(HERE)).lstrip("/")
        elif "://" in target:
            continue
        else:
            path = page.parent / target if target else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name}: {target}#{anchor}"


def test_the_pages_that_an_index_shows_have_absolute_links() -> None:
    """What a package index renders has no directory around it."""
    for page in (ROOT / "README.md", ROOT / "client" / "README.md"):
        for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
            assert target.startswith("https://"), f"{page}: {target}"
    for file in ("pyproject.toml", "client/pyproject.toml", "mkdocs.yml"):
        found = re.findall(r"https://github\.com/[\w-]+/[\w-]+", (ROOT / file).read_text(encoding="utf-8"))
        assert set(found) == {HERE}, file


def test_every_decision_is_listed() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs" / "decisions").glob("[0-9]*.md"):
        assert (
            f"]({page.name}) | {page.read_text(encoding='utf-8').splitlines()[0].split('. ', 1)[1]} |"
            in index
        )


def test_every_page_is_reachable_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES:
        if page.name not in ("README.md", "index.md"):
            assert f"docs/{page.name}" in text


def test_every_exit_code_and_command_is_explained() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for code in Exit:
        assert re.search(rf"^\| {int(code)} \|", text, re.MULTILINE), code
    for name in cli.COMMANDS:
        assert f"`logos {name}" in text


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

"""Hook of mkdocs: links that leave `docs/` for another file of the repository lead to it on the web."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Rewrite relative links of one page; those that stay in `docs/` are mkdocs' own business."""
    del files
    docs = Path(config["docs_dir"])
    here = docs / Path(page.file.src_uri).parent

    def absolute(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if "://" in target or not target:
            return match[0]
        path = (here / target).resolve()
        if path.is_relative_to(docs) or not path.exists():
            return match[0]  # a missing file stays as it is, and fails the strict build
        kind = "tree" if path.is_dir() else "blob"
        return f"]({config['repo_url']}/{kind}/main/{path.relative_to(ROOT)}{anchor})"

    return re.sub(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", absolute, markdown)

"""Print the tests that failed in pytest's last run, one a line."""

from __future__ import annotations

import json
from pathlib import Path

CACHE = Path(".pytest_cache/v/cache/lastfailed")

if CACHE.exists():
    print("\n".join(sorted(json.loads(CACHE.read_text(encoding="utf-8")))))

"""What the archive missed while the node was down, and how far fetching it has got: kept on disk.

While it is fetched, new messages are archived too. A node that is killed then has a newest message that says
nothing about what it missed: the plan does, and is on disk before the first new message is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from logos_process.files import read_json, replace_file

log = logging.getLogger(__name__)

VERSION: Final = 1
SECOND: Final = 1_000_000_000
OVERLAP_NS: Final = 40 * SECOND
"""Asked again before the newest message: others may have been late by 20 s, with a clock 20 s off."""
LOOK_BACK_NS: Final = 6 * 3600 * SECOND
"""Asked by an archive that has nothing yet; nwaku's limit."""
MAX_FILE: Final = 1 << 20


@dataclass(slots=True)
class ResumeGap:
    """A time of a pubsub topic that is to be fetched, in ns: from `start`, of which all before `done` is
    there."""

    pubsub_topic: str
    start: int
    done: int


def plan_gaps(
    newest: Mapping[str, int | None],
    unfinished: Iterable[ResumeGap],
    *,
    now: int,
    keeps_ns: int | None,
) -> list[ResumeGap]:
    """Return what to fetch. `newest`: by topic, None: there is no message; `keeps_ns`: the retention time."""
    before = {gap.pubsub_topic: gap for gap in unfinished}
    oldest = 0 if keeps_ns is None else max(0, now - keeps_ns)
    gaps = []
    for topic, latest in newest.items():
        gap = before.get(topic)
        if gap is None:
            start = now - LOOK_BACK_NS if latest is None else latest - OVERLAP_NS
            gap = ResumeGap(topic, start, start)
        gap.start = max(gap.start, oldest)
        gap.done = max(gap.done, gap.start)
        if gap.start < now:
            gaps.append(gap)
    return gaps


def save_gaps(path: Path, gaps: Iterable[ResumeGap]) -> None:
    """Replace the file. Raise OSError."""
    content = {"version": VERSION, "gaps": [asdict(gap) for gap in gaps]}
    replace_file(path, json.dumps(content))


def load_gaps(path: Path) -> list[ResumeGap]:
    """Return what an earlier run left unfinished; nothing without a usable file."""
    try:
        content = read_json(path, version=VERSION, max_bytes=MAX_FILE)
        return [
            ResumeGap(str(gap["pubsub_topic"]), int(gap["start"]), int(gap["done"]))
            for gap in content["gaps"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        log.warning("cannot read what was left to fetch, %s (%s)", path, error)
        return []

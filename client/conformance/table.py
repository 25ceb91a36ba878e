"""The table of docs/clients.md: which client does what, by what the kit found.

python client/conformance --record        # run the kit on all clients, keep what it found, write the table
python client/conformance/table.py --check    # exit code 1 if the table is not that of `results.json`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "client")]

from conformance.ours import OURS  # noqa: E402
from conformance.runner import scenarios  # noqa: E402

RESULTS: Final = Path(__file__).parent / "results.json"
PAGE: Final = ROOT / "docs" / "clients.md"
BEGIN: Final = "<!-- conformance: written by client/conformance/table.py -->\n"
END: Final = "<!-- /conformance -->\n"
NAMES: Final = {
    "python": "Python",
    "node": "Node.js",
    "go": "Go",
    "rust": "Rust",
    "cpp": "C++",
    "c": "C",
}
#: Feature → keys of the sentences of SPEC.md that make it.
FEATURES: Final[dict[str, tuple[str, ...]]] = {
    "Hello first, and again after each reconnect and restart": ("hello-first", "hello-kind", "instance"),
    "Asked for hello by a server that knows it no more": ("not-ready-hello-first",),
    "Names in use, taking over, being taken over": ("takeover", "taken-over"),
    "Errors with code and retriable, `retry_after_ms`, codes of later versions": (
        "errors",
        "unknown-code",
        "busy-retry",
    ),
    "Deadlines": ("deadline",),
    "No more requests under way than the server takes": ("in-flight",),
    "Nothing of a dead conversation reaches the next server": ("stale",),
    "Outlives its server, however far it is behind": ("outlives",),
    "Says what is wrong with an endpoint of another kind": ("other-kind", "other-server"),
    "Keepalive": ("keepalive",),
    "Subscriptions, refused topics": ("subscribe-errors",),
    "Sends under an idempotency key": ("send-id",),
    "Events of each kind, 64-bit integers": ("event-kinds", "first-status", "integers"),
    "Order, repeats, gaps, dropped events": ("order", "repeats", "dropped"),
    "Heartbeats": ("heartbeat",),
    "Credit by bytes": ("credit",),
    "Cumulative acknowledgements": ("ack",),
    "Resuming after the last event, which hello names; another stream is recognised": (
        "resume",
        "seen",
        "stream-id",
    ),
    "Lists that go on in a further request": ("more",),
    "Channels with hooks: encryption by functions of the app": ("hooks-send", "hooks-receive"),
    "Apps without a name": ("ephemeral",),
    "Goodbye": ("goodbye",),
    "Keys, elements and kinds of later versions": ("unknown-keys", "append-only", "unknown-kinds"),
    "Garbage": ("garbage",),
    "Kernel: streams in order, once subscribed": ("kernel-subscribed",),
    "Kernel: gaps filled by replay, losses reported": ("kernel-gap", "kernel-replay", "kernel-trimmed"),
    "Kernel: restarts of it and of its streams": ("kernel-epoch",),
    "Kernel: leases renewed, and taken again": ("kernel-lease",),
    "Kernel: silence, events of another version": ("kernel-heartbeats", "kernel-header-version"),
}


def _results() -> dict[str, dict[str, bool]]:
    found: dict[str, dict[str, bool]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def record(client: str, passed: Mapping[str, bool]) -> None:
    """Keep what the kit found of a client, scenario by scenario."""
    results = (_results() if RESULTS.exists() else {}) | {client: dict(passed)}
    ordered = {name: results[name] for name in OURS if name in results}
    RESULTS.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def table() -> str:
    """The table as Markdown."""
    results = _results()
    lines = [
        "| | " + " | ".join(NAMES.get(client, client) for client in OURS) + " |",
        "|---" * (len(OURS) + 1) + "|",
    ]
    for feature, keys in FEATURES.items():
        names = [one.name for one in scenarios() if set(keys) & set(one.covers)]
        cells = [_cell([results.get(client, {}).get(name) for name in names]) for client in OURS]
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    total = len(scenarios())
    counts = [sum(results.get(client, {}).get(one.name, False) for one in scenarios()) for client in OURS]
    lines.append("| scenarios passed | " + " | ".join(f"{count} of {total}" for count in counts) + " |")
    return "\n".join(lines) + "\n"


def _cell(found: list[bool | None]) -> str:
    if False in found:
        return "no"
    return "not run" if None in found else "yes"


def main(arguments: list[str]) -> int:
    """Return 0 if written, or up to date."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    wanted = before + BEGIN + "\n" + table() + "\n" + END + after
    if wanted == page:
        return 0
    if arguments == ["--check"]:
        sys.stderr.write(f"{PAGE} is not up to date: run client/conformance/table.py\n")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

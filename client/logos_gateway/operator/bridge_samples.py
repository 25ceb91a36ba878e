"""The samples of a bridge beside the gateway, from the file that it writes once a second."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

from logos_gateway.operator.exposition import ProcessSamples, Sample
from logos_process.lock import holder_of

_STALE_NS: Final = 30_000_000_000


def bridge_samples(status_file: Path) -> ProcessSamples | None:
    """Return the samples of a running bridge; None without one, or if its file is stale."""
    try:
        status: dict[str, Any] = json.loads(status_file.read_text(encoding="utf-8"))
        if holder_of(status_file.with_name("lock")) is None or time.time_ns() - status["atNs"] > _STALE_NS:
            return None
        metrics = status["metrics"]
        samples: list[Sample] = [
            (str(name), dict(labels), float(value)) for name, labels, value in metrics["samples"]
        ]
        families = {str(name): (str(kind), str(text)) for name, (kind, text) in metrics["families"].items()}
        ready: Sample = ("bridge_ready", {}, float(bool(status["ready"])))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # none, or of another version
    families["bridge_ready"] = ("gauge", "1: all parts of the bridge work.")
    return ProcessSamples("bridge", [ready, *samples], families)

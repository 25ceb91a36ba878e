"""The bridge's counters and state, and the file by which `logos bridge status` and the gateway read them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from ipc_schema.metric_samples import PROCESS, Family, Sample, families_of
from logos_bridge.send_record import FINAL_FATES
from logos_process.figures import own_figures

_FAMILIES: Final[dict[str, Family]] = {
    "bridge_nats_connected": Family("gauge", "1: a NATS server is connected."),
    "bridge_nats_reconnects": Family("counter", "Connections to NATS after the first one."),
    "bridge_nats_retries": Family("counter", "Operations that NATS did not answer, and that were repeated."),
    "bridge_nats_operations": Family("gauge", "Operations that wait for an answer of NATS."),
    "bridge_nats_window": Family("gauge", "How many of them may; a server that answers late narrows it."),
    "bridge_out_messages": Family("counter", "Messages of the network, by what became of them."),
    "bridge_out_lag_seconds": Family("gauge", "Age of what is not stored in JetStream yet, by shard."),
    "bridge_out_window": Family("gauge", "Messages published and not yet stored."),
    "bridge_out_missing_spans": Family("gauge", "Time spans still to be fetched from stores."),
    "bridge_out_lost_events": Family("counter", "Times that the kernel no longer had what was wanted."),
    "bridge_out_id_readings": Family("counter", "Readings of what the stream holds, before old messages."),
    "bridge_out_ids": Family("gauge", "Ids of the stream that are held, in a file, against duplicates."),
    "bridge_position_conflicts": Family("counter", "Positions that another process wrote too."),
    "bridge_in_sends": Family("counter", "Sends of the work queue, by what became of them."),
    "bridge_in_fates": Family("counter", "Fates published, by kind."),
    "bridge_in_open": Family("gauge", "Sends of this bridge without a final fate."),
    "bridge_in_open_bytes": Family("gauge", "Bytes of their payloads."),
    "bridge_in_queue": Family("gauge", "Sends that wait in the work queue."),
    "bridge_peers_alive": Family("gauge", "Other bridges of the same prefix that are alive."),
}

_SENDS: Final = ("begun", "accepted", "refused", "taken_over", "left_to_another", "unreadable")
_LABELLED: Final[dict[str, tuple[str, Iterable[str]]]] = {
    "bridge_out_messages": ("result", ("stored", "duplicate", "known", "from_store", "given_up_spans")),
    "bridge_in_sends": ("result", _SENDS),
    "bridge_in_fates": ("kind", FINAL_FATES),
}


def _zeros() -> Counter[tuple[str, str, str]]:
    """Return every counter at 0: `increase` and `rate` do not see the first step of a series that begins
    with it."""
    found: Counter[tuple[str, str, str]] = Counter()
    for name, family in _FAMILIES.items():
        label, values = _LABELLED.get(name, ("", ("",)))
        if family.kind == "counter":
            found.update(dict.fromkeys(((name, label, value) for value in values), 0))
    return found


@dataclass(slots=True)
class BridgeFigures:
    """What all parts of a bridge count, and say about themselves."""

    started: float = field(default_factory=time.monotonic)
    counts: Counter[tuple[str, str, str]] = field(default_factory=_zeros)
    """(family, label, value of the label) → count."""
    gauges: dict[tuple[str, str, str], float] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    """Part → why it does not do its work now."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further facts for the person who reads the status."""

    def count(self, family: str, label: str = "", value: str = "", by: int = 1) -> None:
        """Add to a counter."""
        self.counts[family, label, value] += by

    def total(self, family: str, number: int) -> None:
        """Set a counter that is counted elsewhere."""
        self.counts[family, "", ""] = number

    def gauge(self, family: str, number: float, label: str = "", value: str = "") -> None:
        self.gauges[family, label, value] = number

    def trouble(self, part: str, reason: str) -> None:
        """Say why a part does not work; an empty reason: it does."""
        if reason:
            self.troubles[part] = reason
        else:
            self.troubles.pop(part, None)

    def samples(self) -> list[Sample]:
        """Return every value, and those of the process."""
        found: list[Sample] = []
        for source in (self.counts, self.gauges):
            for (family, label, value), number in source.items():
                found.append((family, {label: value} if label else {}, float(number)))
        return [*found, *own_figures()]

    def status(self, version: str) -> dict[str, Any]:
        samples = self.samples()
        return {
            "pid": os.getpid(),
            "version": version,
            "atNs": time.time_ns(),
            "uptimeMs": int((time.monotonic() - self.started) * 1000),
            "ready": not self.troubles,
            "troubles": dict(self.troubles),
            **self.facts,
            "metrics": {
                "samples": [[name, dict(labels), value] for name, labels, value in samples],
                "families": families_of(samples, {**_FAMILIES, **PROCESS}),
            },
        }

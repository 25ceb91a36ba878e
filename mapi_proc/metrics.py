"""The Messaging API's Prometheus metrics, derived from the body of control's `health` so that both always
agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ipc_schema.control import MetricsReply
from ipc_schema.mapi.methods import ConnectionStatus
from ipc_schema.metric_samples import PROCESS, Family, Sample, families_of
from logos_process import logs
from logos_process.figures import own_figures
from mapi_proc.database import DatabaseState

_FAMILIES: Final[Mapping[str, Family]] = {
    "version": Family("gauge", "1, with the version of the program as label."),
    "tasks": Family("gauge", "Tasks of the event loop."),
    "log_lines_dropped": Family("counter", "Log lines that could not be written, or not fast enough."),
    "messaging_connection": Family("gauge", "1 for the current connection status."),
    "messaging_ready": Family("gauge", "1: apps are served."),
    "messaging_resyncing": Family("gauge", "1: possibly missed messages are being recovered."),
    "messaging_kernel_up": Family("gauge", "1: the kernel answers."),
    "messaging_kernel_link": Family("counter", "Events on the link to the kernel, by type."),
    "messaging_topics": Family("gauge", "Content topics that apps have subscribed to."),
    "messaging_apps": Family("gauge", "Apps by state."),
    "messaging_journal_bytes": Family("gauge", "Bytes in all journals together."),
    "messaging_events_dropped": Family("counter", "Events of apps that the bounds of their streams removed."),
    "messaging_sends": Family("counter", "Sends by outcome."),
    "messaging_sends_pending": Family("gauge", "Accepted sends that are not final."),
    "messaging_sends_waiting": Family("gauge", "Accepted sends pending, by state."),
    "messaging_sends_pending_bytes": Family("gauge", "Payload bytes of accepted sends that are not final."),
    "messaging_send_requests_repeated": Family("counter", "Repeated send requests (same request id)."),
    "send_store_validation_timeout_total": Family("counter", "Sends that no store confirmed in time."),
    "recv_messages_total": Family("counter", "Messages for apps by source: live, or history of a store."),
    "recv_message_bytes_total": Family("counter", "Payload bytes of messages for apps, by source."),
    "messaging_received": Family("counter", "Messages from the kernel by type; repeats: duplicates."),
    "messaging_channels": Family("gauge", "Reliable channels by state."),
    "messaging_channel_sends": Family(
        "counter", "Sends to channels: accepted, sent (with the network), delivered, or failed."
    ),
    "messaging_channel_received": Family("counter", "Payloads of channels for apps."),
    "messaging_channel_received_bytes": Family("counter", "Their bytes."),
    "messaging_channel_lost": Family("counter", "Payloads or messages of channels reported to apps as lost."),
    "messaging_channel_transmissions": Family(
        "counter", "Channel messages to be sent: first, again (not acknowledged), repair (asked for), sync."
    ),
    "messaging_channel_attempts": Family("counter", "Their attempts by outcome; dropped: given up unsent."),
    "messaging_channel_refused": Family("counter", "Messages on a channel's topic not taken, by reason."),
    "messaging_channel_retrievals": Family("counter", "Stores asked for missing messages, and those found."),
    "messaging_channel_buffered": Family("gauge", "What open channels hold, by buffer."),
    "messaging_channel_buffered_bytes": Family("gauge", "Bytes of it."),
    "messaging_hashes_evicted_early": Family(
        "counter", "Hashes of received messages forgotten for lack of room: these may be delivered twice."
    ),
    "messaging_missed_ranges": Family("counter", "Time ranges whose messages may be missing for good."),
    "messaging_ipc": Family("counter", "Events on the sockets, by socket and type."),
    "messaging_ipc_in_flight": Family("gauge", "Requests of apps in flight, by socket."),
    "messaging_database_stalled": Family("gauge", "1: the database cannot be written."),
    "messaging_database_pending_bytes": Family("gauge", "Bytes that wait to be written."),
    "messaging_database_commits": Family("counter", "Transactions written."),
    "messaging_database_stalls": Family("counter", "Failed attempts to write the database."),
}
"""Type and help text of each metric. Names stand without the prefix."""


def samples(health: Mapping[str, Any]) -> Iterable[Sample]:
    """Convert the body of control's `health` into samples, names without prefix."""
    yield "version", {"version": health["version"]}, 1
    for status in ConnectionStatus:
        yield "messaging_connection", {"status": str(status)}, health["connection"] == status
    yield "messaging_ready", {}, health["ready"]
    yield "messaging_resyncing", {}, health["resyncing"]
    yield "messaging_kernel_up", {}, health["kernel"]["up"]
    yield "messaging_topics", {}, health["topics"]
    apps, sends, database = dict(health["apps"]), dict(health["sends"]), health["database"]
    for name in ("journal_bytes", "events_dropped"):
        yield f"messaging_{name}", {}, apps.pop(name)
    for state, count in apps.items():
        yield "messaging_apps", {"state": state}, count
    yield "messaging_sends_pending", {}, sends.pop("pending")
    yield "messaging_sends_pending_bytes", {}, sends.pop("pending_bytes")
    for state, count in sends.pop("states").items():
        yield "messaging_sends_waiting", {"state": state}, count
    sends.pop("cause")  # human-readable text
    yield "messaging_send_requests_repeated", {}, sends.pop("repeated")
    # With reliability off, no store is asked and every send stays unconfirmed.
    yield "send_store_validation_timeout_total", {}, sends["unconfirmed"] if health["reliability"] else 0
    for state, count in sends.items():
        yield "messaging_sends", {"state": state}, count
    receive = dict(health["receive"])
    for name in ("missed_ranges", "hashes_evicted_early"):
        yield f"messaging_{name}", {}, receive.pop(name)
    for kind in ("accepted", "repeats", "unsubscribed"):
        yield "messaging_received", {"type": kind}, receive.pop(kind)
    history = receive.pop("recovered") + receive.pop("from_history")
    yield "recv_messages_total", {"source": "live"}, health["receive"]["accepted"]
    yield "recv_messages_total", {"source": "history"}, history
    for source in ("live", "history"):
        yield "recv_message_bytes_total", {"source": source}, receive.pop(f"{source}_bytes")
    for kind, count in receive.items():
        yield "messaging_kernel_link", {"type": kind}, count
    for socket, counters in health["ipc"].items():
        for kind, count in counters.items():
            yield (
                "messaging_ipc_in_flight" if kind == "in_flight" else "messaging_ipc",
                {"socket": socket} if kind == "in_flight" else {"socket": socket, "type": kind},
                count,
            )
    yield from _channels(health["channels"])
    yield "messaging_database_stalled", {}, database["state"] == DatabaseState.STALLED
    for name in ("pending_bytes", "commits", "stalls"):
        yield f"messaging_database_{name}", {}, database[name]
    yield "tasks", {}, len(asyncio.all_tasks())
    yield "log_lines_dropped", {}, logs.dropped()


def _channels(body: Mapping[str, Any] | None) -> Iterable[Sample]:
    """Convert `channels`; None while no app has a channel."""
    if body is None:
        return
    for name, label in (
        ("channels", "state"),
        ("sends", "state"),
        ("transmissions", "type"),
        ("attempts", "type"),
        ("refused", "reason"),
        ("retrievals", "type"),
    ):
        metric = "messaging_channels" if name == "channels" else f"messaging_channel_{name}"
        for value, count in body[name].items():
            yield metric, {label: value}, count
    for name in ("received", "received_bytes", "lost"):
        yield f"messaging_channel_{name}", {}, body[name]
    for buffer, count in body["buffers"]["count"].items():
        yield "messaging_channel_buffered", {"buffer": buffer}, count
    for buffer, size in body["buffers"]["bytes"].items():
        yield "messaging_channel_buffered_bytes", {"buffer": buffer}, size


def report(health: Mapping[str, Any]) -> MetricsReply:
    """Return every sample, those of the process included, with type and help text."""
    found = [(name, dict(labels), float(value)) for name, labels, value in (*samples(health), *own_figures())]
    return MetricsReply(samples=tuple(found), families=families_of(found, {**_FAMILIES, **PROCESS}))

"""The gateway's own counters and gauges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ipc_schema.metric_samples import PROCESS
from logos_gateway.http_server import refused, stalled
from logos_gateway.operator.exposition import ProcessSamples, Sample
from logos_gateway.state import Gateway
from logos_process.figures import own_figures

_FAMILIES: Final = {
    "gateway_requests": ("counter", "HTTP requests answered, by group of routes and class of status."),
    "gateway_requests_open": ("gauge", "HTTP requests and WebSockets being served, streams included."),
    "gateway_request_duration_seconds": ("histogram", "Time to the head of an answer, by group."),
    "gateway_connections_refused": ("counter", "Connections closed before a request was complete."),
    "gateway_requests_refused": ("counter", "HTTP requests refused before they reached a route, by reason."),
    "gateway_cache_dropped": ("counter", "Messages and events that no poll read in time, by cache."),
    "gateway_cache_messages": ("gauge", "Messages kept for clients that poll, by cache."),
    "gateway_stream_lost": ("counter", "Kernel events that could not be recovered for the caches."),
    "gateway_apps": ("gauge", "Apps that are in use over HTTP."),
    "gateway_readers": ("gauge", "Event streams and WebSockets of apps."),
    "gateway_readers_lagging": ("counter", "Readers cut off since they held up others of their app."),
    "gateway_readers_stalled": ("counter", "Clients cut off since they read nothing, by kind of connection."),
    "gateway_window_bytes": ("gauge", "Bytes of unacknowledged events held for readers."),
}


def own_samples(gateway: Gateway) -> ProcessSamples:
    """Yield every value of the gateway itself, and of its process."""
    samples = [*_samples(gateway), *gateway.requests.samples(), *own_figures()]
    families = {**_FAMILIES, **{name: (one.kind, one.help) for name, one in PROCESS.items()}}
    return ProcessSamples("gateway", samples, families)


def _samples(gateway: Gateway) -> Iterator[Sample]:
    for reason, count in gateway.access.refused.items():
        yield "gateway_requests_refused", {"reason": reason}, count
    for reason, count in refused.items():
        yield "gateway_connections_refused", {"reason": reason}, count
    watch, messaging = gateway.watch, gateway.messaging
    yield "gateway_cache_dropped", {"cache": "relay"}, gateway.topics.dropped
    caches = {"auto": watch.auto, "filter": watch.filter}
    for name, cache in caches.items():
        yield "gateway_cache_messages", {"cache": name}, len(cache)
        yield "gateway_cache_dropped", {"cache": name}, cache.dropped
    yield "gateway_cache_dropped", {"cache": "received"}, messaging.received.dropped
    yield "gateway_cache_dropped", {"cache": "sends"}, messaging.sends.dropped
    yield "gateway_stream_lost", {}, watch.lost
    yield "gateway_apps", {}, len(gateway.journals)
    yield "gateway_readers", {}, gateway.journals.readers
    yield "gateway_readers_lagging", {}, gateway.journals.lagging_readers
    for kind, count in stalled.items():
        yield "gateway_readers_stalled", {"kind": kind}, count
    yield "gateway_window_bytes", {}, gateway.journals.bytes

"""What each of the kernel's metrics is, for the page that Prometheus reads. Names stand without the prefix.

Names, labels and kinds are nwaku's where it has them, so that dashboards fit; its counters are meant to be
read without `_total` behind them, as its own page of names has it.

Parts that count much by themselves (host, relay, discv5, metadata) have a group here: whatever they count is
a counter, unless it stands in the table as something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ipc_schema.metric_samples import Family

__all__ = ["FAMILIES", "GROUPS", "family_of"]


def _counter(text: str) -> Family:
    return Family("counter", text)


def _gauge(text: str) -> Family:
    return Family("gauge", text)


def _histogram(text: str) -> Family:
    return Family("histogram", text)


FAMILIES: Final[Mapping[str, Family]] = {
    # --- the node ---
    "version": _gauge("1, with the version of the program as label."),
    "tasks": _gauge("Tasks of the event loop."),
    "log_lines_dropped": _counter("Log lines that could not be written, or not fast enough."),
    "event_loop_load": _gauge("Mean lateness of the event loop over a window; 1 is just acceptable."),
    "event_loop_accumulated_lag_secs": _counter("Lateness of the event loop, summed up, in seconds."),
    "node_messages": _counter("New messages by where they came from: relay, filter, self."),
    "histogram_message_size": _histogram("Size of messages from the relay, in kB."),
    "node_errors": _counter("Faults of this node itself, by where they showed."),
    "libp2p_peers": _gauge("Connected peers."),
    "libp2p_network_bytes": _counter("Bytes of all connections, encryption included, by direction."),
    "libp2p_pubsub_topics": _gauge("Pubsub topics that the node is subscribed to."),
    "libp2p_pubsub_peers": _gauge("Connected peers that speak relay."),
    "libp2p_gossipsub_peers_per_topic_mesh": _gauge("Mesh peers by pubsub topic."),
    "streams_peers": _gauge("Open streams by direction and protocol."),
    # --- sockets ---
    "ipc_requests": _counter("Requests by socket and method; unknown: what is no method."),
    "ipc_errors": _counter("Requests answered with an error, by socket and code."),
    "ipc_messages_received": _counter("Messages read from a socket."),
    "ipc_messages_sent": _counter("Messages given to a socket."),
    "ipc_dropped_slow": _counter("Answers dropped since the client does not read."),
    "ipc_dropped_gone": _counter("Answers dropped since the client has left."),
    "ipc_handler_errors": _counter("Messages whose handling failed by a fault of ours."),
    "ipc_connections": _gauge("Connections to a socket."),
    "ipc_connections_accepted": _counter("Connections taken by a socket."),
    "ipc_connections_refused": _counter("Connections closed because of a limit."),
    "ipc_connections_denied": _counter("Connections closed because their user is not allowed."),
    "ipc_connections_flooding": _counter("Connections closed because what they sent filled the memory."),
    "ipc_subscriptions_ignored": _counter("Subscriptions to what is no stream."),
    "ipc_streams_active": _gauge("Message streams that are recorded."),
    "ipc_streams_subscribed": _gauge("Streams that somebody reads."),
    "ipc_replay_bytes": _gauge("Bytes in all replay rings together."),
    # --- peers ---
    "connected_peers": _gauge("Connected peers by direction and protocol."),
    "connected_peers_per_shard": _gauge("Connected peers that are on a shard."),
    "connected_peers_per_agent": _gauge("Connected peers by what they call themselves."),
    "peer_store_size": _gauge("Known peers."),
    "peer_store_refused": _counter("Peers and addresses that were not taken into the store."),
    "peer_store_pruned": _counter("Known peers forgotten for more valuable ones."),
    "peers_dials": _counter("Attempts to connect to a peer, by outcome."),
    "peers_errors": _counter("What went wrong with known peers, by type."),
    "node_conns_initiated": _counter("Connections this node opened, by how the peer was found."),
    "total_unique_peers": _gauge("Different peers that were ever entered into the peer store."),
    "service_peers": _gauge("1: the configured peer of a service is connected. peerId is its address."),
    "peers_evicted": _counter("Connected peers let go for more useful ones."),
    "peers_online": _gauge("1: something of the network was heard of in the last seconds."),
    "peers_dialling": _gauge("Peers being dialled."),
    "peers_waiting": _gauge("Known peers that are not dialled again yet."),
    "lightpush_peers": _gauge("Connected peers that serve lightpush."),
    "store_peers": _gauge("Connected peers that serve store."),
    "filter_peers": _gauge("Connected peers that serve filter."),
    "px_peers": _gauge("Connected peers that serve peer exchange."),
    # --- discovery ---
    "discovery_record_seq": _gauge("Sequence number of our own record."),
    "discovery_records_refused": _counter("Records of peers that are of no use to us."),
    "discv5_nodes": _gauge("Nodes in the table of discv5."),
    "discv5_nodes_verified": _gauge("Nodes of the table that have answered."),
    "discv5_replacements": _gauge("Nodes that wait for a place in the table."),
    "discv5_sessions": _gauge("Sessions with other nodes."),
    "discv5_requests": _gauge("Requests of ours that wait for an answer."),
    "discv5_lookups": _gauge("Searches under way."),
    "discv5_discovered_per_shard": _gauge("Records of wanted nodes that discv5 found, by shard."),
    "discv5_errors": _counter("Records of discv5 that are of no use, by type."),
    "routing_table_nodes": _gauge("Nodes in the table of discv5; seen: those that have answered."),
    "dnsdisc_discovered": _gauge("Records found in lists in the DNS."),
    "dnsdisc_errors": _counter("Lists and entries of lists that could not be read, by type."),
    "px_peers_sent": _counter("Records given to other nodes by peer exchange."),
    "px_errors": _counter("Requests for records that could not be answered, by type."),
    "px_client_errors": _counter("Requests for records of ours that failed, by type."),
    "px_peers_received_total": _counter("Records got by peer exchange."),
    "px_peers_received_unknown": _gauge("Records got by peer exchange of peers that were not known."),
    "px_peers_received_refused": _counter("Records got by peer exchange that are too large or too many."),
    # --- relay ---
    "relay_network_bytes": _counter("Bytes of messages by topic; gross: all copies, net: each once."),
    "relay_avg_msg_bytes_per_shard": _gauge("Mean size of a shard's messages since it was joined."),
    "relay_max_msg_bytes_per_shard": _gauge("Largest of a shard's messages since it was joined."),
    "relay_total_msg_bytes_per_shard": _gauge("Bytes of a shard's messages since it was joined."),
    "msg_validator_signed_outcome": _counter("Messages by what the validators said of them."),
    "total_messages_cached": _gauge("Messages in the cache of relay."),
    "relay_cache_bytes": _gauge("Bytes in the cache of relay."),
    "relay_queued_bytes": _gauge("Bytes that wait to be sent to relay peers."),
    "relay_seen_ids": _gauge("Messages that are remembered as seen."),
    "relay_backoffs": _gauge("Peers that may not be grafted for a while."),
    "relay_silences": _gauge("Peers that are not grafted for a minute after a lost link."),
    # --- filter ---
    "filter_requests": _counter("Requests of light clients by type."),
    "filter_request_duration_seconds": _histogram("Time to answer a light client, by type."),
    "filter_handle_message_duration_seconds": _histogram("Time to queue a message for its subscribers."),
    "filter_errors": _counter("Requests and push streams of light clients that went wrong, by type."),
    "filter_subscriptions": _gauge("Light clients that have subscribed."),
    "filter_criteria": _gauge("Their subscriptions, all together."),
    "filter_queued_frames": _gauge("Pushes that wait for light clients."),
    "filter_queued_bytes": _gauge("Bytes of pushes that wait; what waits for several counts once."),
    "filter_pushes": _counter("Pushes to light clients by outcome; dropped: its queue was full."),
    "filter_push_messages": _counter("Messages that at least one light client had subscribed to."),
    "filter_push_repeats": _counter("Messages not pushed since they had been already."),
    "filter_push_streams": _counter("Push streams opened."),
    "filter_subscribers_removed": _counter("Light clients forgotten, by reason."),
    "filter_client_pushes": _counter("Messages pushed to this node, by outcome."),
    "filter_client_requests": _counter("Requests of this node to filter services, by type."),
    "filter_client_errors": _counter("Requests to filter services that went wrong, by type."),
    "filter_client_peers_lost": _counter("Peers that no longer hold what they held for us."),
    "filter_client_wishes": _gauge("Content topics that consumers want by filter."),
    "filter_client_peers": _gauge("Peers that hold a subscription of ours."),
    # --- lightpush, store and archive ---
    "lightpush_messages": _counter("Requests of the legacy lightpush by outcome."),
    "lightpush_errors": _counter("Requests of the legacy lightpush that were not done, by type."),
    "lightpush_v3_messages": _counter("Requests of lightpush by outcome."),
    "lightpush_v3_errors": _counter("Requests of lightpush that were not done, by type."),
    "lightpush_client_messages": _counter("Messages that other nodes published for us."),
    "lightpush_client_errors": _counter("Requests of ours to publish that failed, by type."),
    "store_queries": _counter("Queries of other nodes."),
    "store_errors": _counter("Queries of other nodes answered with an error, by type."),
    "store_time_seconds": _gauge("Time that the last query of another node took, by phase."),
    "store_fleet_msg_count": _counter("Messages that other stores answered with, by shard."),
    "store_fleet_msg_size_bytes": _counter("Payload bytes of messages of other stores, by shard."),
    "store_client_errors": _counter("Queries of ours to other nodes that failed, by type."),
    "archive_messages": _gauge("Messages in the archive."),
    "archive_messages_per_shard": _gauge("Messages taken into the archive since the start, by shard."),
    "query_count": _counter("Statements run on the archive's database, by kind."),
    "query_time_secs": _gauge("Time that the last statement took, by kind and phase."),
    "postgres_payload_size_bytes": _gauge("Payload of the last message written to PostgreSQL."),
    "archive_errors": _counter("What was not stored, removed or answered, by type."),
    "archive_insert_duration_seconds": _histogram("Time to store a group of messages."),
    "archive_query_duration_seconds": _histogram("Time to read a page."),
    "archive_stored_total": _counter("Messages stored."),
    "archive_duplicates_total": _counter("Messages that were stored already."),
    "archive_ephemeral_total": _counter("Messages not stored since they are ephemeral."),
    "archive_removed_total": _counter("Messages removed by the retention policy."),
    "archive_queue_messages": _gauge("Messages that wait to be stored."),
    "archive_queue_bytes": _gauge("Bytes of messages that wait to be stored."),
    "archive_ready": _gauge("1: the database can be written."),
    # --- services ---
    "service_requests": _counter("Requests to our services: served, or rejected since there were too many."),
    "service_requests_limit": _gauge("Requests a second that a service serves at most; 0: no limit."),
    "service_network_bytes": _counter("Bytes of requests and answers of our services."),
    "service_request_handling_duration_seconds": _histogram("Time to work on a request to a service."),
    "service_errors": _counter("Requests to our services that went wrong, by type."),
}

GROUPS: Final[Mapping[str, str]] = {
    "p2p_": "Connections and streams",
    "metadata_": "Metadata",
    "relay_": "Relay",
    "discv5_": "discv5",
}
"""What begins so is counted by that part: prefix -> its name for people."""


def family_of(name: str) -> Family | None:
    """What a metric is; None for one that nobody has described."""
    found = FAMILIES.get(name)
    if found is not None:
        return found
    for prefix, part in GROUPS.items():
        if name.startswith(prefix):
            what = name.removeprefix(prefix).replace("_", " ")
            return _counter(f"{part}: {what}, counted since the start.")
    return None

"""The description of each of the kernel's metrics for Prometheus. Names are without prefix.

Names, labels and kinds are those of nwaku where it has them, so that dashboards fit; its counters are exposed
without `_total`, as on its own metrics page.

Parts with many counters of their own (host, relay, discv5, metadata) have a group here: whatever they count
is a counter, unless listed in the table as something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from ipc_schema.metric_samples import Family

_counter: Final = partial(Family, "counter")
_gauge: Final = partial(Family, "gauge")
_histogram: Final = partial(Family, "histogram")

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
    "ipc_requests": _counter("Requests by socket and method; unknown: not a method."),
    "ipc_errors": _counter(
        "Requests, and messages of one that takes many, answered with an error, by socket and code."
    ),
    "ipc_messages_received": _counter("Messages read from a socket."),
    "ipc_messages_sent": _counter("Messages given to a socket."),
    "ipc_dropped_slow": _counter("Replies dropped because the client does not read."),
    "ipc_dropped_gone": _counter("Replies dropped because the client has disconnected."),
    "ipc_handler_errors": _counter("Messages whose handler raised."),
    "ipc_connections": _gauge("Connections to a socket."),
    "ipc_connections_accepted": _counter("Connections accepted by a socket."),
    "ipc_connections_refused": _counter("Connections closed because of a limit."),
    "ipc_connections_denied": _counter("Connections closed because their user is not permitted."),
    "ipc_connections_flooding": _counter("Connections closed because they exceeded the memory limit."),
    "ipc_subscriptions_ignored": _counter("Subscriptions to unknown streams."),
    "ipc_streams_active": _gauge("Message streams that are recorded."),
    "ipc_streams_subscribed": _gauge("Streams with a subscriber."),
    "ipc_replay_bytes": _gauge("Bytes in all replay rings together."),
    # --- peers ---
    "connected_peers": _gauge("Connected peers by direction and protocol."),
    "connected_peers_per_shard": _gauge("Connected peers per shard."),
    "connected_peers_per_agent": _gauge("Connected peers by agent string."),
    "peer_store_size": _gauge("Known peers."),
    "peer_store_refused": _counter("Peers and addresses not accepted into the peer store."),
    "peer_store_pruned": _counter("Known peers evicted for better ones."),
    "peers_dials": _counter("Attempts to connect to a peer, by outcome."),
    "peers_errors": _counter("What went wrong with known peers, by type."),
    "node_conns_initiated": _counter("Connections this node opened, by how the peer was found."),
    "total_unique_peers": _gauge("Different peers that were ever entered into the peer store."),
    "service_peers": _gauge("1: the configured peer of a service is connected. peerId is its address."),
    "peers_evicted": _counter("Connected peers disconnected in favour of better ones."),
    "peers_online": _gauge("1: there was a sign of life from the network in the last seconds."),
    "peers_dialling": _gauge("Peers being dialled."),
    "peers_waiting": _gauge("Known peers in redial back-off."),
    "lightpush_peers": _gauge("Connected lightpush service peers."),
    "store_peers": _gauge("Connected store service peers."),
    "filter_peers": _gauge("Connected filter service peers."),
    "px_peers": _gauge("Connected peer exchange service peers."),
    # --- reachability ---
    "nat_mappings": _gauge("Ports that a router maps to this node."),
    "nat_errors": _counter("Searches for a router and requests to one that failed."),
    "libp2p_autonat_reachability_confidence": _gauge("Share of the last answers of peers, by what they say."),
    "autonat_errors": _counter("Our requests to be dialled back that failed."),
    "autonat_dial_backs": _counter("Requests of peers to be dialled back, by outcome."),
    "circuit_reservations": _gauge("Relays through which others can dial this node."),
    "circuit_errors": _counter("Reservations refused, and circuits that could not be understood."),
    "websocket_certificate_expiry_seconds": _gauge(
        "When the certificate of secure WebSockets expires, in seconds since 1970."
    ),
    # --- discovery ---
    "discovery_record_seq": _gauge("Sequence number of our own ENR."),
    "discovery_records_refused": _counter("ENRs of peers that are useless to us."),
    "discv5_nodes": _gauge("Nodes in the discv5 table."),
    "discv5_nodes_verified": _gauge("Nodes in the discv5 table that have answered."),
    "discv5_replacements": _gauge("Replacement nodes of the discv5 table."),
    "discv5_sessions": _gauge("Sessions with other nodes."),
    "discv5_requests": _gauge("Our requests awaiting a response."),
    "discv5_lookups": _gauge("Lookups in progress."),
    "discv5_discovered_per_shard": _gauge("Records of wanted nodes that discv5 found, by shard."),
    "discv5_errors": _counter("Records of discv5 that are of no use, by type."),
    "routing_table_nodes": _gauge("Nodes in the table of discv5; seen: those that have answered."),
    "dnsdisc_discovered": _gauge("Records found in lists in the DNS."),
    "dnsdisc_errors": _counter("Lists and entries of lists that could not be read, by type."),
    "px_peers_sent": _counter("ENRs served by peer exchange."),
    "px_errors": _counter("Peer exchange requests that failed, by type."),
    "px_client_errors": _counter("Our peer exchange requests that failed, by type."),
    "px_peers_received_total": _counter("ENRs received by peer exchange."),
    "px_peers_received_unknown": _gauge("Records got by peer exchange of peers that were not known."),
    "px_peers_received_refused": _counter("ENRs received by peer exchange that were too large or too many."),
    # --- relay ---
    "relay_network_bytes": _counter("Bytes of messages by topic; gross: all copies, net: each once."),
    "relay_avg_msg_bytes_per_shard": _gauge("Mean size of a shard's messages since it was joined."),
    "relay_max_msg_bytes_per_shard": _gauge("Largest of a shard's messages since it was joined."),
    "relay_total_msg_bytes_per_shard": _gauge("Bytes of a shard's messages since it was joined."),
    "msg_validator_signed_outcome": _counter("Messages by validation outcome."),
    "relay_cache_messages": _gauge("Messages in the relay's message cache."),
    "relay_cache_bytes": _gauge("Bytes in the relay's message cache."),
    "relay_queued_bytes": _gauge("Bytes queued for relay peers."),
    "relay_seen_ids": _gauge("Message ids in the relay's seen cache."),
    "relay_backoffs": _gauge("GRAFT back-offs by topic and peer."),
    "relay_link_loss_backoffs": _gauge("Peers we do not GRAFT for a minute after a lost link."),
    # --- filter ---
    "filter_requests": _counter("Requests of light clients by type."),
    "filter_request_duration_seconds": _histogram("Time to answer a light client, by type."),
    "filter_handle_message_duration_seconds": _histogram("Time to queue a message for its subscribers."),
    "filter_errors": _counter("Failed requests and push streams of light clients, by type."),
    "filter_subscriptions": _gauge("Subscribed light clients."),
    "filter_criteria": _gauge("Filter criteria of all light clients."),
    "filter_queued_frames": _gauge("Pushes queued for light clients."),
    "filter_queued_bytes": _gauge("Bytes of queued pushes; shared frames count once."),
    "filter_pushes": _counter("Pushes to light clients by outcome; dropped: its queue was full."),
    "filter_push_messages": _counter("Messages with at least one subscribed light client."),
    "filter_push_repeats": _counter("Messages not pushed because they had been pushed before."),
    "filter_push_streams": _counter("Push streams opened."),
    "filter_subscribers_removed": _counter("Light clients removed, by reason."),
    "filter_client_pushes": _counter("Messages pushed to this node, by outcome."),
    "filter_client_requests": _counter("Requests of this node to filter services, by type."),
    "filter_client_errors": _counter("Failed requests to filter services, by type."),
    "filter_client_peers_lost": _counter("Filter service peers lost with our subscriptions."),
    "filter_client_wishes": _gauge("Content topics that consumers want through filter."),
    "filter_client_peers": _gauge("Peers with a filter subscription of ours."),
    # --- lightpush, store and archive ---
    "lightpush_messages": _counter("Requests of the legacy lightpush by outcome."),
    "lightpush_errors": _counter("Failed requests of the legacy lightpush, by type."),
    "lightpush_v3_messages": _counter("Requests of lightpush by outcome."),
    "lightpush_v3_errors": _counter("Failed requests of lightpush, by type."),
    "lightpush_client_messages": _counter("Messages that other nodes published for us."),
    "lightpush_client_errors": _counter("Our lightpush requests that failed, by type."),
    "store_queries": _counter("Store queries of other nodes."),
    "store_errors": _counter("Queries of other nodes answered with an error, by type."),
    "store_time_seconds": _gauge("Duration of the last query of another node, by phase."),
    "store_fleet_msg_count": _counter("Messages that other stores answered with, by shard."),
    "store_fleet_msg_size_bytes": _counter("Payload bytes of messages of other stores, by shard."),
    "store_client_errors": _counter("Our store queries that failed, by type."),
    "archive_messages": _gauge("Messages in the archive."),
    "archive_messages_per_shard": _gauge("Messages taken into the archive since the start, by shard."),
    "query_count": _counter("Statements run on the archive's database, by kind."),
    "query_time_secs": _gauge("Time that the last statement took, by kind and phase."),
    "postgres_payload_size_bytes": _gauge("Payload of the last message written to PostgreSQL."),
    "archive_size_bytes": _gauge("Bytes that the archive's messages take, as of the last count."),
    "archive_errors": _counter("Messages not stored or removed and queries not answered, by type."),
    "archive_insert_duration_seconds": _histogram("Time to store a group of messages."),
    "archive_query_duration_seconds": _histogram("Time to read a page."),
    "archive_stored_total": _counter("Messages stored."),
    "archive_duplicates_total": _counter("Messages already in the archive."),
    "archive_ephemeral_total": _counter("Messages not stored because they are ephemeral."),
    "archive_removed_total": _counter("Messages removed by the retention policy."),
    "archive_queue_messages": _gauge("Messages queued for storage."),
    "archive_queue_bytes": _gauge("Bytes of messages queued for storage."),
    "archive_spool_messages": _gauge("Messages on disk that wait for the archive's database."),
    "archive_spool_bytes": _gauge("Bytes of messages on disk that wait for the archive's database."),
    "archive_spool_damaged_files": _gauge("Spool files that could not be read and were set aside."),
    "archive_spooled_total": _counter("Messages put on disk while the archive's database was away or slow."),
    "archive_away_seconds": _gauge("How long the archive's database has not been writable; 0: it is."),
    "archive_replica_lag_seconds": _gauge("How far the replica that pages are read from is behind."),
    "archive_ready": _gauge("1: the archive database is writable."),
    # --- store sync and resume ---
    "reconciliation_roundtrips": _histogram("Frames of the other side in each session of store sync."),
    "reconciliation_differences": _histogram("Messages that one side lacked in each session of store sync."),
    "total_bytes_exchanged": _counter("Bytes of store sync, by protocol and direction."),
    "total_transfer_messages_exchanged": _counter("Messages transferred by store sync, by direction."),
    "total_messages_cached": _gauge("Messages that store sync compares, after the last pruning."),
    "store_sync_peers": _gauge("Connected peers that speak store sync."),
    "store_sync_errors": _counter("Sessions of store sync that were refused or failed, by type."),
    "store_sync_transfers_refused": _counter("Transferred messages that were not archived, by reason."),
    "store_resume_messages": _counter("Messages that store resume added to the archive."),
    "store_resume_errors": _counter("What went wrong in store resume, by type."),
    # --- services ---
    "service_requests": _counter(
        "Requests to our services: served, or rejected because there were too many."
    ),
    "service_requests_limit": _gauge("Maximum requests per second of a service; 0: unlimited."),
    "service_network_bytes": _counter("Bytes of requests and responses of our services."),
    "service_request_handling_duration_seconds": _histogram("Time to handle a service request."),
    "service_errors": _counter("Failed requests to our services, by type."),
}

GROUPS: Final[Mapping[str, str]] = {
    "p2p_": "Connections and streams",
    "metadata_": "Metadata",
    "relay_": "Relay",
    "discv5_": "discv5",
}
"""Counter groups: name prefix -> label for people."""


def family_of(name: str) -> Family | None:
    """Return the description of a metric, None if it has none."""
    found = FAMILIES.get(name)
    if found is not None:
        return found
    for prefix, part in GROUPS.items():
        if name.startswith(prefix):
            what = name.removeprefix(prefix).replace("_", " ")
            return _counter(f"{part}: {what}, counted since the start.")
    return None

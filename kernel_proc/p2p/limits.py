"""The limits and timeouts of a host: each bounds what a hostile peer can cost."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Limits and timeouts of a host. Durations in seconds, sizes in bytes; 0 disables a limit per IP."""

    max_connections: int = 150
    """Established connections, in both directions."""
    max_inbound: int = 120
    """Established inbound connections; the rest is reserved for peers we dial."""
    max_per_ip: int = 5
    """Established and half-open inbound connections per IP (an IPv6 /64 counts as one)."""
    max_half_open: int = 64
    """Inbound connections in their handshake. Above it, the oldest one gives way to a newcomer."""
    max_half_open_per_ip: int = 8
    """The same, per IP."""
    max_per_peer: int = 3
    """Connections per peer id: two can result from simultaneous dialling."""
    handshake_timeout: float = 10.0
    """From accept or TCP connect to a muxed connection."""
    negotiation_timeout: float = 10.0
    """For the protocol negotiation of a stream."""
    max_inbound_streams: int = 128
    """Streams per connection opened by the peer, including those in negotiation."""
    max_outbound_streams: int = 256
    """Streams per connection opened by us."""
    max_stream_rate: int = 1000
    """Streams a peer may open between two keepalive ticks (at most a second): opening and resetting in a
    loop stays below every other limit."""
    idle_frames: int = 1000
    idle_frame_rate: float = 250.0
    """Frames without useful payload (empty frames, pings, small window updates) allowed per connection at
    once, and per second. Payload earns more, see Muxer.charge."""
    stream_window: int = 512 * KIB
    """Yamux receive window: unread bytes per stream. At least 256 KiB, the protocol's initial window; the
    rest is granted when a stream opens."""
    connection_buffer: int = 4096 * KIB
    """Unread bytes of all streams of a connection; the stream that exceeds it is reset."""
    send_buffer: int = 256 * KIB
    """Bytes queued per connection before writers wait."""
    control_buffer: int = 64 * KIB
    """Queued bytes of responses to the peer (acks, pongs, window updates) above which we consider it
    hostile."""
    write_timeout: float = 10.0
    """Time without progress after which a stream is reset, or a connection closed."""
    ping_interval: float = 6.0
    """Idle time after which we ping the peer."""
    ping_timeout: float = 8.0
    """Time without a response after which the peer counts as frozen. Together with the interval and a
    tick: below 20 s."""
    linger_timeout: float = 30.0
    """How long a stream that we closed may stay half open without a byte from the peer before it is reset."""

    def __post_init__(self) -> None:
        if self.stream_window < 256 * KIB:
            raise ValueError("stream_window must be at least 262144, yamux's initial window")
        if self.max_inbound > self.max_connections:
            raise ValueError("max_inbound must not exceed max_connections")
        if min(self.handshake_timeout, self.write_timeout, self.ping_interval, self.ping_timeout) <= 0:
            raise ValueError("timeouts must be positive")

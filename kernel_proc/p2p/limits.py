"""What one host allows and how long it waits: each number bounds what a hostile peer can cost."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Caps and time-outs of a host. Times in seconds, sizes in bytes; 0 switches a per-IP cap off."""

    max_connections: int = 150
    """Established connections, both directions."""
    max_inbound: int = 120
    """Established inbound connections: the rest stays free for peers we choose to dial."""
    max_per_ip: int = 5
    """Established and half-open inbound connections from one IP (an IPv6 /64 counts as one)."""
    max_half_open: int = 64
    """Inbound connections whose handshake is not done. Above it the oldest one gives way to a newcomer."""
    max_half_open_per_ip: int = 8
    """The same for those of one IP."""
    max_per_peer: int = 3
    """Connections with one peer id: two can arise when both sides dial at once."""
    handshake_timeout: float = 10.0
    """From accept or TCP connect to a muxed connection."""
    negotiation_timeout: float = 10.0
    """For a stream to agree on its protocol."""
    max_inbound_streams: int = 128
    """Streams of one connection that the peer opened, negotiating ones included."""
    max_outbound_streams: int = 256
    """Streams of one connection that we opened."""
    max_stream_rate: int = 1000
    """Streams a peer may open between two ticks of the keepalive (at most a second): opening and resetting in
    a loop stays below every other cap."""
    idle_frames: int = 1000
    idle_frame_rate: float = 250.0
    """Frames that carry next to nothing (empty ones, pings, small window updates) allowed of one connection
    at once, and per second. Useful bytes earn more: see Muxer.charge."""
    stream_window: int = 512 * KIB
    """Yamux receive window: what one stream may hold unread. At least 256 KiB, the protocol's start
    value; the rest is granted as the stream opens."""
    connection_buffer: int = 4096 * KIB
    """Unread bytes of all streams of one connection; the stream that crosses it is reset."""
    send_buffer: int = 256 * KIB
    """Bytes queued for one connection before writers wait."""
    control_buffer: int = 64 * KIB
    """Bytes of answers to the peer (acks, pongs, window updates) queued before it is taken for hostile."""
    write_timeout: float = 10.0
    """Without progress for so long, a stream is reset and a connection closed."""
    ping_interval: float = 6.0
    """Silence after which we ask whether the peer is alive."""
    ping_timeout: float = 8.0
    """Silence after that question which makes the peer frozen. With the interval and a tick: below 20 s."""
    linger_timeout: float = 30.0
    """How long a stream that we closed may stay half open without a byte from the peer before it is reset."""

    def __post_init__(self) -> None:
        if self.stream_window < 256 * KIB:
            raise ValueError("stream_window must be at least 262144: yamux starts every stream with it")
        if self.max_inbound > self.max_connections:
            raise ValueError("max_inbound must not exceed max_connections")
        if min(self.handshake_timeout, self.write_timeout, self.ping_interval, self.ping_timeout) <= 0:
            raise ValueError("time-outs must be positive")

"""Requests and replies of reliable channels (SPEC.md 4.5). `CHANNEL_METHODS` is a part of
`methods.METHODS`."""

from __future__ import annotations

from typing import Annotated, Final

from ipc_schema.body import Bin16, Bin32, Body, Empty, Method, Range, Size, Uint

__all__ = [
    "CHANNEL_CLOSE",
    "CHANNEL_CREATE",
    "CHANNEL_EXISTS",
    "CHANNEL_FIND_SEND",
    "CHANNEL_FORGET",
    "CHANNEL_LIST",
    "CHANNEL_METHODS",
    "CHANNEL_OPENED",
    "CHANNEL_SEND",
    "CHANNEL_SPLIT",
    "CHANNEL_STATUS",
    "FEATURE_CHANNELS",
    "FEATURE_CHANNEL_FIND_SEND",
    "FEATURE_CHANNEL_HOOKS",
    "MAX_CHANNELS",
    "MAX_CHANNEL_ID",
    "MAX_PENDING_SHOWN",
    "ChannelCreateReply",
    "ChannelCreateRequest",
    "ChannelExistsReply",
    "ChannelFindSendReply",
    "ChannelFindSendRequest",
    "ChannelInfo",
    "ChannelListReply",
    "ChannelOpenedRequest",
    "ChannelRequest",
    "ChannelSendReply",
    "ChannelSendRequest",
    "ChannelSplitReply",
    "ChannelStatusReply",
    "PendingChannelSend",
    "SealedSegments",
]

FEATURE_CHANNELS: Final = "channels"
"""In a hello's `features`: the server has these methods."""
FEATURE_CHANNEL_HOOKS: Final = "channel_hooks"
"""In a hello's `features`: an app may encrypt segments itself (`hooks` of `channel.create`)."""
FEATURE_CHANNEL_FIND_SEND: Final = "channel_find_send"
"""In a hello's `features`: the method `channel.find_send`."""
CHANNEL_CREATE: Final = "channel.create"
CHANNEL_EXISTS: Final = "channel.exists"
CHANNEL_LIST: Final = "channel.list"
CHANNEL_STATUS: Final = "channel.status"
CHANNEL_FIND_SEND: Final = "channel.find_send"
CHANNEL_CLOSE: Final = "channel.close"
CHANNEL_FORGET: Final = "channel.forget"
CHANNEL_SEND: Final = "channel.send"
CHANNEL_SPLIT: Final = "channel.split"
CHANNEL_OPENED: Final = "channel.opened"

MAX_CHANNEL_ID: Final = 512
MAX_CHANNELS: Final = 1000
"""Channels of one app."""
_MAX_KEYS: Final = 8
_MAX_SEGMENTS: Final = 256
MAX_PENDING_SHOWN: Final = 1_000
_MAX_REASON: Final = 1_000
_MILLION: Final = 1_000_000

ChannelId = Annotated[str, Size(MAX_CHANNEL_ID, 1)]


class ChannelCreateRequest(Body):
    """Create a channel, or open one that was closed.

    `sender_id`: made up and kept if absent. `keys`: of the built-in cipher, the first one encrypts;
    `keep_keys`: they are stored with the channel, so that it opens by itself after a restart. `parity_ppm`:
    parity segments per million data segments. `hooks`: the app encrypts and decrypts each segment itself.
    """

    channel_id: ChannelId
    content_topic: str
    sender_id: Annotated[str, Size(MAX_CHANNEL_ID, 1)] | None = None
    profile: Annotated[str, Size(32, 1)] = "reference"
    keys: Annotated[tuple[Bin32, ...], Size(_MAX_KEYS)] = ()
    keep_keys: bool = False
    parity_ppm: Annotated[int, Range(0, _MILLION)] = 0
    hooks: bool = False

    def __repr__(self) -> str:
        return f"ChannelCreateRequest(channel_id={self.channel_id!r}, {len(self.keys)} keys)"


class ChannelCreateReply(Body):
    """The channel is on disk and open."""

    sender_id: str
    existed: bool = False


class ChannelRequest(Body):
    """One channel of the app that asks."""

    channel_id: ChannelId


class ChannelExistsReply(Body):
    exists: bool


class ChannelInfo(Body):
    """`locked`: its keys were not kept, and it waits for `channel.create` with them."""

    channel_id: str
    content_topic: str
    sender_id: str
    profile: str
    encrypted: bool
    open: bool
    locked: bool = False
    hooks: bool = False


class ChannelListReply(Body):
    channels: Annotated[tuple[ChannelInfo, ...], Size(MAX_CHANNELS)]


class PendingChannelSend(Body):
    """An accepted send of a channel that is not final. `sent`: its `channel_message_sent` was emitted.

    From `channel.find_send` also when it is final: `end` is then `delivered`, `failed` or `undelivered`, and
    `detail` the participant that has it, or why none is known to.
    """

    request_id: Bin16
    sent: bool
    end: str = ""
    detail: str = ""


class ChannelStatusReply(Body):
    """`missing`: messages known of and not here; `waiting` for those; `joining`: payloads of which segments
    are here; `unacknowledged`: sends without an end, up to 1,000 of them in `sends`; `unopened`: segments
    that the app has not decrypted yet."""

    missing: Uint
    waiting: Uint
    joining: Uint
    unacknowledged: Uint
    history: Uint
    unopened: Uint = 0
    sends: Annotated[tuple[PendingChannelSend, ...], Size(MAX_PENDING_SHOWN)] = ()


class ChannelFindSendRequest(Body):
    """Find a send of a channel, open or not, by its request id."""

    channel_id: ChannelId
    request_id: Bin16


class ChannelFindSendReply(Body):
    """The send, final or not. None: it was not accepted, or ended a day ago, after which ids are
    forgotten."""

    send: PendingChannelSend | None = None


class SealedSegments(Body):
    """What the blobs of a send are in a channel with hooks: segments of `channel.split`, encrypted.

    `sizes` of the encrypted segments; `needed` of them make the payload; `digest`: SHA-256 of the payload,
    by which a repeat is recognised.
    """

    sizes: Annotated[tuple[Uint, ...], Size(_MAX_SEGMENTS, 1)]
    needed: Uint
    digest: Bin32


class ChannelSendRequest(Body):
    """Send the blobs, one after the other, as one payload."""

    channel_id: ChannelId
    request_id: Bin16
    ephemeral: bool = False
    sealed: SealedSegments | None = None


class ChannelSendReply(Body):
    """Accepted; `repeated`: it was accepted before under this id."""

    request_id: Bin16
    repeated: bool = False


class ChannelSplitReply(Body):
    """The blobs are the payload's segments, one after the other, of these sizes."""

    sizes: Annotated[tuple[Uint, ...], Size(_MAX_SEGMENTS)]
    needed: Uint


class ChannelOpenedRequest(Body):
    """The blob is the decrypted segment of a `channel_segment_received`; with `error` there is none."""

    channel_id: ChannelId
    message_id: Annotated[str, Size(MAX_CHANNEL_ID, 1)]
    error: Annotated[str, Size(_MAX_REASON)] | None = None


CHANNEL_METHODS: Final[dict[str, Method]] = {
    CHANNEL_CREATE: Method(ChannelCreateRequest, ChannelCreateReply),
    CHANNEL_EXISTS: Method(ChannelRequest, ChannelExistsReply),
    CHANNEL_LIST: Method(Empty, ChannelListReply),
    CHANNEL_STATUS: Method(ChannelRequest, ChannelStatusReply),
    CHANNEL_FIND_SEND: Method(ChannelFindSendRequest, ChannelFindSendReply),
    CHANNEL_CLOSE: Method(ChannelRequest, Empty),
    CHANNEL_FORGET: Method(ChannelRequest, Empty),
    CHANNEL_SEND: Method(ChannelSendRequest, ChannelSendReply),
    CHANNEL_SPLIT: Method(ChannelRequest, ChannelSplitReply),
    CHANNEL_OPENED: Method(ChannelOpenedRequest, Empty),
}

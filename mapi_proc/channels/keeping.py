"""Stored settings of a channel: profile, encryption, keys."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgpack import packb, unpackb

from ipc_schema.config.mapi import MapiConfig
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.channels import ChannelCreateRequest
from mapi_proc.channels.channel import ChannelSettings
from mapi_proc.channels.encryption import XChaCha
from mapi_proc.channels.profiles import PROFILES
from mapi_proc.channels.sds.settings import SdsSettings
from mapi_proc.channels.segmentation.join import JoinLimits
from mapi_proc.channels.segmentation.split import SplitLimits
from mapi_proc.database.records import DamagedError

_MILLION = 1_000_000


class KeptSettings(NamedTuple):
    """Settings of one channel, as its row has them."""

    profile: str
    parity_ppm: int
    encrypted: bool
    hooks: bool = False

    def pack(self) -> bytes:
        """Encode for the row."""
        packed: bytes = packb(tuple(self))
        return packed


def read_settings(packed: bytes) -> KeptSettings:
    """Decode a row. Raises DamagedError."""
    try:
        value: Any = unpackb(packed)
        profile, parity_ppm, encrypted, *later = value  # `hooks` came later
        if profile in PROFILES:
            return KeptSettings(profile, int(parity_ppm), bool(encrypted), bool(later and later[0]))
    except (ValueError, TypeError) as error:
        raise DamagedError(f"settings of a channel: {error}") from error
    raise DamagedError(f"settings of a channel: profile {profile!r}")


def wanted_settings(request: ChannelCreateRequest) -> KeptSettings:
    """Read an app's request. Raises IpcError."""
    if request.profile not in PROFILES:
        names = ", ".join(PROFILES)
        raise IpcError(ErrorCode.BAD_REQUEST, f"profile {request.profile!r} is none of {names}")
    if request.keep_keys and not request.keys:
        raise IpcError(ErrorCode.BAD_REQUEST, "keep_keys without keys")
    if request.hooks and request.keys:
        raise IpcError(ErrorCode.BAD_REQUEST, "a channel has keys or hooks, not both")
    if request.hooks and PROFILES[request.profile].seals_envelope:
        text = f"profile {request.profile} encrypts envelopes, which an app does not see: no hooks"
        raise IpcError(ErrorCode.BAD_REQUEST, text)
    return KeptSettings(request.profile, request.parity_ppm, bool(request.keys), request.hooks)


def pack_keys(keys: tuple[bytes, ...]) -> bytes:
    """Encode for the row's `secret`."""
    packed: bytes = packb(keys)
    return packed


def cipher_of(secret: bytes) -> XChaCha:
    """Return the built-in cipher with stored keys. Raises DamagedError, without a key in its text."""
    try:
        keys: Any = unpackb(secret)
        return XChaCha(keys)
    except (ValueError, TypeError):
        raise DamagedError("the keys of a channel cannot be read") from None


def channel_settings(config: MapiConfig, kept: KeptSettings, *, on_disk: bool) -> ChannelSettings:
    """Return a channel's settings: the options, and what its app chose. `on_disk`: its state is stored."""
    options = config.resolved.options.channels
    profile = PROFILES[kept.profile]
    sync = options.channel_sync_interval
    sds = SdsSettings(
        form=profile.form,
        ack_timeout=options.channel_ack_timeout,
        ack_timeout_max=10 * options.channel_ack_timeout,
        max_attempts=options.channel_max_attempts,
        request_min=options.channel_repair_delay,
        request_max=10 * options.channel_repair_delay,
        response_gap=options.channel_repair_delay / 3,
        lost_after=options.channel_lost_after,
        sync_min=sync,
        sync_max=10 * sync,
        sync_after_content=sync / 2,
        sync_gap=min(2.0, sync / 2),
        on_disk=on_disk,
    )
    return ChannelSettings(
        profile=profile,
        sds=sds,
        split=SplitLimits(segment_size=options.channel_segment_size, parity_rate=kept.parity_ppm / _MILLION),
        join=JoinLimits(timeout=max(3600.0, 2 * options.channel_lost_after)),
        hooks=kept.hooks,
    )

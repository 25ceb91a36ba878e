"""Encryption of a channel's segments by functions of the app, in the app's process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ipc_schema.errors import ErrorCode, IpcError

Hook = Callable[[bytes], bytes]


class _Pair(NamedTuple):
    encrypt: Hook
    decrypt: Hook


class ChannelHooks:
    """The hooks of one app's channels. They outlive connections and channels."""

    def __init__(self) -> None:
        self._pairs: dict[str, _Pair] = {}

    def __contains__(self, channel_id: str) -> bool:
        return channel_id in self._pairs

    def set(self, channel_id: str, encrypt: Hook, decrypt: Hook) -> None:
        """Use these from now on."""
        if not callable(encrypt) or not callable(decrypt):
            raise TypeError("encrypt and decrypt are functions")
        self._pairs[channel_id] = _Pair(encrypt, decrypt)

    def clear(self, channel_id: str) -> None:
        """Use none. Raises `IpcError` where there is none."""
        if self._pairs.pop(channel_id, None) is None:
            text = f"no encryption registered for channel: {channel_id}"
            raise IpcError(ErrorCode.BAD_REQUEST, text)

    def seal(self, channel_id: str, segments: Iterable[bytes]) -> list[bytes]:
        """Encrypt the segments of a payload. Raises `IpcError`: a hook that fails fails the send."""
        encrypt = self._pairs[channel_id].encrypt
        try:
            return [_result(encrypt(segment)) for segment in segments]
        except Exception as error:
            raise IpcError(ErrorCode.BAD_REQUEST, f"encryption failed: {error}") from error

    def open(self, channel_id: str, sealed: bytes) -> tuple[bytes | None, str]:
        """Decrypt a segment; None, and why, if the hook fails."""
        try:
            return _result(self._pairs[channel_id].decrypt(sealed)), ""
        except Exception as error:  # whatever the app's function raises is reported to the app as an event
            return None, str(error) or type(error).__name__


def _result(value: object) -> bytes:
    # `bytes(value)` would make zeros of a number.
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"a hook returns bytes, not {type(value).__name__}")
    return bytes(value)

"""Encryption of a channel's payloads by functions of the app, in the app's process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from ipc_schema.errors import ErrorCode, IpcError
from logos_client.events import ChannelMessageLost, ChannelMessageReceived

__all__ = ["ChannelHooks", "Hook"]

Hook = Callable[[bytes], bytes]

_UNANSWERED: Final = 16
"""Sealed payloads kept for a repeat of a send that had no answer: sealed again, it would be another one."""


class _Pair(NamedTuple):
    encrypt: Hook
    decrypt: Hook


class ChannelHooks:
    """The hooks of one app's channels. They outlive connections and channels."""

    def __init__(self) -> None:
        self._pairs: dict[str, _Pair] = {}
        self._unanswered: OrderedDict[tuple[str, bytes], bytes] = OrderedDict()

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

    def seal(self, channel_id: str, request_id: bytes, payload: bytes) -> bytes:
        """What to send for a payload. Raises `IpcError`: a hook that fails fails the send."""
        pair = self._pairs.get(channel_id)
        if pair is None:
            return payload
        key = (channel_id, request_id)
        sealed = self._unanswered.get(key)
        if sealed is None:
            try:
                sealed = bytes(pair.encrypt(payload))
            except Exception as error:
                raise IpcError(ErrorCode.BAD_REQUEST, f"encryption failed: {error}") from error
            self._unanswered[key] = sealed
            if len(self._unanswered) > _UNANSWERED:
                self._unanswered.popitem(last=False)
        return sealed

    def answered(self, channel_id: str, request_id: bytes) -> None:
        """The send was accepted."""
        self._unanswered.pop((channel_id, request_id), None)

    def open(self, event: ChannelMessageReceived) -> ChannelMessageReceived | ChannelMessageLost:
        """The event with its payload opened, or that this cannot be done."""
        pair = self._pairs.get(event.channel_id)
        if pair is None:
            return event
        try:
            payload = bytes(pair.decrypt(event.payload))
        except (
            Exception
        ) as error:  # whatever the app's function raises: its event says so, and the stream goes on
            return ChannelMessageLost(
                event.stream_id,
                event.seq,
                event.time_ns,
                event.channel_id,
                b"",
                (event.message_id,),
                f"decryption failed: {error}",
            )
        return ChannelMessageReceived(*event._replace(payload=payload))

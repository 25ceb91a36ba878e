"""A channel that is known, open or not, and whether it is the one that is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.channels import ChannelCreateRequest, ChannelInfo
from mapi_proc.apps import App
from mapi_proc.channels.feed import ChannelFeed
from mapi_proc.channels.host import ChannelHost
from mapi_proc.channels.keeping import KeptSettings
from mapi_proc.database import ChannelRecord


@dataclass(slots=True, eq=False)
class KnownChannel:
    """Without a host it is closed, or locked (`record.open`)."""

    app: App
    record: ChannelRecord
    settings: KeptSettings
    host: ChannelHost | None = None
    feed: ChannelFeed | None = None
    opening: bool = False

    @property
    def locked(self) -> bool:
        """Whether it is locked until its app supplies the keys."""
        return self.host is None and bool(self.record.open)

    def info(self) -> ChannelInfo:
        """Return what its app is shown of it."""
        return ChannelInfo(
            channel_id=self.record.name,
            content_topic=self.record.content_topic,
            sender_id=self.record.sender_id,
            profile=self.settings.profile,
            encrypted=self.settings.encrypted or self.settings.hooks,
            open=self.host is not None,
            locked=self.locked,
            hooks=self.settings.hooks,
        )


def check_same(channel: KnownChannel, request: ChannelCreateRequest, wanted: KeptSettings) -> None:
    """Check that a channel that is opened again is the one that was created. Raises IpcError."""
    record, settings = channel.record, channel.settings
    if channel.host is not None or channel.opening:
        raise IpcError(ErrorCode.CONFLICT, f"channel already exists: {record.name}")
    asked = (request.content_topic, request.profile, request.sender_id or record.sender_id)
    if asked != (record.content_topic, settings.profile, record.sender_id):
        text = f"channel {record.name} has another content topic, profile or sender id"
        raise IpcError(ErrorCode.CONFLICT, text)
    if wanted.hooks != settings.hooks:
        text = f"channel {record.name} was created with{'' if settings.hooks else 'out'} hooks"
        raise IpcError(ErrorCode.BAD_REQUEST, text)
    if settings.encrypted and not request.keys and not record.secret:
        raise IpcError(ErrorCode.BAD_REQUEST, f"channel {record.name} is encrypted: its keys are needed")
    if wanted.encrypted and not settings.encrypted:
        raise IpcError(ErrorCode.BAD_REQUEST, f"channel {record.name} was created without encryption")

"""The methods of reliable channels on the apps' ROUTER (SPEC.md 4.5)."""

from __future__ import annotations

from collections.abc import Callable

from ipc_schema.mapi import channels as schema
from ipc_schema.server import Answer, Call, Route, answer
from mapi_proc.apps import App
from mapi_proc.core import Core


class ChannelRoutes:
    """`app_of(call)`: who asks."""

    def __init__(self, core: Core, app_of: Callable[[Call], App]) -> None:
        self._core = core
        self._app_of = app_of

    def routes(self) -> dict[str, Route]:
        """Method → how it is run. Ordered: what a program sends in one order goes out in that order."""
        return {
            schema.CHANNEL_CREATE: Route(self._create, ordered=True),
            schema.CHANNEL_EXISTS: Route(self._exists),
            schema.CHANNEL_LIST: Route(self._list),
            schema.CHANNEL_STATUS: Route(self._status),
            schema.CHANNEL_FIND_SEND: Route(self._find_send),
            schema.CHANNEL_CLOSE: Route(self._close, ordered=True),
            schema.CHANNEL_FORGET: Route(self._forget, ordered=True),
            # Not ordered: many are to share a transaction. They stay in order all the same, since the one
            # thing that each waits for before it has its place is a read of the database's one reader thread.
            schema.CHANNEL_SEND: Route(self._send),
            schema.CHANNEL_SPLIT: Route(self._split),
            # Not ordered: it is taken before the first wait, so in the order in which it comes.
            schema.CHANNEL_OPENED: Route(self._opened),
        }

    async def _create(self, call: Call) -> Answer:
        request = call.read(schema.ChannelCreateRequest)
        reply = await self._core.channels.get().create(self._app_of(call), request)
        return answer(reply.to_body())

    def _exists(self, call: Call) -> Answer:
        channel_id = call.read(schema.ChannelRequest).channel_id
        exists = self._core.channels.get().exists(self._app_of(call), channel_id)
        return answer(schema.ChannelExistsReply(exists=exists).to_body())

    def _list(self, call: Call) -> Answer:
        channels = tuple(self._core.channels.get().list(self._app_of(call)))
        return answer(schema.ChannelListReply(channels=channels).to_body())

    def _status(self, call: Call) -> Answer:
        channel_id = call.read(schema.ChannelRequest).channel_id
        return answer(self._core.channels.get().status(self._app_of(call), channel_id).to_body())

    async def _find_send(self, call: Call) -> Answer:
        wanted = call.read(schema.ChannelFindSendRequest)
        send = await self._core.channels.get().find_send(self._app_of(call), wanted)
        return answer(schema.ChannelFindSendReply(send=send).to_body())

    async def _close(self, call: Call) -> Answer:
        channel_id = call.read(schema.ChannelRequest).channel_id
        await self._core.channels.get().close(self._app_of(call), channel_id)
        return answer()

    async def _forget(self, call: Call) -> Answer:
        channel_id = call.read(schema.ChannelRequest).channel_id
        await self._core.channels.get().forget(self._app_of(call), channel_id)
        return answer()

    async def _send(self, call: Call) -> Answer:
        request = call.read(schema.ChannelSendRequest)
        repeated = await self._core.channels.get().send(self._app_of(call), request, call.blobs)
        return answer(schema.ChannelSendReply(request_id=request.request_id, repeated=repeated).to_body())

    def _split(self, call: Call) -> Answer:
        channel_id = call.read(schema.ChannelRequest).channel_id
        reply, blobs = self._core.channels.get().split(self._app_of(call), channel_id, call.blobs)
        return answer(reply.to_body(), blobs)

    async def _opened(self, call: Call) -> Answer:
        request = call.read(schema.ChannelOpenedRequest)
        await self._core.channels.get().opened(self._app_of(call), request, call.blobs)
        return answer()

"""`node.info`, which kernel and Messaging API answer alike (SPEC.md §3.3)."""

from __future__ import annotations

from typing import Annotated, Final

from ipc_schema.body import Body, Size

__all__ = ["NODE_INFO", "NodeInfoReply", "NodeInfoRequest"]

NODE_INFO: Final = "node.info"


class NodeInfoRequest(Body):
    """The facts to return; None: all."""

    ids: Annotated[tuple[Annotated[str, Size(64)], ...], Size(64)] | None = None


class NodeInfoReply(Body):
    info: dict[str, object]

"""Control methods that only a Messaging API has (SPEC.md, "Control of a Messaging API").

They are for the person who runs the node, so they cover the apps of every user.
"""

from __future__ import annotations

from typing import Annotated, Final

from ipc_schema.body import Bin16, Body, Empty, Method, Ns, Size, Uint

__all__ = [
    "APPS",
    "MAX_APPS_SHOWN",
    "MAX_SENDS_SHOWN",
    "METHODS",
    "SENDS",
    "AppSummary",
    "AppsReply",
    "SendSummary",
    "SendsReply",
]

APPS: Final = "apps"
SENDS: Final = "sends"
MAX_APPS_SHOWN: Final = 500
"""Most apps in one reply of `apps`."""
MAX_SENDS_SHOWN: Final = 200
"""Most sends in one reply of `sends`."""


class AppSummary(Body):
    """One app and where it stands in its stream.

    `dropped`: events up to here that were not acknowledged were removed by the stream's bounds. The backlog
    is what lies behind the greater of `acked` and `dropped`; `backlog_bytes` is what is stored of it, to
    within 1/64 of the stream's limit. `away_ms`: how long ago it was last connected, None while it is.
    `sends`: its sends without a fate.
    """

    name: str
    durable: bool
    connected: bool
    topics: Uint
    stream: Bin16
    acked: Uint
    dropped: Uint
    last: Uint
    backlog_bytes: Uint
    away_ms: Uint | None = None
    sends: Uint


class AppsReply(Body):
    """The apps with the longest backlogs, and how many there are in all."""

    apps: Annotated[tuple[AppSummary, ...], Size(MAX_APPS_SHOWN)]
    total: Uint


class SendSummary(Body):
    """A send pending, as in the reply of `pending`. `app` is empty when its app has left."""

    app: str
    request_id: Bin16
    content_topic: str
    state: str
    accepted_ns: Ns
    attempts: Uint
    cause: str


class SendsReply(Body):
    """The oldest sends pending, of all apps, and how many there are in all and in each state."""

    sends: Annotated[tuple[SendSummary, ...], Size(MAX_SENDS_SHOWN)]
    total: Uint
    states: dict[str, int]


METHODS: Final[dict[str, Method]] = {
    APPS: Method(Empty, AppsReply),
    SENDS: Method(Empty, SendsReply),
}

"""Subscriptions by content topic: who wants what, which shards that needs, and whether a send subscribes."""

from mapi_proc.subscriptions.auto import AutoSubscribe, NeverSubscribe, SubscribeOnFirstSend
from mapi_proc.subscriptions.table import (
    ALREADY_UNSUBSCRIBED,
    MAX_CONTENT_TOPIC_BYTES,
    Change,
    Route,
    SubscriptionTable,
)

__all__ = [
    "ALREADY_UNSUBSCRIBED",
    "MAX_CONTENT_TOPIC_BYTES",
    "AutoSubscribe",
    "Change",
    "NeverSubscribe",
    "Route",
    "SubscribeOnFirstSend",
    "SubscriptionTable",
]

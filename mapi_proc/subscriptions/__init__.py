"""Subscriptions by content topic: who wants what, which shards that needs, and whether a send subscribes."""

from mapi_proc.subscriptions.auto import AutoSubscribe, NeverSubscribe, SubscribeOnFirstSend
from mapi_proc.subscriptions.table import (
    ALREADY_UNSUBSCRIBED,
    Change,
    SubscriptionTable,
    TopicRoute,
)

__all__ = [
    "ALREADY_UNSUBSCRIBED",
    "AutoSubscribe",
    "Change",
    "NeverSubscribe",
    "SubscribeOnFirstSend",
    "SubscriptionTable",
    "TopicRoute",
]

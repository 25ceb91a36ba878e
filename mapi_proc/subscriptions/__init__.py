"""Subscriptions by content topic: per app, the shards they need, and auto-subscription on send."""

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

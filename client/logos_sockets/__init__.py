"""ZeroMQ sockets of the contract, without an event loop: options, endpoints, admission, memory bounds.

Shared by kernel (trio), Messaging API and client (asyncio). It imports only pyzmq and the standard library,
and belongs to the client's distribution because the client needs it and may depend on nothing else.
"""

from logos_sockets.descriptors import free_descriptors
from logos_sockets.door import RESERVE, TICK, Door, DoorCounters
from logos_sockets.memory import MemoryWatch
from logos_sockets.options import (
    BLOB_SLACK,
    DEALER_LINGER_MS,
    hwm_for,
    open_dealer,
    open_publisher,
    open_router,
    open_subscriber,
)

__all__ = [
    "BLOB_SLACK",
    "DEALER_LINGER_MS",
    "RESERVE",
    "TICK",
    "Door",
    "DoorCounters",
    "MemoryWatch",
    "free_descriptors",
    "hwm_for",
    "open_dealer",
    "open_publisher",
    "open_router",
    "open_subscriber",
]

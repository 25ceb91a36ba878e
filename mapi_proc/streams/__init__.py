"""The apps' event streams: durable ones of named apps, ephemeral ones of the others.

Both implement `AppStream`: append on one side; attach, grant, ack, pump, detach on the other. Which app
gets which event is decided elsewhere (`mapi_proc.receive`, `mapi_proc.send`).
"""

from mapi_proc.streams.durable import DurableStream
from mapi_proc.streams.ephemeral import EphemeralStream
from mapi_proc.streams.fanout import append_to_all
from mapi_proc.streams.limits import CacheBudget, DurableLimits, EphemeralLimits
from mapi_proc.streams.stream import AckRefusedError, AppStream

__all__ = [
    "AckRefusedError",
    "AppStream",
    "CacheBudget",
    "DurableLimits",
    "DurableStream",
    "EphemeralLimits",
    "EphemeralStream",
    "append_to_all",
]

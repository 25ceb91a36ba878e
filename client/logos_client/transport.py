"""What other packages build on: connections that know the contract, without a client above them."""

from logos_client._connection import DEFAULT_TIMEOUT, RequestConnection
from logos_client._connection_types import ConnectionSettings
from logos_client._process import HomeProcess
from logos_client.blocking._base import BlockingClient, open_client

__all__ = [
    "DEFAULT_TIMEOUT",
    "BlockingClient",
    "ConnectionSettings",
    "HomeProcess",
    "RequestConnection",
    "open_client",
]

"""Errors between the modules of this room. None of them leaves it; see `api` for those that do."""

from __future__ import annotations


class ConnectionEnded(Exception):
    """The connection is gone or must be closed. `reason` is a short phrase for events and logs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProtocolViolation(ConnectionEnded):
    """The peer violated noise, yamux, mplex or multistream-select: close the connection."""


class NegotiationFailed(Exception):
    """The two sides have no protocol in common."""

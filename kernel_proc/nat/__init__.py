"""Ports on the router in front of this node: found, mapped, renewed and removed."""

from kernel_proc.nat.service import PortMapper

__all__ = ["PortMapper"]

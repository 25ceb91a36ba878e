"""Ports on the router in front of this node: found, mapped, renewed and removed."""

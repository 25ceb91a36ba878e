"""Deterministic simulations: one process, a fake clock, everything from a seed."""

"""Sending: what was accepted is kept and retried until it propagates, fails, or its window is over."""

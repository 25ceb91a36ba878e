"""Sending: an accepted message is kept and retried until it propagates, fails, or its window ends."""

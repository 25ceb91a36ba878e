"""Steady load for a long time: what grows? See `tests/soak/__main__.py`."""

"""Participants of one reliable channel on a bad network. `python -m tests.simulation.channels --seeds
1000`."""

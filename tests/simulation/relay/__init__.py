"""Relay networks in simulated time: many instances of the real router core and peer plan."""

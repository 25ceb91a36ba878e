"""The bench `gateway`: HTTP in front of a node, against the same framework with nothing behind it."""

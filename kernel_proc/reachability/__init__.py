"""Whether others can dial this node, and how to be reached where they cannot."""

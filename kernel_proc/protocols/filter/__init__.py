"""Filter (12/WAKU2-FILTER): messages of chosen content topics for peers that are not on the relay."""

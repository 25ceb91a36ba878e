"""Scalable Data Sync: causal order, acknowledgements and repair among the participants of one channel."""

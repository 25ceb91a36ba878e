"""Segmentation (LIP-243): payloads of any size as segments of one message each, with optional parity."""

"""Reliable channels: ordered, acknowledged, repaired and encrypted exchange on top of the Messaging API.

A channel is a content topic that several participants share. Each payload is split into segments
(`segmentation`), each segment becomes one SDS message (`sds`: causal order, acknowledgements, repair), and
its content or the whole envelope may be encrypted (`encryption`). `profiles` says which of the wire forms in
use a channel writes; `channel` composes the parts. Everything here is pure: no clock, no I/O, no task. Time
and randomness are arguments, what should happen is returned, and what must be stored is collected as changes.

Imported only when an app creates its first channel.
"""

"""The journal of an app over HTTP: server-sent events, WebSocket, sends and their outcome.

The Messaging API owns the journal: it is on disk there, numbered by (stream id, seq), and kept until
acknowledged. The gateway adds no state that a kill could lose.
"""

"""The `logos` command: runs a node under supervision, looks at it, sends and listens.

Processes are started by their entry points and spoken to over their sockets; nothing of theirs is imported.
"""

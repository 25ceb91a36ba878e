"""The bench `clients`: each language's client against a bare ZeroMQ loop of the same language."""

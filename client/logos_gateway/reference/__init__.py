"""The REST API of the reference (nwaku): its routes, JSON shapes, status codes and texts, as it spells them.

It keeps what tools written for nwaku rely on, even where that loses data (reading empties a polling cache);
`logos_gateway.apps` offers better.
"""

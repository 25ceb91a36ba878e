"""The OpenAPI 3.1 document of the gateway: what `/openapi.json` serves.

The routes take requests as they are, since the reference's texts for bad input have to be met exactly; so
what they take and give is described here, in one table for each group of routes. A route without a
description, or a description without a route, is refused when the document is made.
"""

from logos_gateway.api_document.document import UndescribedError, describe

__all__ = ["UndescribedError", "describe"]

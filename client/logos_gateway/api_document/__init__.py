"""The OpenAPI 3.1 document of the gateway: what `/openapi.json` serves.

Handlers parse their own requests, because the reference's texts for bad input must match exactly. Hence
parameters and responses are described here, in one table per group of routes. A route without a
description, or a description without a route, fails the build of the document.
"""

from logos_gateway.api_document.document import UndescribedError, describe

__all__ = ["UndescribedError", "describe"]

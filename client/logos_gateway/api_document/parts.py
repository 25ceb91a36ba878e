"""Building blocks for descriptions of operations. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from ipc_schema.config.kinds import LOG_LEVELS

Schema = dict[str, Any]

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
TEXT: Final = "text/plain"
PROBLEM: Final = "application/problem+json"


def ref(name: str) -> Schema:
    """Return a reference to a shared schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def _value(kind: str, about: str = "", **more: Any) -> Schema:
    return {"type": kind, **({"description": about} if about else {}), **more}


text: Final = partial(_value, "string")
integer: Final = partial(_value, "integer")
number: Final = partial(_value, "number")
flag: Final = partial(_value, "boolean")
LEVEL: Final = text(enum=list(LOG_LEVELS))


def mapping(values: Schema, **more: Any) -> Schema:
    """Return the schema of an object whose keys are names."""
    return {"type": "object", "additionalProperties": values, **more}


def array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def obj(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, **more: Any) -> Schema:
    """Return the schema of an object, which may have further keys."""
    shown: Schema = {"type": "object", "properties": {**required, **(optional or {})}, **more}
    if required:
        shown["required"] = list(required)
    return shown


def _parameter(place: str, name: str, about: str, schema: Schema, *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "description": about, "schema": schema}


def path(name: str, about: str, schema: Schema | None = None) -> dict[str, Any]:
    return _parameter("path", name, about, schema or {"type": "string", "minLength": 1}, required=True)


def query(name: str, about: str, schema: Schema | None = None) -> dict[str, Any]:
    """Return an optional query parameter."""
    return _parameter("query", name, about, schema or {"type": "string"}, required=False)


def header(name: str, about: str, schema: Schema | None = None) -> dict[str, Any]:
    return _parameter("header", name, about, schema or {"type": "string"}, required=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Parameters and responses of one route.

    `answers`: status to (meaning, media type to schema). `body`: the schema of a JSON body, which is then
    required. `problems`: errors are problem details, else plain text.
    """

    answers: Mapping[int, tuple[str, Mapping[str, Schema]]]
    parameters: Sequence[dict[str, Any]] = ()
    body: Schema | None = None
    octets: str = ""
    """Meaning of an application/octet-stream body, where one may replace the JSON."""
    example: Any = None
    problems: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of a successful response."""

"""`/openapi.json`: OpenAPI 3.1, made from the view, so that another view documents itself. Pure."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kycache.actors.rules.standing import Standing
from kycache.http.exchange.demands import (
    AS_OF,
    FRESHNESS,
    SERVED_BY,
    SUSPECT,
    WATERMARK,
)
from kycache.http.exchange.problems import PROBLEM_JSON, Kind
from kycache.http.exchange.request import CONSISTENCY, DEMANDS, MAX_STALENESS, MIN_LSN
from kycache.http.reads.query import FILTER_BYTES_MAX, NEWEST, ORDERS, SIZE_DEFAULT, SIZE_MAX
from kycache.model.values import INTEGER
from kycache.model.view import Filter, View
from kycache.model.view import Kind as TypeKind

from .schemas import Schema, id_name, key_column, profile_schema, row_schema, value_schema

_TEXT: Schema = {"type": "string"}


def build_openapi(view: View) -> dict[str, Any]:
    """The whole document."""
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "kycache",
            "version": _version(),
            "description": "Reads of a materialized view. Every answer says how true it is.",
        },
        "paths": {
            "/users": {"get": _list(view)},
            "/users/export": {"get": _export(view)},
            f"/users/{{{id_name(view)}}}": {"get": _detail(view)},
            "/livez": {
                "get": _plain("live", "Is the process alive?", {"200": _json("It is.", {"type": "object"})})
            },
            "/readyz": {"get": _readyz()},
            "/metrics": {"get": _plain("metrics", "Metrics", {"200": _media("text/plain", "Prometheus text.")})},
            "/openapi.json": {
                "get": _plain("openapi", "This document", {"200": _json("OpenAPI 3.1.", {"type": "object"})})
            },
            "/docs": {"get": _plain("docs", "This document to read", {"200": _media("text/html", "A page.")})},
        },
        "components": {
            "schemas": {
                "Profile": profile_schema(view),
                "ListRow": row_schema(view),
                "List": _list_schema(),
                "ExportLine": _export_line_schema(),
                "Problem": _problem_schema(),
                "Readiness": _readiness_schema(),
            },
            "headers": _headers(),
            "parameters": _demands(),
        },
    }
    for methods in document["paths"].values():
        methods["get"]["responses"]["500"] = _problem("A bug of ours; it was logged.")
    return document


def _version() -> str:
    try:
        return version("kycache")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"


def _list(view: View) -> dict[str, Any]:
    size = {"type": "integer", "minimum": 1, "maximum": SIZE_MAX, "default": SIZE_DEFAULT}
    order = {"enum": list(ORDERS), "default": NEWEST}
    parameters = [
        _query("size", size, "Rows of a page."),
        _query("page", {"type": "integer", "minimum": 1, "default": 1}, "Page number. Not beside `cursor`."),
        _query("cursor", _TEXT, "`page.next` or `page.prev` of an earlier answer."),
        _query("order", order, f"By `{view.list_order}`, ties by `{id_name(view)}`."),
        *(_query(f.name, _filter_schema(view, f), "Only these.") for f in view.filters),
        *_demand_references(),
    ]
    seen = _header_references("Cache-Control", "Vary", "Link", *_TRUTH)
    return {
        "operationId": "listUsers",
        "summary": "List users",
        "parameters": parameters,
        "responses": {
            "200": _json("A page.", _reference("List"), seen),
            "400": _problem("A parameter or header is wrong; `parameter` names it."),
            "503": _unavailable(),
        },
    }


def _export(view: View) -> dict[str, Any]:
    """NDJSON has no schema of its own in OpenAPI 3.1: the schema is that of each line."""
    order = {"enum": list(ORDERS), "default": NEWEST}
    row = ", ".join(f'"{name}": "…"' for name in view.list_fields)
    lines = (
        f"{{{row}}}",
        '{"cursor": "…"}',
        '{"end": true, "rows": 1, "watermark": {"from": "0/3168A10", "to": "0/3168A98"}}',
    )
    body = {"schema": _reference("ExportLine"), "examples": {"small": {"value": "\n".join(lines) + "\n"}}}
    seen = _header_references("Cache-Control", "Vary", "Content-Encoding", *_TRUTH)
    return {
        "operationId": "exportUsers",
        "summary": "All users of a list, as a stream of lines",
        "parameters": [
            _query("cursor", _TEXT, "Go on behind this place: from a line of an earlier export."),
            _query("order", order, f"By `{view.list_order}`, ties by `{id_name(view)}`."),
            *(_query(f.name, _filter_schema(view, f), "Only these.") for f in view.filters),
            {
                "name": "Accept-Encoding",
                "in": "header",
                "schema": _TEXT,
                "description": "`zstd` and `gzip` are known.",
            },
            *_demand_references(),
        ],
        "responses": {
            "200": {
                "description": "A row a line, and behind each chunk of rows a cursor. "
                "Without the line `end` it is not whole.",
                "headers": seen,
                "content": {"application/x-ndjson": body},
            },
            "400": _problem("A parameter or header is wrong; `parameter` names it."),
            "503": _problem(
                "Not ready, not as fresh as was asked, or too many exports run.",
                _header_references("Retry-After", *_TRUTH),
            ),
        },
    }


def _detail(view: View) -> dict[str, Any]:
    name = id_name(view)
    ids = value_schema(key_column(view).type, nullable=False)
    path = {"name": name, "in": "path", "required": True, "schema": ids}
    match = {"name": "If-None-Match", "in": "header", "schema": _TEXT, "description": "Entity tags, or `*`."}
    seen = _header_references("Cache-Control", "Vary", "ETag", *_TRUTH)
    return {
        "operationId": "getUser",
        "summary": "One user's whole profile",
        "parameters": [path, match, *_demand_references()],
        "responses": {
            "200": _json("The profile.", _reference("Profile"), seen),
            "304": {"description": "The tag still holds.", "headers": seen},
            "400": _problem("Not an id, or a header is wrong."),
            "404": _problem("No such user.", _header_references(*_TRUTH)),
            "503": _unavailable(),
        },
    }


def _unavailable() -> dict[str, Any]:
    return _problem("Not ready, or not as fresh as was asked.", _header_references("Retry-After", *_TRUTH))


def _readyz() -> dict[str, Any]:
    readiness = _reference("Readiness")
    return {
        "operationId": "ready",
        "summary": "Should this process get requests?",
        "parameters": [_query("strict", {"enum": ["0", "1"]}, "1: only when every shard is ready.")],
        "responses": {
            "200": _json("Yes.", readiness),
            "400": _problem("Another parameter or value."),
            "503": _json("No.", readiness, _header_references("Retry-After")),
        },
    }


def _plain(operation: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    wrong = {"400": _problem("It takes no parameters.")}
    return {"operationId": operation, "summary": summary, "responses": {**responses, **wrong}}


def _query(name: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _filter_schema(view: View, declared: Filter) -> Schema:
    if declared.labels:
        return {"enum": list(declared.labels)}
    match view.filter_kind(declared):
        case TypeKind.INT:
            return {"type": "string", "pattern": f"^{INTEGER}$"}
        case TypeKind.UUID:
            return {"type": "string", "format": "uuid"}
        case TypeKind.DATE:
            return {"type": "string", "pattern": r"^([0-9]{4,7}-[0-9]{2}-[0-9]{2}( BC)?|-?infinity)$"}
        case _:
            return {"type": "string", "minLength": 1, "maxLength": FILTER_BYTES_MAX}


def _json(description: str, schema: Schema, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    return _media("application/json", description, schema, headers)


def _problem(description: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    return _media(PROBLEM_JSON, description, _reference("Problem"), headers)


def _media(
    kind: str, description: str, schema: Schema | None = None, headers: dict[str, Any] | None = None
) -> dict[str, Any]:
    made: dict[str, Any] = {"description": description, "content": {kind: {"schema": schema or _TEXT}}}
    return {**made, "headers": headers} if headers else made


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_schema() -> Schema:
    page = {
        "size": {"type": "integer"},
        "number": {"type": ["integer", "null"], "description": "null where a cursor was given."},
        "total": {"type": "integer", "description": "Users that match."},
        "next": {"type": ["string", "null"]},
        "prev": {"type": ["string", "null"]},
    }
    return {
        "type": "object",
        "required": ["data", "page", "asOf"],
        "properties": {
            "data": {"type": "array", "items": _reference("ListRow")},
            "page": {"type": "object", "required": list(page), "properties": page},
            "asOf": {"type": ["string", "null"], "format": "date-time"},
        },
    }


def _export_line_schema() -> Schema:
    cursor = {"cursor": {"type": "string", "description": "The place behind the rows so far."}}
    marks = {"from": _TEXT, "to": _TEXT}
    end = {
        "end": {"const": True},
        "rows": {"type": "integer", "description": "Rows of this answer."},
        "watermark": {
            "type": "object",
            "description": "LSNs: of the first chunk read, and of the last.",
            "required": list(marks),
            "properties": marks,
        },
    }
    return {
        "oneOf": [
            _reference("ListRow"),
            {"type": "object", "required": list(cursor), "properties": cursor},
            {"type": "object", "required": list(end), "properties": end},
        ]
    }


def _problem_schema() -> Schema:
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"enum": [kind.type for kind in Kind]},
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "parameter": {"type": "string", "description": "The parameter or header that is wrong."},
            "unmet": {
                "type": "array",
                "items": {"enum": list(DEMANDS)},
                "description": "Of a 503: the demands that are not met.",
            },
        },
    }


def _readiness_schema() -> Schema:
    shard = {
        "shard": {"type": "integer"},
        "state": {"enum": [standing.value for standing in Standing]},
        "stalenessSeconds": {"type": ["number", "null"]},
    }
    return {
        "type": "object",
        "required": ["ready", "shards"],
        "properties": {
            "ready": {"type": "boolean"},
            "shards": {"type": "array", "items": {"type": "object", "required": list(shard), "properties": shard}},
        },
    }


_TRUTH = (AS_OF, WATERMARK, SERVED_BY, SUSPECT, FRESHNESS)

_HEADERS: dict[str, tuple[str, Schema]] = {
    "Cache-Control": ("How long a private cache may keep it.", _TEXT),
    "Vary": ("The request headers the answer depends on.", _TEXT),
    "Content-Encoding": ("`zstd` or `gzip`, where asked for.", _TEXT),
    "ETag": ("A strong tag of the body's bytes.", _TEXT),
    "Link": ("The pages beside this one (RFC 8288).", _TEXT),
    "Retry-After": ("Seconds.", {"type": "integer"}),
    AS_OF: ("The source's clock at the last commit applied.", {"type": "string", "format": "date-time"}),
    WATERMARK: ("Every source transaction at or below this LSN is in the answer.", _TEXT),
    SERVED_BY: ("Who answered.", {"enum": ["view", "source", "standby"]}),
    SUSPECT: ("Present where a change could not be applied.", {"const": "true"}),
    FRESHNESS: ("Present where freshness is known only up to Kafka.", {"const": "kafka"}),
}


def _headers() -> dict[str, Any]:
    return {name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()}


def _header_references(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _demands() -> dict[str, Any]:
    made = {
        MIN_LSN: ("Wait until the view holds this LSN.", {"type": "string", "examples": ["16/B374D848"]}),
        MAX_STALENESS: ("Wait until the view is no older, in seconds.", {"type": "number", "minimum": 0}),
        CONSISTENCY: ("Read what is committed at the source now.", {"enum": ["strong"]}),
    }
    return {
        name: {"name": name, "in": "header", "description": text, "schema": schema}
        for name, (text, schema) in made.items()
    }


def _demand_references() -> list[dict[str, Any]]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in DEMANDS]

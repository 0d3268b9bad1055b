"""`/docs`: the OpenAPI document as one page. Rendered here, so that its policy forbids all scripts."""

import base64
import hashlib
from html import escape
from typing import Any

import msgspec

from kycache.http.exchange.problems import Answer

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1c2430;background:#fff}
h1{margin-bottom:0}h2{margin-top:2.5rem;border-bottom:1px solid #d5dae2}
code,pre{font:14px/1.45 ui-monospace,monospace;background:#f3f5f8;border-radius:4px}
code{padding:.1em .3em}pre{padding:.8rem;overflow:auto}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #e6e9ee}
summary{cursor:pointer}
@media(prefers-color-scheme:dark){body{color:#dde3ec;background:#12161c}code,pre{background:#1d232c}
h2,th,td{border-color:#333b47}a{color:#8ab4ff}}
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def docs_answer(openapi: dict[str, Any]) -> Answer:
    """The page."""
    headers = (
        ("Content-Type", "text/html; charset=utf-8"),
        ("Cache-Control", "no-cache"),
        ("Content-Security-Policy", _POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
    )
    return Answer(200, headers, _page(openapi).encode())


def _page(openapi: dict[str, Any]) -> str:
    info = openapi["info"]
    operations = "".join(
        _operation(openapi, method, path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "".join(
        f"<details><summary><code>{escape(name)}</code></summary>{_pre(schema)}</details>"
        for name, schema in openapi["components"]["schemas"].items()
    )
    title = escape(info["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{escape(info['description'])} Version {escape(info['version'])}; "
        f'<a href="/openapi.json">openapi.json</a>.</p>{operations}<h2>Schemas</h2>{schemas}</body></html>'
    )


def _operation(openapi: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    given = [_resolve(openapi, p) for p in operation.get("parameters", [])]
    parameters = _table(
        ("Parameter", "In", "What", "Values"),
        [(_code(p["name"]), escape(p["in"]), escape(p.get("description", "")), _code(p["schema"])) for p in given],
    )
    answers = _table(
        ("Status", "What", "Body", "Headers"),
        [
            (
                escape(status),
                escape(response["description"]),
                ", ".join(_code(kind) for kind in response.get("content", {})),
                ", ".join(_code(name) for name in response.get("headers", {})),
            )
            for status, response in operation["responses"].items()
        ],
    )
    heading = _code(f"{method.upper()} {path}")
    return f"<h2>{heading}</h2><p>{escape(operation['summary'])}</p>{parameters}{answers}"


def _resolve(openapi: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` within the document stands for."""
    if "$ref" not in item:
        return item
    found = openapi
    for step in item["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{text}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _code(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return f"<code>{escape(text)}</code>"


def _pre(value: object) -> str:
    return f"<pre>{escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())}</pre>"

"""The page of /docs: the OpenAPI document as HTML, in one file, with nothing from elsewhere."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; }
summary { padding: .5rem .75rem; cursor: pointer; }
summary code { font-weight: 600; }
.in { padding: 0 1rem .75rem; }
.verb { display: inline-block; min-width: 3.5rem; font: 600 .8rem ui-monospace, monospace; }
pre { background: var(--soft); padding: .75rem; border-radius: 6px; overflow-x: auto; }
code, pre { font-family: ui-monospace, monospace; font-size: .875rem; }
table { border-collapse: collapse; } td { padding: .15rem 1rem .15rem 0; vertical-align: top; }
"""


def render(document: Mapping[str, Any]) -> str:
    """document: of openapi.document."""
    info = document["info"]
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = operation["tags"][0]
            groups.setdefault(tag, []).append(_operation(document, path, method, operation))
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(rows)}" for tag, rows in groups.items())
    schemas = "".join(
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f'<div class="in">{_code(schema)}</div></details>'
        for name, schema in document["components"]["schemas"].items()
    )
    errors = "".join(
        f"<tr><td><code>{status}</code></td><td>{escape(response['description'])}</td></tr>"
        for status, response in document["components"]["responses"].items()
    )
    title = escape(info["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{title} {escape(info['version'])}</h1>"
        f'<p>{escape(info["description"])}</p><p><a href="openapi.json">openapi.json</a></p>'
        f"{sections}<h2>Errors</h2><table>{errors}</table><h2>Schemas</h2>{schemas}</body></html>"
    )


def _operation(
    document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]
) -> str:
    parts = [f"<pre>{escape(_curl(path, method, operation))}</pre>"]
    body = operation.get("requestBody")
    if body is not None:
        parts.append(f"<p>Body: {_schema_link(body['content'])}</p>")
    success = operation["responses"].get("200")
    if success is not None:
        parts.append(f"<p>Answer: {_schema_link(success['content'])}</p>")
    return (
        f'<details><summary><span class="verb">{method.upper()}</span> <code>{escape(path)}</code> '
        f'{escape(operation["summary"])}</summary><div class="in">{"".join(parts)}</div></details>'
    )


def _curl(path: str, method: str, operation: Mapping[str, Any]) -> str:
    url = f'"http://localhost:8080{path}"'
    if method == "get":
        return f"curl {url}"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if "example" not in body:
        return f"curl -X POST {url}"
    return (
        f"curl {url} -H 'Content-Type: application/json' \\\n  -d '{json.dumps(body['example'])}'"
    )


def _schema_link(content: Mapping[str, Any]) -> str:
    links = []
    for media, entry in content.items():
        name = entry.get("schema", {}).get("$ref", "").rpartition("/")[2]
        link = f' <a href="#{escape(name)}">{escape(name)}</a>' if name else ""
        links.append(f"<code>{escape(media)}</code>{link}")
    return ", ".join(links)


def _code(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=1))}</pre>"

"""Renders the page about the HTTP API and the streams from the service's own descriptions.

Pure functions from a document to the data of the template; everything shown is in the document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from notifier.guides import exists
from notifier.samples import (
    Exchange,
    Sample,
    exchanges,
    request_samples,
    sample_answer,
    stream_samples,
)

JSON = "application/json"


Words = list[tuple[str, bool]]
"""A text in parts, each with a flag for code."""


class FieldRow(NamedTuple):
    """A field, as shown on the page."""

    name: str
    kind: str
    is_required: bool
    about: Words


class ErrorRow(NamedTuple):
    """A possible error, by status."""

    status: str
    reasons: str


GUIDES = {
    "tutorial": "A live page in ten minutes",
    "howto/readme": "How to publish from everywhere",
    "http-api": "The HTTP API with examples",
    "client": "The browser client",
    "protocol": "The wire protocol",
    "event-stream": "Event streams",
    "howto/htmx": "With HTMX",
    "semantics": "What is promised",
}
"""Some guides by their names, and what they are about."""


class GuideRow(NamedTuple):
    """A guide, as shown on the page."""

    title: str
    name: str
    """Empty if the service does not have it."""
    file: str


class MethodEntry(NamedTuple):
    """A method, as shown on the page."""

    name: str
    path: str
    summary: str
    about: Words
    content_type: str
    fields: list[FieldRow]
    example: str
    answer: list[FieldRow]
    errors: list[ErrorRow]
    samples: list[Sample]
    sample_answer: str


class MessageEntry(NamedTuple):
    """A message of a stream, with its schema as text."""

    name: str
    about: str
    schema: str


class StreamEntry(NamedTuple):
    """A stream, as shown on the page."""

    name: str
    address: str
    title: str
    operations: list[tuple[str, list[MessageEntry]]]
    samples: list[Sample]
    exchanges: list[Exchange]


def guides() -> list[GuideRow]:
    """Return the guides that are named here, and whether the service has them."""
    return [
        GuideRow(title, name if exists(name) else "", f"docs/{name.replace('readme', 'README')}.md")
        for name, title in GUIDES.items()
    ]


def methods(document: dict[str, Any], site: str = "") -> dict[str, list[MethodEntry]]:
    """Return the methods of an OpenAPI document by group.

    Args:
        document: The description.
        site: Scheme and host of the service, and the path below which it is, for the samples.
    """
    groups: dict[str, list[MethodEntry]] = {}
    for path, item in document["paths"].items():
        if "post" in item:
            operation = item["post"]
            groups.setdefault(operation["tags"][0], []).append(
                _method(document, path, operation, site)
            )
    return groups


def _method(
    document: dict[str, Any], path: str, operation: dict[str, Any], site: str
) -> MethodEntry:
    content_type, media = next(iter(operation["requestBody"]["content"].items()))
    schema = _resolve(document, media["schema"])
    answer = _resolve(document, operation["responses"]["200"]["content"][JSON]["schema"])
    name, shown = operation["operationId"], example(schema)
    return MethodEntry(
        name=name,
        path=path,
        summary=operation["summary"],
        about=split_code(operation["description"]),
        content_type=content_type,
        fields=list(_rows(document, schema)),
        example=_text(shown),
        answer=list(_answer_rows(document, answer)),
        errors=[
            ErrorRow(status, _resolve(document, response)["description"])
            for status, response in operation["responses"].items()
            if status != "200"
        ],
        samples=request_samples(name, f"{site}{path}", content_type, shown),
        sample_answer=sample_answer(name),
    )


def example(schema: dict[str, Any]) -> Any:
    """Return the smallest instructive example that the schema allows."""
    if "examples" in schema:
        return schema["examples"][0]
    properties = schema.get("properties", {})
    names = schema.get("required") or [n for n, p in properties.items() if "examples" in p]
    return {name: example(properties[name]) for name in names}


def _rows(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[FieldRow]:
    required = schema.get("required", [])
    for name, given in schema.get("properties", {}).items():
        field = _resolve(document, given)
        about = " ".join(filter(None, [field.get("description"), field.get("$comment")]))
        yield FieldRow(name, kind(field), name in required, split_code(about))


def _answer_rows(document: dict[str, Any], answer: dict[str, Any]) -> Iterator[FieldRow]:
    """Yield the fields of a response: those of a publish result, or of its only member."""
    either = answer.get("anyOf")
    inner = _resolve(document, either[0]) if either else answer
    [(name, result)] = inner["properties"].items()
    resolved = _resolve(document, result)
    if "properties" in resolved:
        yield from _rows(document, resolved)
    else:
        yield FieldRow(name, kind(resolved), True, [])


def split_code(text: str) -> Words:
    """Split a text of the description into prose and code, which is between backticks."""
    return [(part, n % 2 == 1) for n, part in enumerate(text.split("`")) if part]


def kind(schema: dict[str, Any]) -> str:
    """Describe in words what a schema allows."""
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " or ".join(str(value) for value in schema["enum"] if value is not None)
    types = schema.get("type", "any JSON")
    name = types if isinstance(types, str) else next(t for t in types if t != "null")
    least, most = _range(schema)
    if most is not None and name in _BOUNDED:
        return _BOUNDED[name].format(least, most)
    return {"array": "list"}.get(name, name)


_BOUNDED = {
    "string": "string, {0}–{1} characters",
    "array": "list, at most {1}",
    "object": "object, at most {1}",
    "integer": "integer, {0}–{1}",
}


def _range(schema: dict[str, Any]) -> tuple[int, int | None]:
    for least, most in (
        ("minLength", "maxLength"),
        ("minItems", "maxItems"),
        ("minProperties", "maxProperties"),
        ("minimum", "maximum"),
    ):
        if most in schema:
            return schema.get(least, 0), schema[most]
    return 0, None


def streams(document: dict[str, Any], site: str = "") -> list[StreamEntry]:
    """Return the streams of an AsyncAPI document, and how HTMX uses one; arguments as above."""
    found = []
    for name, channel in document["channels"].items():
        here = f"#/channels/{name}"
        operations = [
            (operation["summary"], [_message(document, ref) for ref in operation["messages"]])
            for operation in document["operations"].values()
            if operation["channel"]["$ref"] == here
        ]
        found.append(_stream(name, channel["address"], channel["title"], operations, site))
    return [*found, _stream("htmx", "/htmx/", HTMX_TITLE, [], site)]


HTMX_TITLE = "HTMX over an event stream, as this service's own page of orders uses it"


def _stream(
    name: str,
    address: str,
    title: str,
    operations: list[tuple[str, list[MessageEntry]]],
    site: str,
) -> StreamEntry:
    samples = stream_samples(name, site)
    return StreamEntry(name, address, title, operations, samples, exchanges(name))


def _message(document: dict[str, Any], ref: dict[str, str]) -> MessageEntry:
    message = _resolve(document, _resolve(document, ref))
    schema = _text(_resolve_all(document, message["payload"]))
    return MessageEntry(message["name"], message.get("summary", ""), schema)


def _resolve_all(document: dict[str, Any], schema: Any) -> Any:
    """Return a schema with its references replaced by their targets."""
    if isinstance(schema, dict):
        return {n: _resolve_all(document, value) for n, value in _resolve(document, schema).items()}
    return [_resolve_all(document, item) for item in schema] if isinstance(schema, list) else schema


def _resolve(document: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, if it is one."""
    if "$ref" not in given:
        return given
    found: Any = document
    for part in given["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    resolved: dict[str, Any] = found
    return resolved


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)

"""The page that tells the HTTP API and the streams: made of the service's own description.

Pure functions from a document to what the template shows; nothing is said here that is not in the
document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

JSON = "application/json"


Words = list[tuple[str, bool]]
"""A text in parts, each with whether it is code."""


class FieldRow(NamedTuple):
    """A field as the page shows it."""

    name: str
    kind: str
    is_required: bool
    about: Words


class ErrorRow(NamedTuple):
    """What may go wrong, by status."""

    status: str
    reasons: str


class MethodEntry(NamedTuple):
    """A method as the page shows it."""

    name: str
    path: str
    summary: str
    about: Words
    content_type: str
    fields: list[FieldRow]
    example: str
    answer: list[FieldRow]
    errors: list[ErrorRow]


class MessageEntry(NamedTuple):
    """A message of a stream, and its schema as text."""

    name: str
    about: str
    schema: str


class StreamEntry(NamedTuple):
    """A stream as the page shows it."""

    address: str
    title: str
    operations: list[tuple[str, list[MessageEntry]]]


def methods(document: dict[str, Any]) -> dict[str, list[MethodEntry]]:
    """Return the methods of an OpenAPI document by their group."""
    groups: dict[str, list[MethodEntry]] = {}
    for path, item in document["paths"].items():
        if "post" in item:
            operation = item["post"]
            groups.setdefault(operation["tags"][0], []).append(_method(document, path, operation))
    return groups


def _method(document: dict[str, Any], path: str, operation: dict[str, Any]) -> MethodEntry:
    content_type, media = next(iter(operation["requestBody"]["content"].items()))
    schema = _resolved(document, media["schema"])
    answer = _resolved(document, operation["responses"]["200"]["content"][JSON]["schema"])
    return MethodEntry(
        name=operation["operationId"],
        path=path,
        summary=operation["summary"],
        about=words(operation["description"]),
        content_type=content_type,
        fields=list(_rows(document, schema)),
        example=_text(example(schema)),
        answer=list(_answer_rows(document, answer)),
        errors=[
            ErrorRow(status, _resolved(document, response)["description"])
            for status, response in operation["responses"].items()
            if status != "200"
        ],
    )


def example(schema: dict[str, Any]) -> Any:
    """Return a value that the schema allows: the smallest one that shows something."""
    if "examples" in schema:
        return schema["examples"][0]
    properties = schema.get("properties", {})
    names = schema.get("required") or [n for n, p in properties.items() if "examples" in p]
    return {name: example(properties[name]) for name in names}


def _rows(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[FieldRow]:
    required = schema.get("required", [])
    for name, given in schema.get("properties", {}).items():
        field = _resolved(document, given)
        about = " ".join(filter(None, [field.get("description"), field.get("$comment")]))
        yield FieldRow(name, kind(field), name in required, words(about))


def _answer_rows(document: dict[str, Any], answer: dict[str, Any]) -> Iterator[FieldRow]:
    """Yield what is in an answer: the fields of what a publish says, or of its only member."""
    either = answer.get("anyOf")
    inner = _resolved(document, either[0]) if either else answer
    [(name, result)] = inner["properties"].items()
    resolved = _resolved(document, result)
    if "properties" in resolved:
        yield from _rows(document, resolved)
    else:
        yield FieldRow(name, kind(resolved), True, [])


def words(text: str) -> Words:
    """Return a text of the description, where code stands between backticks."""
    return [(part, n % 2 == 1) for n, part in enumerate(text.split("`")) if part]


def kind(schema: dict[str, Any]) -> str:
    """Return in words what a schema allows."""
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


def streams(document: dict[str, Any]) -> list[StreamEntry]:
    """Return the streams of an AsyncAPI document."""
    found = []
    for name, channel in document["channels"].items():
        here = f"#/channels/{name}"
        operations = [
            (operation["summary"], [_message(document, ref) for ref in operation["messages"]])
            for operation in document["operations"].values()
            if operation["channel"]["$ref"] == here
        ]
        found.append(StreamEntry(channel["address"], channel["title"], operations))
    return found


def _message(document: dict[str, Any], ref: dict[str, str]) -> MessageEntry:
    message = _resolved(document, _resolved(document, ref))
    schema = _text(_in_full(document, message["payload"]))
    return MessageEntry(message["name"], message.get("summary", ""), schema)


def _in_full(document: dict[str, Any], schema: Any) -> Any:
    """Return a schema with what it refers to in its place."""
    if isinstance(schema, dict):
        return {n: _in_full(document, value) for n, value in _resolved(document, schema).items()}
    return [_in_full(document, item) for item in schema] if isinstance(schema, list) else schema


def _resolved(document: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
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

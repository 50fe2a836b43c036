"""Builds publications from a request with CloudEvents; an invalid event does not affect others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realtime.api.cloudevents import fields_of_event, read_binary, read_structured
from realtime.api.fields import MANY_ITEMS
from realtime.api.items import Item, Rules, publication
from realtime.api.request import (
    InvalidJson,
    Mode,
    Request,
    mode_of,
)
from realtime.core.json_text import TooDeep, decode_json
from realtime.errors import InvalidData, InvalidName, RequestError, TooLarge

if TYPE_CHECKING:
    from realtime.core.publication import Publication


def events_of(request: Request, body: bytes) -> Any:
    """Return the event of a request; for a batch, a list of values to read as events.

    Raises:
        InvalidJson: The body should be JSON, and is not.
        InvalidName: The request has an idempotency key, in addition to the ids of its events.
        InvalidAttribute: A header is not UTF-8, or names something that is not an attribute.
        TooLarge: The batch has too many events.
    """
    if request.idempotency_key is not None:
        problem = "events are identified by their source and id instead"
        raise InvalidName("idempotency_key", request.idempotency_key, problem)
    mode = mode_of(request)
    if mode is Mode.BINARY:
        return read_binary(request.attributes or {}, request.content_type, body)
    try:
        found = decode_json(body)
    except TooDeep:
        raise
    except InvalidData as error:
        raise InvalidJson(error.reason) from None
    if mode is Mode.STRUCTURED:
        return read_structured(found)
    if not isinstance(found, list):
        raise InvalidJson("the body must be an array of events")
    if len(found) > MANY_ITEMS:
        raise TooLarge("the batch", len(found), MANY_ITEMS, unit="events")
    return found


def event_item(event: Any, rules: Rules) -> Item:
    """Return the publication for an event of a batch, or the event's error."""
    try:
        return event_publication(read_structured(event), rules)
    except RequestError as error:
        return error


def event_publication(event: dict[str, Any], rules: Rules) -> Publication:
    """Return the publication for an event.

    Raises:
        RequestError: The event is invalid, or this publisher may not publish it.
    """
    return publication(fields_of_event(event, rules.routes), rules)

"""From a request with CloudEvents to publications; what is wrong with one does not touch others."""

from __future__ import annotations

from typing import Any

from realtime.api.fields import MANY_ITEMS
from realtime.api.head import InvalidJson, Mode, Request, mode_of
from realtime.api.items import Item, Rules, publication
from realtime.cloudevents import binary, fields_of, structured
from realtime.errors import InvalidData, InvalidName, RequestError, TooLarge
from realtime.publication import Publication, decoded


def events_of(request: Request, body: bytes) -> Any:
    """Return the event of a request, or of a batch a list of values that may be some.

    Raises:
        InvalidJson: The body should be JSON, and is not.
        InvalidName: It has an idempotency key beside the ids of its events.
        InvalidAttribute: A header that should be an attribute has no text in it.
        TooLarge: They are too many.
    """
    if request.idempotency_key is not None:
        problem = "an event is known by its source and id"
        raise InvalidName("idempotency_key", request.idempotency_key, problem)
    mode = mode_of(request)
    if mode is Mode.BINARY:
        return binary(request.attributes or {}, request.content_type, body)
    try:
        found = decoded(body)
    except InvalidData as error:
        raise InvalidJson(error.reason) from None
    if mode is Mode.STRUCTURED:
        return structured(found)
    if not isinstance(found, list):
        raise InvalidJson("the body must be an array of events")
    if len(found) > MANY_ITEMS:
        raise TooLarge("the batch", len(found), MANY_ITEMS, unit="events")
    return found


def event_item(event: Any, rules: Rules) -> Item:
    """Return what is published of an event of a batch, or its error."""
    try:
        return event_publication(structured(event), rules)
    except RequestError as error:
        return error


def event_publication(event: dict[str, Any], rules: Rules) -> Publication:
    """Return what is published of an event.

    Raises:
        RequestError: It cannot be, or not by this publisher.
    """
    return publication(fields_of(event, rules.routes), rules)

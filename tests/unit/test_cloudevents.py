"""The requirements for a CloudEvent (spec 1.0.2), and what is published of it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.api.cloudevent_attributes import InvalidAttribute
from realtime.api.cloudevent_routes import Routes, routes_of
from realtime.api.cloudevents import fields_of_event, read_binary, read_structured
from realtime.core.publication import Publication
from realtime.errors import ConfigurationError, RequestError
from tests.unit.strategies import json_values

NOWHERE = Routes()
EVENT = {
    "specversion": "1.0",
    "id": "A234-1234-1234",
    "source": "https://github.com/cloudevents/spec/pull",
    "type": "com.github.pull_request.opened",
    "channel": "public:pulls",
}


def fields(routes: Routes = NOWHERE, **changed: Any) -> dict[str, Any]:
    return fields_of_event(read_structured({**EVENT, **changed}), routes)


def problem(routes: Routes = NOWHERE, **changed: Any) -> tuple[str, str]:
    with pytest.raises(InvalidAttribute) as caught:
        fields(routes, **changed)
    name, _, text = str(caught.value).partition(": ")
    assert name == caught.value.attribute
    return name, text


def test_an_event_becomes_a_publication():
    made = fields(data={"number": 123}, subject="123", time="2018-04-05T17:31:00Z", tenant=7)
    assert len(made.pop("idempotency_key")) == 64
    assert made == {
        "channel": "public:pulls",
        "data": {"number": 123},
        "event": "com.github.pull_request.opened",
        "tags": {
            "ce-id": EVENT["id"],
            "ce-source": EVENT["source"],
            "ce-subject": "123",
            "ce-time": "2018-04-05T17:31:00Z",
            "ce-tenant": "7",
        },
    }


def test_the_same_source_and_id_are_the_same_event():
    key = fields()["idempotency_key"]
    assert fields(data=1)["idempotency_key"] == key
    assert fields(id="B")["idempotency_key"] != key
    assert fields(source="/other")["idempotency_key"] != key


def test_a_fallback_may_be_named():
    made = fields(fallback="email", fallbackwhen="always")
    assert (made["fallback"], made["fallback_when"]) == ("email", "always")
    assert not [tag for tag in made["tags"] if "fallback" in tag]


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
@pytest.mark.parametrize("value", [None, "", 1, True, [], {}, "a\nb", "\ud800"])
def test_required_attributes_must_be_present_and_text(name, value):
    assert problem(**{name: value})[0] == name


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("specversion", "0.3", "must be 1.0"),
        ("source", "a b", "URI-reference"),
        ("source", "/%zz", "URI-reference"),
        ("source", "ü", "URI-reference"),
        ("source", "/" + "a" * 300, "more than 256"),
        ("type", "has a space", "A-Z"),
        ("type", "x" * 65, "1 to 64"),
        ("subject", "", "empty"),
        ("subject", 7, "a string"),
        ("subject", "x" * 257, "more than 256"),
        ("time", "yesterday", "RFC 3339"),
        ("time", "2026-02-30T12:00:00Z", "RFC 3339"),
        ("time", "2026-02-28 12:00:00Z", "RFC 3339"),
        ("time", "2026-02-28T12:00:00", "RFC 3339"),
        ("time", "2026-02-28T24:00:00Z", "RFC 3339"),
        ("dataschema", "no/scheme", "URI with a scheme"),
        ("datacontenttype", "json", "media type"),
        ("datacontenttype", "text/plain; charset=latin-1", "UTF-8"),
        ("channel", "not a channel", "A-Z"),
        ("channel", 7, "a string"),
        ("fallback", "not good", "A-Z"),
        ("tenant", 1.5, "an integer"),
        ("tenant", [1], "an integer"),
        ("tenant", 2**31, "32-bit"),
        ("Tenant", "x", "lowercase"),
        ("ten_ant", "x", "lowercase"),
        ("", "x", "lowercase"),
        ("a" * 61, "x", "lowercase"),
        ("data_base64", "!", "Base64"),
        ("data_base64", 7, "Base64"),
    ],
)
def test_an_error_names_its_attribute(name, value, says):
    said, text = problem(**{name: value})
    assert said == name[:40]
    assert says in text


@pytest.mark.parametrize(
    "time",
    ["2026-11-27T12:00:00Z", "2026-11-27t12:00:00.123456789+01:00", "2016-12-31T23:59:60Z"],
)
def test_times_must_follow_rfc_3339(time):
    assert fields(time=time)["tags"]["ce-time"] == time


@pytest.mark.parametrize(
    "source", ["/a", "a", "urn:uuid:6e8bc430", "mailto:a@b.c", "//h/%C3%BC?q#f"]
)
def test_a_source_may_be_any_uri_reference(source):
    assert fields(source=source)["tags"]["ce-source"] == source


def test_the_number_of_attributes_is_limited():
    """The id and the source count as two of the sixteen."""
    assert len(fields(**{f"x{n:02}": n for n in range(14)})["tags"]) == 16
    name, says = problem(**{f"x{n:02}": n for n in range(15)})
    assert (name, "at most 16" in says) == ("x14", True)


def test_a_null_attribute_counts_as_absent():
    assert "ce-subject" not in fields(subject=None)["tags"]
    assert fields(data=None)["data"] is None


# --- data ---


@pytest.mark.parametrize(
    ("media", "given", "data", "tags"),
    [
        ("", {"data": {"a": 1}}, {"a": 1}, {}),
        ("application/json", {"data": "text"}, "text", {}),
        ("application/vnd.x+json; charset=utf-8", {"data": [1]}, [1], {}),
        ("text/html", {"data": "<b>"}, "<b>", {"ce-datacontenttype": "text/html"}),
        ("application/xml", {"data": "<b/>"}, "<b/>", {"ce-datacontenttype": "application/xml"}),
        ("image/png", {"data": "text of one"}, "text of one", {"ce-datacontenttype": "image/png"}),
        ("text/html", {"data": {"a": 1}}, {"a": 1}, {}),
        ("application/json", {"data_base64": "eyJhIjoxfQ=="}, {"a": 1}, {}),
        ("", {"data_base64": "MQ=="}, 1, {}),
        ("text/plain", {"data_base64": "w7w="}, "ü", {"ce-datacontenttype": "text/plain"}),
        (
            "image/png",
            {"data_base64": "AP8="},
            "AP8=",
            {"ce-datacontenttype": "image/png", "ce-data": "base64"},
        ),
    ],
)
def test_data_is_delivered_in_a_form_that_browsers_can_use(media, given, data, tags):
    made = fields(**given, **({"datacontenttype": media} if media else {}))
    assert made["data"] == data
    assert {n: t for n, t in made["tags"].items() if n in ("ce-datacontenttype", "ce-data")} == tags


@pytest.mark.parametrize(
    ("media", "raw", "name"),
    [
        ("application/json", b"{", "data"),
        ("", b"\xff", "data"),
        ("text/plain", b"\xff", "data"),
    ],
)
def test_data_that_contradicts_its_content_type_is_refused(media, raw, name):
    text = base64.b64encode(raw).decode()
    given = {"data_base64": text} | ({"datacontenttype": media} if media else {})
    assert problem(**given)[0] == name


def test_data_and_data_base64_exclude_each_other():
    assert problem(data=1, data_base64="MQ==")[0] == "data_base64"


# --- binary mode ---


def headers(**changed: str) -> dict[str, str]:
    return {**EVENT, **changed}


def test_headers_become_attributes_and_the_body_becomes_data():
    made = fields_of_event(
        read_binary(headers(subject="7"), "application/json", b'{"a":1}'), NOWHERE
    )
    assert made["data"] == {"a": 1}
    assert made["tags"]["ce-subject"] == "7"
    assert fields_of_event(read_binary(headers(), "", b""), NOWHERE)["data"] is None
    picture = fields_of_event(read_binary(headers(), "image/png", b"\0\xff"), NOWHERE)
    assert (picture["data"], picture["tags"]["ce-data"]) == ("AP8=", "base64")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ('"quoted \\"text\\" %25"', 'quoted "text" %'),
        ("100%", "100%"),
        ("%zz", "%zz"),
    ],
)
def test_percent_encoded_headers_are_decoded(header, text):
    made = fields_of_event(read_binary(headers(subject=header), "", b""), NOWHERE)
    assert made["tags"]["ce-subject"] == text


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("subject", "%ff"),
        ("data", "1"),
        ("data_base64", "MQ=="),
        ("subject", "ü"),
        ("datacontenttype", "text/plain"),
        ("specversion", "1.0,1.0"),
    ],
)
def test_invalid_headers_are_named(name, header):
    with pytest.raises(InvalidAttribute) as caught:
        fields_of_event(read_binary(headers(**{name: header}), "", b""), NOWHERE)
    assert caught.value.attribute == name


# --- channels by rule ---


RULES = [
    {"type": "com.shop.order.*", "source": "https://shop.example/*", "channel": "orders:{subject}"},
    {"tenant": "7", "channel": "tenant:{tenant}:{type}"},
    {"type": "com.github.*", "channel": "public:github"},
]


@pytest.mark.parametrize(
    ("changed", "channel"),
    [
        (
            {"type": "com.shop.order.paid", "source": "https://shop.example/eu", "subject": "42"},
            "orders:42",
        ),
        ({"type": "a", "tenant": 7}, "tenant:7:a"),
        ({"type": "com.github.star", "tenant": "8"}, "public:github"),
    ],
)
def test_the_first_matching_rule_names_the_channel(changed, channel):
    assert fields(routes_of(RULES), channel=None, **changed)["channel"] == channel
    assert fields(routes_of(RULES), **changed)["channel"] == EVENT["channel"], "its own comes first"


def test_the_attributes_of_a_rule_must_be_present_and_valid():
    routes = routes_of(RULES)
    order = {"channel": None, "type": "com.shop.order.paid", "source": "https://shop.example/"}
    assert problem(routes, **order)[0] == "subject"
    assert problem(routes, **order, subject="a b")[0] == "subject"
    assert problem(routes, **order, subject="x" * 250) == (
        "subject",
        "results in a channel name of more than 255 characters",
    )
    assert problem(routes, channel=None, type="other") == (
        "channel",
        "is missing, and no rule of the service matches the event",
    )
    assert problem(channel=None)[0] == "channel"


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({}, "a list of rules"),
        ("x", "a list of rules"),
        (7, "a list of rules"),
        ([7], "rule 1 must be a mapping"),
        ([{"channel": "a"}, {"type": "x"}], "rule 2 has no channel"),
        ([{"channel": 7}], "rule 1: channel must be a non-empty string"),
        ([{"channel": "a", "type": "*a" * 129}], "rule 1: type has more than 256 characters"),
        (
            [{"channel": "a", **{f"a{n}": "*" for n in range(16)}}],
            "rule 1 has more than 16 attributes",
        ),
        ([{"channel": ""}], "rule 1: channel must be a non-empty string"),
        ([{"channel": "a b"}], "'a b' is not valid"),
        ([{"channel": "a:{Subject}"}], "is not valid"),
        ([{"channel": "a:{subject"}], "is not valid"),
        ([{"channel": "a", "data_base64": "x"}], "is not an attribute name"),
        ([{"channel": "a"}] * 101, "has 101 rules"),
    ],
)
def test_invalid_rules_are_refused_at_startup(rules, says):
    with pytest.raises(ConfigurationError, match="REALTIME_CLOUDEVENTS") as caught:
        routes_of(rules)
    assert says in str(caught.value)


@given(st.text(max_size=30), st.text(max_size=30))
def test_only_the_star_is_a_wildcard(before, after):
    rules = [{"subject": f"{before.replace('*', '')}*", "channel": "public:hit"}]
    routes = routes_of(rules)
    assert (
        routes.channel({"subject": before.replace("*", "") + after.replace("\n", "")})
        == "public:hit"
    )


# --- garbage ---


names = st.sampled_from([*EVENT, "subject", "time", "datacontenttype", "data", "data_base64"])
events = st.dictionaries(names | st.text(max_size=8), json_values() | st.text(max_size=20))


def published(event: dict[str, Any]) -> None:
    """Publish it, or check that the refusal names an attribute and contains no traceback."""
    try:
        Publication.of(**fields_of_event(read_structured(event), routes_of(RULES)))
    except InvalidAttribute as error:
        name, _, text = str(error).partition(": ")
        if not (name.isascii() and text):
            raise AssertionError(event) from error
    except RequestError:
        return  # data that is too deep, say


@given(events, st.booleans())
def test_any_event_is_published_or_refused_by_attribute(event, complete):
    published({**EVENT, **event} if complete else event)


attributes = st.dictionaries(names | st.text("abc-", max_size=5), st.text(max_size=20))


@given(attributes, st.text(), st.binary())
def test_any_headers_are_published_or_refused(given_headers, media, body):
    try:
        event = read_binary({**EVENT, **given_headers}, media, body)
    except InvalidAttribute:
        return
    published(event)

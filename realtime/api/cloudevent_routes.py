"""Chooses the channel of a CloudEvent that does not name one, by rules of the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from realtime.api.cloudevent_attributes import InvalidAttribute, is_attribute_name
from realtime.core.globs import Glob
from realtime.core.names import CHANNEL_LIMIT, checked_channel
from realtime.core.publication import TAG_VALUE_LIMIT
from realtime.errors import ConfigurationError, InvalidName

SETTING = "REALTIME_CLOUDEVENTS"
RULES_LIMIT = 100  # each event is compared with all of them
ATTRIBUTES_LIMIT = 16  # of a rule


@dataclass(frozen=True, slots=True)
class _Rule:
    wanted: tuple[tuple[str, Glob], ...]
    """Attributes, and the pattern that the value of each must match."""
    parts: tuple[str, ...]
    """Parts of the channel, alternating: literal text, then the name of an attribute."""

    def matches(self, attributes: Mapping[str, str]) -> bool:
        return all(pattern.fits(attributes.get(name, "")) for name, pattern in self.wanted)

    def channel(self, attributes: Mapping[str, str]) -> str:
        for name in self.parts[1::2]:
            if not attributes.get(name):
                raise InvalidAttribute(name, "is missing, but the rule for the channel requires it")
            try:
                checked_channel(attributes[name])
            except InvalidName as error:
                problem = f"{error.value} is not allowed in a channel name: {error.rule}"
                raise InvalidAttribute(name, problem) from None
        turns = enumerate(self.parts)
        channel = "".join([attributes[part] if n % 2 else part for n, part in turns])
        if len(channel) > CHANNEL_LIMIT:
            names = " and ".join(dict.fromkeys(self.parts[1::2]))
            problem = f"results in a channel name of more than {CHANNEL_LIMIT} characters"
            raise InvalidAttribute(names, problem)
        return channel


class Routes:
    """The rules, in order; the first one that matches an event names its channel."""

    def __init__(self, rules: Iterable[_Rule] = ()) -> None:
        self._rules = tuple(rules)

    def channel(self, attributes: Mapping[str, str]) -> str:
        """Return the channel for an event with these attributes.

        Raises:
            InvalidAttribute: No rule matches, or the rule needs an attribute that is missing or
                cannot be part of a channel's name.
        """
        for rule in self._rules:
            if rule.matches(attributes):
                return rule.channel(attributes)
        raise InvalidAttribute(
            "channel", "is missing, and no rule of the service matches the event"
        )


NO_ROUTES = Routes()


def routes_of(given: object) -> Routes:
    """Read the configuration: a list of rules, in order of precedence.

    ``{"type": "com.example.order.*", "source": "https://shop.example/*", "channel":
    "orders:{subject}"}``. Each member except ``channel`` is an attribute that the event must have;
    ``*`` in its value matches any text. The channel may contain attributes of the event in braces.

    Raises:
        ConfigurationError: A rule is invalid; the message names the rule and the problem.
    """
    if not isinstance(given, list | tuple):
        raise ConfigurationError(SETTING, "must be a list of rules")
    if len(given) > RULES_LIMIT:
        raise ConfigurationError(SETTING, f"has {len(given)} rules; the limit is {RULES_LIMIT}")
    return Routes(_rule(number, rule) for number, rule in enumerate(given, 1))


def _rule(number: int, rule: object) -> _Rule:
    where = f"rule {number}"
    if not isinstance(rule, Mapping):
        raise ConfigurationError(SETTING, f"{where} must be a mapping with a channel")
    for name, value in rule.items():
        if not isinstance(name, str) or not is_attribute_name(name):
            shown = ascii(name)[:40]
            problem = f"{where}: {shown} is not an attribute name: use lowercase letters and digits"
            raise ConfigurationError(SETTING, problem)
        if not isinstance(value, str) or not value:
            raise ConfigurationError(SETTING, f"{where}: {name} must be a non-empty string")
        if len(value) > TAG_VALUE_LIMIT:  # no attribute is longer
            problem = f"{where}: {name} has more than {TAG_VALUE_LIMIT} characters"
            raise ConfigurationError(SETTING, problem)
    if len(rule) > ATTRIBUTES_LIMIT:
        raise ConfigurationError(SETTING, f"{where} has more than {ATTRIBUTES_LIMIT} attributes")
    if "channel" not in rule:
        raise ConfigurationError(SETTING, f"{where} has no channel")
    parts = tuple(re.split(r"\{([a-z0-9]+)\}", rule["channel"]))
    # With a letter in place of each attribute, it must be a valid name of a channel.
    try:
        checked_channel("".join("x" if n % 2 else part for n, part in enumerate(parts)))
    except InvalidName as error:
        problem = f"{where}: the channel {ascii(rule['channel'])[:80]} is not valid: {error.rule}"
        raise ConfigurationError(SETTING, f"{problem}, and attributes in braces") from None
    wanted = [(name, Glob(value)) for name, value in rule.items() if name != "channel"]
    return _Rule(tuple(wanted), parts)

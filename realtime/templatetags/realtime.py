"""``{% load realtime %}``: the one line that a template needs to be live.

What they write is data and the addresses of files, no script: a Content-Security-Policy without
`unsafe-inline` lets it pass.
"""

from __future__ import annotations

from typing import Any

from django import template
from django.templatetags.static import static
from django.utils.html import format_html, json_script
from django.utils.safestring import SafeString

from realtime.names import checked_channel
from realtime.pages import configuration, stream_url

ELEMENT_ID = "realtime-config"  # where client.js and page.js look
register = template.Library()


@register.simple_tag(takes_context=True)
def realtime(context: template.Context) -> SafeString:
    """Tell `connect()` of `client.js` where the service is, and have the browser load the file."""
    return format_html(
        '{}<link rel="modulepreload" href="{}">',
        json_script(configuration(_request(context)), ELEMENT_ID),
        static("realtime/client.js"),
    )


@register.simple_tag(takes_context=True)
def realtime_client(context: template.Context, *channels: str) -> SafeString:
    """Make the page live without a line of JavaScript: it listens, and tells the document.

    What is published on the channels, and for the user of the page alone, is the DOM event
    ``realtime:publication``; the others are ``realtime:gap``, ``realtime:subscribed`` and
    ``realtime:state`` (docs/howto/template-tag.md).

    Args:
        context: Of the template.
        channels: Names; none: only what is for the user.

    Raises:
        InvalidName: One cannot be a channel.
    """
    names = [checked_channel(channel) for channel in channels]
    data = {**configuration(_request(context)), "channels": names}
    return format_html(
        '{}<script type="module" src="{}"{}></script>',
        json_script(data, ELEMENT_ID),
        static("realtime/page.js"),
        _nonce(context),
    )


@register.simple_tag
def realtime_stream(*channels: str) -> str:
    """Return the address of the event stream of some channels, for `EventSource` and HTMX.

    Raises:
        InvalidName: One cannot be a channel.
    """
    return stream_url([checked_channel(channel) for channel in channels])


def _request(context: template.Context) -> Any:
    # RequestContext knows the request, whatever context processors there are.
    return getattr(context, "request", None) or context.get("request")


def _nonce(context: template.Context) -> SafeString:
    """Return the attribute for policies with 'strict-dynamic': Django 6.0's, or django-csp's."""
    nonce = context.get("csp_nonce") or getattr(_request(context), "csp_nonce", None)
    return format_html(' nonce="{}"', nonce) if nonce else SafeString()

"""``{% load realtime %}{% realtime %}``: the one line that a template needs.

It writes what `client.js` has to know as data, not as a script: a Content-Security-Policy without
`unsafe-inline` lets it pass.
"""

from __future__ import annotations

from typing import Any

from django import template
from django.templatetags.static import static
from django.utils.html import format_html, json_script
from django.utils.safestring import SafeString

from realtime.pages import configuration

ELEMENT_ID = "realtime-config"  # where client.js looks
register = template.Library()


@register.simple_tag(takes_context=True)
def realtime(context: template.Context) -> SafeString:
    """Tell `connect()` of `client.js` where the service is, and have the browser load the file."""
    # RequestContext knows the request, whatever context processors there are.
    request: Any = getattr(context, "request", None) or context.get("request")
    return format_html(
        '{}<link rel="modulepreload" href="{}">',
        json_script(configuration(request), ELEMENT_ID),
        static("realtime/client.js"),
    )

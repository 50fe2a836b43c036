"""``{% load realtime %}``: template tags that connect a page.

They write data and URLs of files, but no script, so a Content-Security-Policy without
`unsafe-inline` allows them. `realtime.host.page_tags` renders them.
"""

from __future__ import annotations

from django import template
from django.utils.safestring import SafeString

from realtime.host import page_tags

register = template.Library()


@register.simple_tag(takes_context=True)
def realtime(
    context: template.Context, *, importmap: bool = False, shared: bool = False
) -> SafeString:
    """Render the configuration for `connect()` of `client.js`, and preload that file.

    Args:
        context: The template's context.
        importmap: Whether to write an import map first, for modules of the page that import
            `client.js` by its plain name although static files have hashes in their names.
        shared: Whether all tabs of a session share one connection (docs/client.md).
    """
    return page_tags.configuration_tag(context, importmap=importmap, shared=shared)


@register.simple_tag(takes_context=True)
def realtime_client(context: template.Context, *channels: str, shared: bool = False) -> SafeString:
    """Connect the page without a line of JavaScript: publications become DOM events.

    Publications on the channels, and on the user's personal channel, are dispatched as
    ``realtime:publication``; docs/howto/template-tag.md lists the other events.

    Args:
        context: The template's context.
        channels: Names; without any, only the user's personal channel.
        shared: Whether all tabs of a session share one connection (docs/client.md).

    Raises:
        InvalidName: A channel name is invalid.
    """
    return page_tags.client_tag(context, channels, shared=shared)


@register.simple_tag(takes_context=True)
def realtime_stream(context: template.Context, *channels: str) -> str:
    """Return the URL of the event stream for some channels, for `EventSource` and HTMX.

    Raises:
        InvalidName: A channel name is invalid.
    """
    return page_tags.stream(context, channels)


@register.simple_tag(takes_context=True)
def realtime_bell(
    context: template.Context, *channels: str, shared: bool = False, **options: object
) -> SafeString:
    """Render a bell: the number of unread notifications, their list, toasts, and what was missed.

    Args:
        context: The template's context.
        channels: Names; without any, only what the server subscribes the user to.
        shared: Whether all tabs of a session share one connection (docs/client.md).
        options: The attributes of the element ``<realtime-bell>`` (docs/bell.md), with ``_`` for
            ``-``: ``rows="/notifications/"``, ``text_label=_("Notifications")``.

    Raises:
        InvalidName: A channel name is invalid.
        TypeError: An option is unknown.
    """
    return page_tags.bell_tag(context, channels, options, shared=shared)

"""What the template tags write into a page, for Django's templates and for Jinja2.

Data and URLs of files, but no script, so a Content-Security-Policy without `unsafe-inline` allows
them. If the project has a nonce for its policy, each element that loads code carries it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urljoin

from django.apps import apps
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join, json_script
from django.utils.safestring import SafeString, mark_safe

from realtime.core.names import checked_channel
from realtime.host.page_config import configuration, stream_url
from realtime.host.page_positions import positions_of

ELEMENT_ID = "realtime-config"  # where client.js and page.js look
_CLIENT, _PAGE, _BELL = "realtime/client.js", "realtime/page.js", "realtime/bell.js"
_SHARED = "realtime/shared.js"
_FILL = "realtime/fill.js"
_SWITCHES = ("only_channels", "quiet", "waits")
_VALUES = ("id", "rows", "spread")
BELL_WORDS = frozenset(
    {
        *("label", "unread", "empty", "new", "gap", "gap_some", "gap_help", "gap_rows"),
        *("broker", "slow", "reconnect", "unknown"),
        *("live", "connecting", "reconnecting", "not_live", "closed", "refused", "stale"),
        *("desktop", "blocked", "dismiss", "info", "success", "warning", "error"),
    }
)
"""The words of `bell.js`; an argument ``text_gap_some`` is its attribute ``text-gap-some``."""
_NO_MARKUP = {ord(each): f"\\u{ord(each):04X}" for each in "<>&"}  # as in Django's `json_script`


def configuration_tag(context: Any, *, importmap: bool = False, shared: bool = False) -> SafeString:
    """Return what `connect()` needs, and an element that preloads `client.js`.

    Args:
        context: A context of Django's templates, or a mapping that has the ``request``.
        importmap: Whether to write an import map first.
        shared: Whether the tabs of a session share one connection.
    """
    nonce = _nonce(context)
    mapped = _import_map(nonce, shared=shared) if importmap else SafeString()
    url = static(_CLIENT) if importmap or _imports_are_rewritten() else _plain_client()
    return format_html(
        "{}{}{}",
        mapped,
        json_script(configuration(_request(context), shared=shared), ELEMENT_ID),
        _preload(url, nonce),
    )


def client_tag(context: Any, channels: Sequence[str], *, shared: bool = False) -> SafeString:
    """Return the configuration for `page.js`, and the element that loads it.

    Args:
        context: A context of Django's templates, or a mapping that has the ``request``.
        channels: Names.
        shared: Whether the tabs of a session share one connection.

    Raises:
        InvalidName: A channel name is invalid.
    """
    names = [checked_channel(channel) for channel in channels]
    data = {**configuration(_request(context), shared=shared), "channels": names}
    nonce = _nonce(context)
    return format_html(
        '{}{}<script type="module" src="{}"{}></script>',
        json_script(data, ELEMENT_ID),
        _preload(static(_CLIENT), nonce),
        _module(_PAGE, static(_CLIENT)),
        nonce,
    )


def bell_tag(
    context: Any, channels: Sequence[str], options: Mapping[str, Any], *, shared: bool = False
) -> SafeString:
    """Return a ``<realtime-bell>``, the configuration of the page, and what loads `bell.js`.

    Args:
        context: A context of Django's templates, or a mapping that has the ``request``.
        channels: Names; besides them, the bell has what the server subscribes the user to.
        options: The attributes of docs/bell.md, with ``_`` for ``-``. An attribute without a value
            is there if its option is true.
        shared: Whether the tabs of a session share one connection.

    Raises:
        InvalidName: A channel name is invalid.
        TypeError: An option is unknown.
    """
    names = [checked_channel(channel) for channel in channels]
    given = {"channels": " ".join(names)} if names else {}
    for name, value in options.items():
        if name in _SWITCHES:
            given |= {name: ""} if value else {}
        elif name in _VALUES or name.removeprefix("text_") in BELL_WORDS:
            given[name] = value
        else:
            raise TypeError(f"realtime_bell has no option {name!r}; docs/bell.md lists them")
    nonce = _nonce(context)
    client = static(_CLIENT)
    page = _module(_PAGE, client)
    attributes = ((name.replace("_", "-"), value) for name, value in given.items())
    return format_html(
        '{}{}<script type="module" src="{}"{}></script><realtime-bell{}></realtime-bell>',
        json_script(configuration(_request(context), shared=shared), ELEMENT_ID),
        _preload(client, nonce),
        _module(_BELL, page),
        nonce,
        format_html_join("", ' {}="{}"', attributes),
    )


def stream(context: Any, channels: Sequence[str]) -> str:
    """Return the URL of the event stream for some channels, from the positions of the page.

    Raises:
        InvalidName: A channel name is invalid.
    """
    names = [checked_channel(channel) for channel in channels]
    return stream_url(names, positions_of(_request(context)))


def _module(path: str, imported: str) -> str:
    """Return the URL of a module that finds the one that it imports under another name."""
    # In the fragment, because the server of the files does not see it.
    named = "" if _imports_are_rewritten() else f"#{quote(imported, safe='')}"
    return f"{static(path)}{named}"


def _preload(url: str, nonce: SafeString) -> SafeString:
    return format_html('<link rel="modulepreload" href="{}"{}>', url, nonce)


def _import_map(nonce: SafeString, *, shared: bool) -> SafeString:
    """Return an import map from the plain URL of `client.js` to the real one, if they differ.

    It has `fill.js` and, if the page needs it, `shared.js` as well: `client.js` loads them.
    """
    plain, real = _plain_client(), static(_CLIENT)
    if plain == real:
        return SafeString()
    imports = {plain: real, urljoin(real, "fill.js"): static(_FILL)}
    if shared:
        imports[urljoin(static(_CLIENT), "shared.js")] = static(_SHARED)
    text = json.dumps({"imports": imports}).translate(_NO_MARKUP)
    return format_html(
        '<script type="importmap"{}>{}</script>',
        nonce,
        mark_safe(text),  # noqa: S308 - JSON without < > &
    )


def _plain_client() -> str:
    """Return the URL that `./client.js` has in `page.js` as it is written."""
    return urljoin(static(_PAGE), "client.js")


def _imports_are_rewritten() -> bool:
    """Tell whether modules find `client.js` by the URL that `static` returns.

    They do if names have no hashes, or if the storage writes the hashes into the modules, too.
    """
    if _plain_client() == static(_CLIENT):
        return True
    if not apps.is_installed("django.contrib.staticfiles"):
        return False
    from django.contrib.staticfiles.storage import staticfiles_storage

    return bool(getattr(staticfiles_storage, "support_js_module_import_aggregation", False))


def _request(context: Any) -> Any:
    # A RequestContext has the request, whichever context processors are configured.
    return getattr(context, "request", None) or context.get("request")


def _nonce(context: Mapping[str, Any] | Any) -> SafeString:
    """Return the nonce attribute for the page's policy: Django 6's, or django-csp's.

    A nonce is made when it is first written, and is false until then. So it is never tested for
    truth before it is a string.
    """
    nonce = context.get("csp_nonce")
    if nonce is None:
        request = _request(context)
        # Django 6 keeps it there for its context processor, which the project may have left out.
        nonce = getattr(request, "csp_nonce", getattr(request, "_csp_nonce", None))
    text = "" if nonce is None else str(nonce)
    return format_html(' nonce="{}"', text) if text else SafeString()

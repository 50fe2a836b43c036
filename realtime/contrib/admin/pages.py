"""What the pages have in common: addresses, permissions, and answers to errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext as _

from realtime.contrib.admin.dead_letters import PAGE_ROWS
from realtime.contrib.admin.models import LABEL
from realtime.errors import BrokerError, OutcomeUnknown, RealtimeError

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

logger = logging.getLogger(__name__)

PAGE_PARAMETER = "p"
"""The parameter with the number of a page, as in Django's admin."""


class PagesWithoutTable(ModelAdmin):
    """Pages about what the broker has, in the place of those about rows of a table."""

    detail_address = ""
    """The address of a second page, which `detail_view` serves."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Return False: nothing is added here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: actions have permissions of their own."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: actions have permissions of their own."""
        return False

    def may(self, request: HttpRequest, action: str) -> bool:
        """Return whether the user has the permission for an action."""
        return has_permission(request, f"{action}_{self.opts.model_name}")

    def require(self, request: HttpRequest, action: str = "view") -> None:
        """Refuse a user without a permission.

        Raises:
            PermissionDenied: The user may not view the page, or not do this.
        """
        if not (self.has_view_permission(request) and self.may(request, action)):
            raise PermissionDenied

    def get_urls(self) -> list[Any]:
        """Return only the addresses of our pages: all others would query the table."""
        start = f"{self.opts.app_label}_{self.opts.model_name}"
        urls = [self._address("", self.changelist_view, f"{start}_changelist")]
        if self.detail_address:
            urls.append(
                self._address(self.detail_address, self.detail_view, f"{start}_detail"),
            )
        return urls

    def _address(self, address: str, view: Callable[..., Any], name: str) -> URLPattern:
        return path(address, self.admin_site.admin_view(view), name=name)

    def detail_view(self, request: HttpRequest) -> HttpResponse:
        """Show one object."""
        raise NotImplementedError

    def respond(
        self, request: HttpRequest, template: str, title: str, **context: Any
    ) -> HttpResponse:
        """Return a page of the admin."""
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request,
            f"realtime_admin/{template}.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": title,
                **context,
            },
        )

    def page_of(self, request: HttpRequest, rows: Any) -> Any:
        """Return the page of rows that a request asks for."""
        return Paginator(rows, PAGE_ROWS).get_page(request.GET.get(PAGE_PARAMETER))

    def warn_of_silent(self, request: HttpRequest, silent: int) -> None:
        """Say that some nodes did not answer."""
        if silent:
            text = _(
                "Nodes that did not answer in time: %(count)d. Their clients are missing here."
            )
            self.message_user(request, text % {"count": silent}, messages.WARNING)


def has_permission(request: HttpRequest, name: str) -> bool:
    """Return whether the user has one of our permissions."""
    user: Any = request.user
    return bool(user.has_perm(f"{LABEL}.{name}"))


def printable(text: str) -> str:
    """Escape what is not printable; PostgreSQL refuses to store NUL."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def explain(error: RealtimeError) -> str:
    """Return what a page says about an error; the log has the details, such as hosts."""
    if not isinstance(error, BrokerError):
        return str(error) or type(error).__doc__ or ""
    logger.warning("the admin cannot ask the broker: %s", error)
    if isinstance(error, OutcomeUnknown):
        return _(
            "Redis did not answer in time, so the action may or may not have been carried out. "
            "Look at the page again before you repeat it."
        )
    return _("Redis cannot be reached at present. Try again in a moment.")

"""The pages, on Django's default admin site."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from realtime import wiring
from realtime.contrib.admin.dead_letters import (
    PAGE_ROWS,
    LetterList,
    MoveResult,
    find_letters,
    move_letters,
)
from realtime.contrib.admin.live import (
    connections_of,
    find_channels,
    find_users,
    occupants_of,
)
from realtime.contrib.admin.models import LABEL, DeadLetter, LiveChannel, LiveUser
from realtime.contrib.admin.pages import (
    PAGE_PARAMETER,
    PagesWithoutTable,
    explain,
    has_permission,
    printable,
)
from realtime.errors import RealtimeError
from realtime.host.user_commands import disconnect_user

ACTIONS = ("retry", "purge")


@admin.register(DeadLetter)
class DeadLetterAdmin(PagesWithoutTable):
    """The dead letters, to retry or purge."""

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List dead letters, or carry out an action on some of them."""
        self.require(request)
        if request.method == "POST":
            return self._act(request)
        context: dict[str, Any] = {"may": {name: self.may(request, name) for name in ACTIONS}}
        try:
            context["stats"] = wiring.sync_broker().queue_stats()
            context["page"] = self.page_of(request, LetterList())
            list(context["page"])  # read it here, where an error can still be explained
        except RealtimeError as error:
            context = {"problem": explain(error)}
        return self.respond(request, "dead_letters", _("Dead letters"), **context)

    def _act(self, request: HttpRequest) -> HttpResponse:
        action, _space, scope = request.POST.get("action", "").partition(" ")
        field = "shown" if scope == "all" else "selected"
        keys = frozenset(request.POST.getlist(field)[:PAGE_ROWS])
        number = _number(request.POST.get(PAGE_PARAMETER))
        if action not in ACTIONS:
            raise BadRequest("action must be retry or purge")
        self.require(request, action)
        back = HttpResponseRedirect(f"{request.path}?{urlencode({PAGE_PARAMETER: number})}")
        start = (number - 1) * PAGE_ROWS
        if not keys:
            self.message_user(request, _("Select dead letters first."), messages.WARNING)
            return back
        purging = action == "purge"
        try:
            if purging and "confirmed" not in request.POST:
                letters = find_letters(keys, start)
                return self.respond(
                    request, "purge", _("Purge dead letters"), letters=letters, number=number
                )
            moved = move_letters(keys, start, purging=purging)
        except RealtimeError as error:
            self.message_user(request, explain(error), messages.ERROR)
            return back
        self._report(request, moved, purging=purging)
        return back

    def _report(self, request: HttpRequest, moved: MoveResult, *, purging: bool) -> None:
        count = len(moved.done)
        self._log(request, moved, DELETION if purging else CHANGE)
        if purging:
            text = ngettext("%d dead letter was purged.", "%d dead letters were purged.", count)
        else:
            text = ngettext(
                "%d dead letter was queued again.", "%d dead letters were queued again.", count
            )
        if count:
            self.message_user(request, text % count, messages.SUCCESS)
        if moved.absent:
            text = _("Not among the dead letters any more: %d")
            self.message_user(request, text % moved.absent, messages.WARNING)
        if moved.unreadable:
            text = _("Not readable, so they can only be purged: %d")
            self.message_user(request, text % moved.unreadable, messages.WARNING)

    def _log(self, request: HttpRequest, moved: MoveResult, flag: int) -> None:
        letters: Any = [DeadLetter(id=printable(each)) for each in moved.done]
        if letters:
            message = "Queued again." if flag == CHANGE else "Purged."
            user: Any = request.user  # logged in: the page is for the staff
            LogEntry.objects.log_actions(user.pk, letters, flag, message)


@admin.register(LiveUser)
class LiveUserAdmin(PagesWithoutTable):
    """The users who have connections, to disconnect them."""

    detail_address = "user/"

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List users with their numbers of connections."""
        self.require(request)
        context: dict[str, Any] = {"has_channels": bool(wiring.settings().personal_channel)}
        try:
            census = find_users()
            self.warn_of_silent(request, census.silent)
            context["page"] = self.page_of(request, census.found)
        except RealtimeError as error:
            context["problem"] = explain(error)
        return self.respond(request, "live_users", _("Live users"), **context)

    def detail_view(self, request: HttpRequest) -> HttpResponse:
        """Show the connections of a user, or close them."""
        self.require(request)
        if request.method == "POST":
            return self._disconnect(request)
        user = request.GET.get("id", "")
        context: dict[str, Any] = {
            "user_id": user,
            "may_disconnect": self.may(request, "disconnect"),
            "query": _query(id=user),
        }
        try:
            occupants = connections_of(user)
            self.warn_of_silent(request, occupants.silent)
            context["occupants"] = occupants
            context["page"] = self.page_of(request, occupants.members or [])
        except RealtimeError as error:
            context["problem"] = explain(error)
        title = _("Connections of user %s") % user
        return self.respond(request, "live_user", title, **context)

    def _disconnect(self, request: HttpRequest) -> HttpResponse:
        self.require(request, "disconnect")
        user, client = request.POST.get("id", ""), request.POST.get("client", "")
        if "confirmed" not in request.POST:
            context = {"user_id": user, "client": client}
            return self.respond(request, "disconnect", _("Disconnect a user"), **context)
        try:
            disconnect_user(user, client=client)
        except RealtimeError as error:
            self.message_user(request, explain(error), messages.ERROR)
        else:
            self.log_change(
                request, LiveUser(id=printable(user)), f"Disconnected {printable(client) or 'all'}."
            )
            text = _("The command to disconnect was sent to all nodes.")
            self.message_user(request, text, messages.SUCCESS)
        url = reverse(f"admin:{LABEL}_liveuser_detail", current_app=self.admin_site.name)
        return HttpResponseRedirect(f"{url}?{urlencode({'id': user})}")


@admin.register(LiveChannel)
class LiveChannelAdmin(PagesWithoutTable):
    """The channels, and who is on them."""

    detail_address = "channel/"

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List channels with their numbers of connections."""
        self.require(request)
        text = request.GET.get("q", "").strip()
        context: dict[str, Any] = {"q": text, "query": _query(q=text)}
        try:
            census = find_channels(text)
            self.warn_of_silent(request, census.silent)
            context["page"] = self.page_of(request, census.found)
        except RealtimeError as error:
            context["problem"] = explain(error)
        return self.respond(request, "live_channels", _("Channels"), **context)

    def detail_view(self, request: HttpRequest) -> HttpResponse:
        """Show who is on a channel."""
        self.require(request)
        name = request.GET.get("name", "")
        context: dict[str, Any] = {
            "may_view_users": has_permission(request, "view_liveuser"),
            "query": _query(name=name),
        }
        try:
            occupants = occupants_of(name)
            self.warn_of_silent(request, occupants.silent)
            context["occupants"] = occupants
            context["page"] = self.page_of(request, occupants.members or [])
        except RealtimeError as error:
            context["problem"] = explain(error)
        return self.respond(request, "live_channel", _("Channel %s") % name, **context)


def _query(**fields: str) -> str:
    """Return the beginning of the query string of another page."""
    return f"{urlencode(fields)}&"


def _number(text: str | None) -> int:
    """Return the number of a page, at least 1."""
    return max(1, int(text)) if text and text.isdecimal() and len(text) < 7 else 1

"""The login page: Django's own, with a limit on attempts."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from notifier import login_limit
from realtime.core.tally import Tally

logger = logging.getLogger("notifier.login")
AWAY_SECONDS = 5
_refusals = Tally()
_noting = threading.Lock()


class Login(LoginView):
    """Log in with name and password; 429 after too many attempts, 503 while Redis is down."""

    template_name = "notifier/login.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add which page sent the visitor here, and the demo users of `make run`, if any."""
        return super().get_context_data(
            for_jobs=self.get_redirect_url().partition("?")[0] == reverse("jobs"),
            demo_users=getattr(settings, "NOTIFIER_DEMO_USERS", ()),
            **kwargs,
        )

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Check the password, unless there were too many attempts."""
        address = _address_of(request)
        self.account = login_limit.NOBODY
        try:
            wait = login_limit.seconds_to_wait(address, self._name(), self._find_account)
        except login_limit.CannotCount:
            if count := _count("away"):
                logger.error(
                    "refused a login: attempts cannot be counted while Redis is unreachable "
                    "(%d so far)",
                    count,
                )
            return self._refuse(503, AWAY_SECONDS)
        if wait:
            if count := _count("many"):
                logger.warning("too many login attempts from %s (%d so far)", address, count)
            return self._refuse(429, wait)
        return super().post(request, *args, **kwargs)

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        """Log in."""
        try:
            login_limit.forget(_address_of(self.request), self._name(), self.account)
        except login_limit.CannotCount:
            logger.error("could not reset the login attempts of a user: Redis is unreachable")
        return super().form_valid(form)

    def _name(self) -> str:
        """Return the name that Django will look up: stripped, and normalized (NFKC)."""
        field = self.form_class(self.request).fields["username"]
        return str(field.to_python(self.request.POST.get("username", "")))

    def _find_account(self) -> str:
        """Return the id of the account that Django will find, and remember it.

        One query for every name, so that timing reveals nothing; Django's own query comes after it.
        """
        users: Any = get_user_model()
        name = self._name()
        try:
            self.form_class(self.request).fields["username"].run_validators(name)
            self.account = str(users._default_manager.get_by_natural_key(name).pk)
        except (ValidationError, users.DoesNotExist, users.MultipleObjectsReturned):
            self.account = login_limit.NOBODY  # an impossible name is not looked up
        return self.account

    def _refuse(self, status: int, seconds: int) -> HttpResponse:
        form = self.form_class(self.request)  # without the user's input
        context = self.get_context_data(
            form=form,
            refused=status,
            minutes=-(-seconds // 60),
            typed=self.request.POST.get("username", "")[:254],
        )
        headers = {"Retry-After": str(seconds)}
        return self.render_to_response(context, status=status, headers=headers)


def _count(reason: str) -> int | None:
    """Count a rejection; return the total once a minute, since anyone can trigger them at will."""
    with _noting:
        return _refusals.add(reason, time.monotonic())


def _address_of(request: HttpRequest) -> str:
    # uvicorn handles a proxy's X-Forwarded-For, and trusts it from FORWARDED_ALLOW_IPS only.
    return str(request.META.get("REMOTE_ADDR", ""))

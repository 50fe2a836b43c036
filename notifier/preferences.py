"""What people have chosen for the pages: kept in their account, or in the browser of a guest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_POST

from notifier.models import Preferences

BODY_BYTES = 16_384
_encode = msgspec.json.Encoder().encode
Level = Literal["data", "info", "success", "warning", "error"]
Channel = Annotated[str, msgspec.Meta(max_length=255)]


class Choices(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """All of them; what is not chosen has the value that suits most people."""

    theme: Literal["system", "light", "dark"] = "system"
    density: Literal["cozy", "compact"] = "cozy"
    toasts: Literal["beside", "top", "none"] = "beside"
    """Where toasts are: beside the list where there is room for them, or at the top."""
    sound: bool = False
    desktop: bool = True
    """Whether the browser's own notifications are shown, once it has been allowed them."""
    muted_levels: Annotated[frozenset[Level], msgspec.Meta(max_length=5)] = frozenset()
    """Notifications of these levels are in the list, and nowhere else."""
    muted_channels: Annotated[frozenset[Channel], msgspec.Meta(max_length=50)] = frozenset()


_decode = msgspec.json.Decoder(Choices).decode


@require_POST
def save(request: HttpRequest) -> HttpResponse:
    """Keep the choices of the body, a JSON object with members of `Choices`, in the account.

    Status 401 for guests, whose browser keeps them; 400 if a choice does not exist; 413.
    """
    if not request.user.is_authenticated:
        return _refuse(401, "Log in to keep preferences in your account.")
    if len(request.body) > BODY_BYTES:
        return _refuse(413, f"Preferences have at most {BODY_BYTES} bytes.")
    try:
        choices = _decode(request.body)
    except msgspec.DecodeError as error:
        return _refuse(400, str(error))
    text = _encode(choices).decode()
    Preferences.objects.update_or_create(user=request.user, defaults={"choices": text})
    return JsonResponse({})


def read(request: HttpRequest) -> str:
    """Return the choices of the account as JSON; empty for guests.

    What an earlier version has written, and this one does not know, is left out as a whole.
    """
    if not request.user.is_authenticated:
        return ""
    found = Preferences.objects.filter(user=request.user).first()
    try:
        return _encode(_decode(found.choices)).decode() if found else "{}"
    except msgspec.DecodeError:
        return "{}"


def give_choices(request: HttpRequest) -> dict[str, Any]:
    """Give all pages the choices; a context processor. Read only by pages that show them."""
    return {"read_choices": lambda: read(request), "is_guest": not request.user.is_authenticated}


def _refuse(status: int, message: str) -> HttpResponse:
    return JsonResponse({"error": {"message": message}}, status=status)

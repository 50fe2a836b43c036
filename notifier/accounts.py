"""The users of the service: what others are shown of them, and two to try it with.

Users are Django's own; there is no page that makes them: `manage.py
createsuperuser` does, or whatever the site has that shares the database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.db import transaction

STAFF = "ada"


def public_info(user: User) -> dict[str, str]:
    """Return what others are shown of a user who says something (REALTIME_USER_INFO)."""
    return {"name": user.get_username()}


@transaction.atomic
def set_demo_users(passwords: Mapping[str, str]) -> None:
    """See to it that these users exist and have these passwords; one of them is staff.

    A password is hashed only where it is another one, which takes a third of a second. The salt
    tells: it is made of the password, which is random itself.
    """
    for name, password in passwords.items():
        user, _ = User.objects.get_or_create(username=name)
        salt = hashlib.sha256(f"salt of {name}: {password}".encode()).hexdigest()[:32]
        if f"${salt}$" not in user.password:
            user.password = make_password(password, salt)
        user.email = user.email or f"{name}@example.com"  # nobody's (RFC 2606): mails are printed
        user.is_staff, user.is_active = name == STAFF, True
        user.save()


def remove_demo_users(names: Mapping[str, str]) -> None:
    """Remove them: on an address that others can reach there must be none."""
    User.objects.filter(username__in=names).delete()

"""The users of the service: their public information, and two demo users.

Users are Django's own. No page creates them: use `manage.py createsuperuser`, or another site that
shares the database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction

STAFF = "ada"


def public_info(user: User) -> dict[str, str]:
    """Return what others see about a user who publishes (REALTIME_USER_INFO)."""
    return {"name": user.get_username()}


def is_staff(user: AbstractBaseUser | AnonymousUser) -> bool:
    """Tell whether the user of a request is logged in and a member of the staff."""
    return isinstance(user, User) and user.is_staff


@transaction.atomic
def set_demo_users(passwords: Mapping[str, str]) -> None:
    """Make sure that these users exist and have these passwords; one of them is staff.

    A password is hashed only if it has changed, because hashing takes a third of a second. The salt
    shows whether it has: it is derived from the password, which is random itself.
    """
    for name, password in passwords.items():
        user, _ = User.objects.get_or_create(username=name)
        salt = hashlib.sha256(f"salt of {name}: {password}".encode()).hexdigest()[:32]
        if f"${salt}$" not in user.password:
            user.password = make_password(password, salt)
        user.email = user.email or f"{name}@example.com"  # reserved (RFC 2606): mails are printed
        user.is_staff, user.is_active = name == STAFF, True
        user.save()


def remove_demo_users(names: Mapping[str, str]) -> None:
    """Remove the demo users: they must not exist on an address that others can reach."""
    User.objects.filter(username__in=names).delete()

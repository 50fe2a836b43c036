"""Users and sessions with multi-table inheritance and proxies, as real hosts have them."""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.contrib.sessions.models import Session
from django.db import models


class Account(AbstractUser):
    """The parent of the user model; it holds the password."""


class Customer(Account):
    """The user model."""


class CustomerProxy(Customer):
    class Meta:
        proxy = True


class AccountProxy(Account):
    class Meta:
        proxy = True


class Partner(Account):
    """A sibling of the user model: both may be children of the same account."""


class Staff(Customer):
    """A child with its own primary key."""

    badge = models.AutoField(primary_key=True)
    customer = models.OneToOneField(Customer, models.CASCADE, parent_link=True)


class StaffProxy(Staff):
    class Meta:
        proxy = True


class Order(models.Model):
    """A model that refers to users but is not one."""

    customer = models.ForeignKey(Customer, models.CASCADE)

    def __str__(self) -> str:
        return str(self.pk)


class Login(Session):
    """A session in its own table, next to Django's."""

    place = models.CharField(max_length=10, default="")

    @classmethod
    def get_session_store_class(cls) -> type:
        from tests.accounts.sessions import SessionStore

        return SessionStore


class LoginProxy(Login):
    class Meta:
        proxy = True

"""The models of the demo: the orders of a board, jobs with their owners, and the imported rows."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.contrib.auth.models import User
from django.db import models

WHAT_LIMIT = 80  # characters of an ordered item
WHO_LIMIT = 150  # characters of a user name, as in Django


class Job(models.Model):
    """One import, and who started it. Its progress is in Redis."""

    id = models.UUIDField(primary_key=True)
    """Also the id of the task."""
    owner = models.ForeignKey(User, models.SET_NULL, null=True)
    """None for an anonymous visitor on this machine (DEBUG)."""
    is_broken = models.BooleanField()
    """Whether its file has an invalid row."""
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    objects: ClassVar[models.Manager[Job]] = models.Manager()
    owner_id: int | None

    class Meta:
        """The newest first."""

        ordering = ("-created_at",)

    def __str__(self) -> str:
        """Return its id, as in the log."""
        return str(self.pk)


class Payment(models.Model):
    """One imported row."""

    job = models.ForeignKey(Job, models.CASCADE)
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=80)
    amount = models.DecimalField(max_digits=10, decimal_places=2)

    objects: ClassVar[models.Manager[Payment]] = models.Manager()
    job_id: uuid.UUID

    class Meta:
        """A row is imported once, however often its job is restarted."""

        constraints = (models.UniqueConstraint(fields=("job", "number"), name="one_row_each"),)

    def __str__(self) -> str:
        """Return which row it is."""
        return f"{self.number} of {self.job_id}"


class Order(models.Model):
    """One order on the board of the HTMX page."""

    class State(models.TextChoices):
        """The states of an order."""

        NEW = "new"
        PACKED = "packed"
        SHIPPED = "shipped"

    what = models.CharField(max_length=WHAT_LIMIT)
    state = models.CharField(max_length=8, choices=State, default=State.NEW)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    objects: ClassVar[models.Manager[Order]] = models.Manager()

    class Meta:
        """The newest first."""

        ordering = ("-pk",)

    def __str__(self) -> str:
        """Return the order's display name."""
        return f"order {self.pk}"

    @property
    def next_state(self) -> str | None:
        """The state that follows the current one."""
        states = list(self.State)
        following = states.index(self.State(self.state)) + 1
        return states[following].value if following < len(states) else None


class OrderChange(models.Model):
    """A change of an order: ordered, packed or shipped. Deleted together with its order."""

    order = models.ForeignKey(Order, models.CASCADE)
    state = models.CharField(max_length=8, choices=Order.State)
    who = models.CharField(max_length=WHO_LIMIT)
    at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager[OrderChange]] = models.Manager()

    class Meta:
        """The newest first."""

        ordering = ("-pk",)

    def __str__(self) -> str:
        """Return the order and its new state."""
        return f"{self.order} became {self.state}"


class Preferences(models.Model):
    """What a user has chosen for the pages."""

    user = models.OneToOneField(User, models.CASCADE, primary_key=True)
    choices = models.TextField()
    """A JSON object; see `notifier.preferences.Choices`."""

    objects: ClassVar[models.Manager[Preferences]] = models.Manager()

    class Meta:
        """One row a user."""

        verbose_name_plural = "preferences"

    def __str__(self) -> str:
        """Return whose they are."""
        return f"preferences of {self.user}"

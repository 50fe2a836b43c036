"""What the demo keeps: the orders of a board, who started jobs, and the rows that they import."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.contrib.auth.models import User
from django.db import models

WHAT_LIMIT = 80  # characters of what somebody orders
WHO_LIMIT = 150  # characters of a user name, as in Django


class Job(models.Model):
    """One import. How far it is, Redis knows; this is only who started what."""

    id = models.UUIDField(primary_key=True)
    """Of the task, too."""
    owner = models.ForeignKey(User, models.SET_NULL, null=True)
    """None: somebody on this machine who has not logged in (DEBUG)."""
    is_broken = models.BooleanField()
    """Whether there is a row in its file that cannot be read."""
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    objects: ClassVar[models.Manager[Job]] = models.Manager()
    owner_id: int | None

    class Meta:
        """The newest first."""

        ordering = ("-created_at",)

    def __str__(self) -> str:
        """Return its id, as the log says it."""
        return str(self.pk)


class Payment(models.Model):
    """One row that was imported."""

    job = models.ForeignKey(Job, models.CASCADE)
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=80)
    amount = models.DecimalField(max_digits=10, decimal_places=2)

    objects: ClassVar[models.Manager[Payment]] = models.Manager()
    job_id: uuid.UUID

    class Meta:
        """A row is imported once, however often its job begins."""

        constraints = (models.UniqueConstraint(fields=("job", "number"), name="one_row_each"),)

    def __str__(self) -> str:
        """Return which row it was."""
        return f"{self.number} of {self.job_id}"


class Order(models.Model):
    """One order on the board of the page that is made with HTMX."""

    class State(models.TextChoices):
        """How far it is."""

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
        """Return what people call it."""
        return f"order {self.pk}"

    @property
    def next_state(self) -> str | None:
        """What comes after its state."""
        states = list(self.State)
        following = states.index(self.State(self.state)) + 1
        return states[following].value if following < len(states) else None


class OrderChange(models.Model):
    """What has happened to an order: it was ordered, packed or shipped. It goes with its order."""

    order = models.ForeignKey(Order, models.CASCADE)
    state = models.CharField(max_length=8, choices=Order.State)
    who = models.CharField(max_length=WHO_LIMIT)
    at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager[OrderChange]] = models.Manager()

    class Meta:
        """The newest first."""

        ordering = ("-pk",)

    def __str__(self) -> str:
        """Return which order became what."""
        return f"{self.order} became {self.state}"

"""The outbox in Django's admin: to look at, to delete from, and to retry what was refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from realtime.contrib.outbox.models import OutboxRow

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[OutboxRow]
else:
    ModelAdmin = admin.ModelAdmin


@admin.register(OutboxRow)
class OutboxRowAdmin(ModelAdmin):
    """Rows cannot be added or changed: their content was checked when they were written."""

    list_display = ("id", "channel", "created_at", "published_at", "refused")
    list_filter = (
        ("published_at", admin.EmptyFieldListFilter),
        ("refused", admin.EmptyFieldListFilter),
    )
    search_fields = ("channel",)
    ordering = ("-id",)
    show_full_result_count = False
    actions = ("retry",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: ``publish_in_transaction`` adds rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False."""
        return False

    @admin.action(description=_("Retry what was refused"), permissions=["delete"])
    def retry(self, request: HttpRequest, queryset: QuerySet[OutboxRow]) -> None:
        """Let refused rows wait again."""
        count = queryset.exclude(refused="").update(refused="")
        self.message_user(request, _("%d wait again.") % count)

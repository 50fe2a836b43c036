"""A board of orders, built with HTMX: views that render fragments, and one publish.

Each change is saved, then published as data: "order 7 was packed". A page that receives it fetches
the board and the list of changes, which the server renders from the database. A page never swaps in
what was published: anyone with permission to publish on the channel can write a publication, and
markup acts without any script (a form that looks like ours, `hx-post`, `<meta http-equiv=refresh>`;
CWE-79).
"""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from notifier.middleware import POLICY_HEADER, policy
from notifier.models import WHAT_LIMIT, WHO_LIMIT, Order, OrderChange
from realtime import publish
from realtime.errors import BrokerError

CHANNEL = "public:orders"
EVENT = "order"
ORDERS_LIMIT = 30
CHANGES_SHOWN = 50
"""Changes returned per request; the page shows no more lines (static/notifier/stream.js)."""
NEW_A_MINUTE = 20
"""New orders from all visitors together; each is published to all of them."""
NOBODY_TOLD = (
    "Saved, but other pages were not notified because Redis is unreachable. They show the change "
    "when they reconnect."
)

# HTMX turns responses into markup, which trusted types forbid. It may still run no code: script-src
# stays 'self', and the page's configuration disables everything that HTMX would evaluate.
_POLICY = {
    name: sources
    for name, sources in settings.SECURE_CSP.items()
    if name not in ("require-trusted-types-for", "trusted-types")
}


@never_cache
@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """Show the board."""
    newest = OrderChange.objects.first()
    context = {"channel": CHANNEL, "after": newest.pk if newest else 0}
    context |= {**_board(request), **_form()}
    answer = render(request, "notifier/htmx.html", context)
    answer.headers[POLICY_HEADER] = policy(_POLICY)
    return answer


@never_cache
@require_safe
def orders(request: HttpRequest) -> HttpResponse:
    """Return the current orders as a fragment."""
    return render(request, "notifier/fragments/orders.html", _board(request))


@never_cache
@require_safe
def changes(request: HttpRequest) -> HttpResponse:
    """Return the changes that are newer than those on the page, as a fragment."""
    after = request.GET.get("after", "")
    if not (after.isdecimal() and len(after) < 19):  # 64 bits, like the primary key
        return HttpResponse(status=400)
    found = OrderChange.objects.filter(pk__gt=int(after)).select_related("order")[:CHANGES_SHOWN]
    if not found:
        return HttpResponse(status=204)
    return render(request, "notifier/fragments/changes.html", {"changes": found})


@never_cache
@require_safe
def gap(request: HttpRequest) -> HttpResponse:
    """Return a line that says how much was missed, as a fragment."""
    missed = request.GET.get("missed", "")
    known = missed if missed.isdecimal() and len(missed) < 10 else ""
    return render(request, "notifier/fragments/gap.html", {"missed": known, "at": timezone.now()})


@require_POST
def create(request: HttpRequest) -> HttpResponse:
    """Create an order, and return the form as a fragment: empty, or with its errors."""
    what = " ".join(request.POST.get("what", "").split())
    if not _may_order(request):
        return _refuse(request, 403, "Your session has ended, so the order was not placed.", what)
    if not 1 <= len(what) <= WHAT_LIMIT or not what.isprintable():
        return _refuse(request, 422, f"Enter an item of 1 to {WHAT_LIMIT} characters.", what)
    a_minute_ago = timezone.now() - timedelta(minutes=1)
    if Order.objects.filter(created_at__gt=a_minute_ago).count() >= NEW_A_MINUTE:
        return _refuse(request, 429, "Too many orders. Try again in a minute.", what)
    order = _save(what, _name_of(request))
    problem = _tell(order)
    context = _form(problem, until_live=True)
    return render(request, "notifier/fragments/order_form.html", context)


@require_POST
def advance(request: HttpRequest, number: int) -> HttpResponse:
    """Advance an order from the state that the page showed."""
    if not _may_order(request):
        return _refuse(request, 403, "Your session has ended, so the order was not changed.")
    order = get_object_or_404(Order, pk=number)
    # Two people pressed the button: the second was late, and nothing is left to do.
    if not _advance(order, request.POST.get("state", ""), _name_of(request)):
        return HttpResponse(status=204)
    if problem := _tell(order):
        return _refuse(request, 503, problem, until_live=True)
    return HttpResponse(status=204)


@transaction.atomic
def _advance(order: Order, shown_state: str, who: str) -> bool:
    if shown_state not in Order.State.values:  # a NUL would be an error of PostgreSQL
        return False
    following, shown = order.next_state, Order.objects.filter(pk=order.pk, state=shown_state)
    if following is None or not shown.update(state=following):
        return False
    order.refresh_from_db()
    OrderChange.objects.create(order=order, state=order.state, who=who)
    return True


@transaction.atomic
def _save(what: str, who: str) -> Order:
    order = Order.objects.create(what=what)
    OrderChange.objects.create(order=order, state=order.state, who=who)
    newest = Order.objects.values_list("pk", flat=True)[:ORDERS_LIMIT]
    Order.objects.exclude(pk__in=list(newest)).delete()
    return order


def _tell(order: Order) -> str:
    """Publish that an order has changed; return an error message, if it failed."""
    try:
        publish(CHANNEL, {"order": order.pk, "state": order.state}, event=EVENT)
    except BrokerError:
        return NOBODY_TOLD
    return ""


def _name_of(request: HttpRequest) -> str:
    user = request.user
    return user.get_username()[:WHO_LIMIT] if user.is_authenticated else "Someone"


def _refuse(
    request: HttpRequest, status: int, problem: str, what: str = "", *, until_live: bool = False
) -> HttpResponse:
    template = "notifier/fragments/order_form.html"
    context = _form(problem, what, until_live=until_live) | {"must_log_in": status == 403}
    answer = render(request, template, context, status=status)
    answer.headers["HX-Retarget"] = "#order-form"
    answer.headers["HX-Reswap"] = "outerHTML"
    return answer


def _form(problem: str = "", what: str = "", *, until_live: bool = False) -> dict[str, object]:
    """Return what the form shows; ``until_live``: the problem ends when Redis is reachable."""
    form = {"problem": problem, "what": what[:WHAT_LIMIT], "limit": WHAT_LIMIT}
    return {**form, "until_live": until_live}


def _board(request: HttpRequest) -> dict[str, object]:
    return {"orders": Order.objects.all(), "may_order": _may_order(request)}


def _may_order(request: HttpRequest) -> bool:
    return request.user.is_authenticated or bool(getattr(settings, "NOTIFIER_DEMO_FOR_ALL", False))

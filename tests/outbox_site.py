"""A site that publishes its orders through the outbox, and a page that shows every one of them."""

from __future__ import annotations

from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, engines
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from realtime.contrib.outbox import missed_publications, publish_in_transaction

CHANNEL = "public:orders"
PAGE = """<!doctype html>{% load static %}<title>Orders</title><script type="module">
import { connect } from "{% static 'realtime/client.js' %}";
window.orders = [];
window.gaps = [];
window.filled = 0;
const live = connect({ retryMostMs: 500, refetchWindowMs: 100 });
const orders = live.subscribe("public:orders", { fill: "/missed/" });
orders.addEventListener("publication", ({ detail: { data, filled } }) => {
  window.orders.push(data.n);
  window.filled += Number(filled);
});
orders.addEventListener("gap", ({ detail }) => window.gaps.push(JSON.stringify(detail)));
orders.addEventListener("subscribed", () => (window.isSubscribed = true));
</script>"""


def page(request: HttpRequest) -> HttpResponse:
    template = engines["django"].from_string(PAGE)
    return HttpResponse(template.template.render(RequestContext(request)))


@csrf_exempt
def order(request: HttpRequest, n: int) -> HttpResponse:
    """Take an order; each fifth is rolled back at the last moment."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO orders VALUES (%s)", [n])
        publish_in_transaction(CHANNEL, {"n": n})
        if n % 5 == 0:
            transaction.set_rollback(True)
    return HttpResponse()


urlpatterns = [
    path("page/", page),
    path("order/<int:n>/", order),
    path("missed/", missed_publications, {"is_only_publisher": True}),
    path("", include("realtime.urls")),
]

"""A site whose users allow notifications on a page."""

from __future__ import annotations

from django.contrib.auth import get_user_model, login
from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, engines
from django.urls import include, path

PAGE = """<!doctype html>{% load static %}<title>Notifications</title>
<button>Notify me</button><p id="state"></p><script type="module">
import { WebPush } from "{% static 'realtime/webpush.js' %}";
const push = new WebPush("/webpush/");
const state = document.querySelector("#state");
window.push = push;
document.querySelector("button").onclick = async () => {
  state.textContent = await push.enable().catch(String) + " " + await push.state();
};
state.textContent = await push.state();
</script>"""


def page(request: HttpRequest) -> HttpResponse:
    template = engines["django"].from_string(PAGE)
    return HttpResponse(template.template.render(RequestContext(request)))


def log_in(request: HttpRequest, name: str) -> HttpResponse:
    """Log in without a password."""
    users = get_user_model()._default_manager
    user, _ = users.get_or_create(username=name, defaults={"email": f"{name}@example.com"})
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponse(str(user.pk))


urlpatterns = [
    path("page/", page),
    path("log-in/<str:name>/", log_in),
    path("webpush/", include("realtime.contrib.webpush.urls")),
    path("", include("realtime.urls")),
]

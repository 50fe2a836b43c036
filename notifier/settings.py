"""Django settings of the service, all of them from the environment (see `notifier.env`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from notifier import servicefile
from notifier.channel_layers import channel_layers
from notifier.database import file_of
from notifier.env import read_environment
from notifier.guardian import is_private
from notifier.logs import is_stderr_terminal, logging_settings
from notifier.run_secrets import DEMO_USERS
from realtime.core.redis_url import is_cluster_url

ENVIRONMENT = read_environment(os.environ)
BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = ENVIRONMENT.secret_key
SECRET_KEY_FALLBACKS = list(ENVIRONMENT.secret_key_fallbacks)
DEBUG = ENVIRONMENT.debug
ALLOWED_HOSTS = list(ENVIRONMENT.allowed_hosts)
# Django's own check supports web pages only, not the origins of apps such as capacitor://localhost.
CSRF_TRUSTED_ORIGINS = [
    origin
    for origin in ENVIRONMENT.app["allowed_origins"]
    if origin.lower().startswith(("http://", "https://"))
]

# First, since it replaces `manage.py runserver`; and only there, because it imports Twisted, which
# would take a quarter of a worker's start-up time.
_RUNSERVER_APPS = ["daphne"] if "runserver" in sys.argv else []
INSTALLED_APPS = [
    *_RUNSERVER_APPS,
    "realtime",
    "notifier",
    "django_htmx",  # its files and its template tag
    "django.contrib.auth",
    "django.contrib.contenttypes",  # auth needs it
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "notifier.middleware.ContentSecurityPolicy",
    "notifier.middleware.StaticFiles",
    # Pages; static files are compressed already. It pads each with random bytes: their CSRF token
    # must not be guessed from sizes (BREACH), and is another one in each response anyway.
    "django.middleware.gzip.GZipMiddleware",
    "notifier.middleware.DatabaseAway",
    "notifier.middleware.PlainSessionCookies",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "notifier.middleware.NotFoundInDebug",
]
ROOT_URLCONF = "notifier.urls"
ASGI_APPLICATION = "notifier.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "notifier.views.footer",
                "notifier.preferences.give_choices",
            ]
        },
    }
]

# --- users and their sessions; publications are not stored ---

DATABASES = {"default": ENVIRONMENT.database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "live"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]
USE_TZ = True
TIME_ZONE = "UTC"  # also for the log; the pages show the browser's time

# --- the mail server of the fallback `email` ---

for _name, _value in ENVIRONMENT.email.items():
    globals()[_name] = _value

# --- the app `realtime` ---

for _name, _value in ENVIRONMENT.app.items():
    globals()[f"REALTIME_{_name.upper()}"] = _value
# The users of this service are not those of the sites that issue tokens, who may have the same ids.
REALTIME_SESSION_USER_PREFIX = "service."
REALTIME_USER_INFO = "notifier.accounts.public_info"
# The demo's chat: anyone may write in it, so it exists in DEBUG only.
_DEMO_CHAT = {
    "allow_subscribe_for_client": True,
    "allow_subscribe_for_anonymous": True,
    "allow_publish_for_subscriber": True,
    "allow_publish_for_anonymous": True,
    "presence": True,
    "join_leave": True,
    "allow_presence_for_subscriber": True,
    "allow_presence_for_anonymous": True,
}
_DEMO_VISITORS = {name: may for name, may in _DEMO_CHAT.items() if "publish" not in name}
_NAMESPACES = ENVIRONMENT.app["namespaces"]
_CHAT = _NAMESPACES.get("chat", _DEMO_CHAT if ENVIRONMENT.debug else {})
_MAY_CHAT = {
    name: may for name, may in _CHAT.items() if name.startswith(("allow_s", "allow_publish"))
}
REALTIME_NAMESPACES = {
    # For the first page of the demo, which counts the browsers that have it open.
    **({"demo": _DEMO_VISITORS} if ENVIRONMENT.demo_key else {}),
    # For the page /monitor/: a channel of each user, where members of the staff are sent numbers.
    "monitor": {},
    # For the page /jobs/: for users who may see it.
    "jobs": {
        "allow_subscribe_for_client": True,
        "allow_subscribe_for_anonymous": ENVIRONMENT.demo_key,
    },
    # Without a chat, neither of the two exists: the API rejects publishing there, too.
    # `typing`: for users who may chat; outdated a moment later.
    **({"typing": {**_MAY_CHAT, "overflow": "latest"}, "chat": _CHAT} if _CHAT else {}),
    **_NAMESPACES,
}
NOTIFIER_HAS_CHAT = bool(_CHAT)

# --- the pages ---

# Only in DEBUG on this machine: lets the form on the first page post without asking for a key.
NOTIFIER_DEMO_API_KEY = ENVIRONMENT.api_key if ENVIRONMENT.demo_key else ""
_IS_OF_THE_DEMO = file_of(ENVIRONMENT.database) == servicefile.database_path(
    servicefile.default_path()
)
NOTIFIER_DEMO_USERS = DEMO_USERS if ENVIRONMENT.demo_key and _IS_OF_THE_DEMO else ()

CHANNEL_LAYERS = channel_layers(ENVIRONMENT.redis_url)

# --- background jobs ---

# Celery does not know Redis Cluster: then the jobs need a Redis of their own.
NOTIFIER_HAS_JOBS = not is_cluster_url(ENVIRONMENT.redis_url) or bool(
    ENVIRONMENT.app["jobs_redis_url"]
)
# Only in DEBUG on this machine: anyone may start the jobs of the demo.
NOTIFIER_DEMO_FOR_ALL = ENVIRONMENT.demo_key

# Only in DEBUG on this machine, and with a Redis that nobody else uses: the first page may stop it.
NOTIFIER_MAY_STOP_REDIS = ENVIRONMENT.demo_key and is_private(ENVIRONMENT.redis_url)

# The site of `make docs`; without it, the pages link to the guides of the service itself.
NOTIFIER_DOCUMENTATION_URL = ENVIRONMENT.documentation_url

# --- static files: served by the service itself, in production after `collectstatic` ---

STATIC_URL = "/static/"
STATICFILES_DIRS = [path for path in [BASE_DIR / "static"] if path.is_dir()]
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "notifier.static_files.StaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = DEBUG or not (STATIC_ROOT / "staticfiles.json").is_file()

# --- security: what `manage.py check --deploy` requires, and a policy for the pages ---

# HTTPS=1 means that a proxy in front terminates TLS. X-Forwarded-Proto tells whether a request used
# TLS, and uvicorn trusts it only from FORWARDED_ALLOW_IPS; Django's SECURE_PROXY_SSL_HEADER would
# trust it from anyone.
SECURE_SSL_REDIRECT = ENVIRONMENT.https
SECURE_REDIRECT_EXEMPT = [r"^metrics$"]  # a scraper inside has a key, as publishers have
SECURE_HSTS_SECONDS = ENVIRONMENT.hsts_seconds if ENVIRONMENT.https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = ENVIRONMENT.https
SECURE_HSTS_PRELOAD = ENVIRONMENT.https
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE = ENVIRONMENT.https
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = SESSION_COOKIE_SAMESITE = "Lax"
if ENVIRONMENT.https:
    # A sibling domain, or plain HTTP, cannot set these (RFC 6265bis §4.1.3.2).
    CSRF_COOKIE_NAME = "__Host-csrftoken"
    SESSION_COOKIE_NAME = "__Host-sessionid"
X_FRAME_OPTIONS = "DENY"
# The name and format of Django 6.0; 5.2 has no such setting, so our middleware reads it.
SECURE_CSP = {
    "default-src": ["'none'"],
    "script-src": ["'self'"],
    "style-src": ["'self'"],
    "img-src": ["'self'", "data:"],  # the icon of a tab, which static/notifier/badge.js draws
    "font-src": ["'self'"],
    "connect-src": ["'self'"],  # covers wss:// of the same origin in all current browsers
    "manifest-src": ["'self'"],
    "form-action": ["'self'"],
    "base-uri": ["'none'"],
    "frame-ancestors": ["'none'"],
    # No script may turn text into markup or code, not even by mistake, but for the address of the
    # service worker: static/notifier/install.js makes the policy of this name, for it alone.
    "require-trusted-types-for": ["'script'"],
    "trusted-types": ["service-worker"],
}

LOGGING = logging_settings(for_people=is_stderr_terminal())

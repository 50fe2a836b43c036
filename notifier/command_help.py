"""The texts of ``python -m notifier … --help``: variables, signals, examples, exit statuses.

docs/command-line.md contains the printed texts, and a test compares them.

Long because it has nothing but texts.
"""

from __future__ import annotations

import textwrap

PROGRAM = "python -m notifier"
WIDTH = 90
_NAME_WIDTH = 28

Variables = tuple[tuple[str, str], ...]
"""Names and what they mean."""

VARIABLES: tuple[tuple[str, Variables], ...] = (
    (
        "environment, required (`run` generates what is missing)",
        (
            ("REDIS_URL", "redis://, rediss://, unix://, redis+sentinel://host1,host2/mastername, "
             "or redis+cluster://host1,host2; without it, `run` starts a private Valkey and a "
             "fallback worker"),
            ("SECRET_KEY", "Django's: at least 50 characters unless DEBUG is on"),
            ("NOTIFIER_API_KEY", "the X-API-Key of publishers: one key with all permissions"),
            ("NOTIFIER_API_KEYS", "or one key for each publisher (JSON), or @path of a file that "
             "is reloaded; `keys` creates them"),
            ("ALLOWED_HOSTS", "host names of this service, comma-separated"),
        ),
    ),
    (
        "environment, address and processes",
        (
            ("HOST, PORT", "address to listen on (127.0.0.1, 8000)"),
            ("WEB_CONCURRENCY", "number of worker processes (1)"),
            ("HTTPS", "1 if a proxy terminates TLS (default of `serve`), otherwise 0 (of `run`)"),
            ("HSTS_SECONDS", "how long browsers must use HTTPS (3600)"),
            ("FORWARDED_ALLOW_IPS", "proxies whose X-Forwarded-* headers are trusted (127.0.0.1)"),
            ("DOCUMENTATION_URL", "the site of `make docs`, to which all pages link"),
            ("ALLOWED_ORIGINS", "origins of other sites that may connect, comma-separated"),
            ("DEBUG", "1 or 0; `run` turns it on if only this machine can connect"),
        ),
    ),
    (
        "environment, users and tokens",
        (
            ("DATABASE_URL", "database of users and sessions: postgres://user:password@host/name, "
             "or sqlite:////path (db.sqlite3 in the checkout; in .run/ for `run`)"),
            ("SECRET_KEY_FALLBACKS", "earlier keys that stay valid while you rotate SECRET_KEY"),
            ("NOTIFIER_TOKEN_SECRET", "verifies client tokens (HS256)"),
            ("NOTIFIER_TOKEN_PUBLIC_KEY", "verifies client tokens (RS256, ES256): a public key, "
             "or @path of a file"),
            ("NOTIFIER_TOKEN_JWKS", "several public keys (JWKS), or @path of a file that is "
             "reloaded"),
            ("NOTIFIER_TOKEN_AUDIENCE", "required value in the `aud` claim of tokens, if any"),
            ("NOTIFIER_TOKEN_EXPIRY", "required, or optional: tokens without `exp` never expire"),
            ("NOTIFIER_PERSONAL_CHANNEL", "prefix of the personal channels, before the user ID "
             "(user:#)"),
        ),
    ),
    (
        "environment, channels and publications",
        (
            ("NOTIFIER_NAMESPACES", "channel namespaces and their options: a JSON object, or "
             "@path of a file"),
            ("NOTIFIER_LIMITS", "limits for clients: a JSON object of settings, or @path of a "
             "file"),
            ("NOTIFIER_FALLBACKS", "handlers of queued publications: a JSON object, or @path"),
            ("EMAIL_URL", "mail server of the `email` fallback: smtp+tls://user:password@host:587"),
            ("EMAIL_FROM", "sender address of its mail"),
            ("NOTIFIER_CLOUDEVENTS", "rules that map CloudEvents to channels: a JSON array, or "
             "@path"),
            ("NOTIFIER_REDIS_PREFIX", "prefix of every key and channel in Redis (rt)"),
            ("JOBS_REDIS_URL", "Redis of the background jobs; required with a cluster, else "
             "REDIS_URL"),
        ),
    ),
    (
        "environment, observation",
        (
            ("METRICS_ADDRESS", "address of /metrics for Prometheus, such as 127.0.0.1:9100"),
            ("NOTIFIER_METRICS_KEY", "bearer token for /metrics on the usual port"),
            ("NOTIFIER_TRACING", "1: OpenTelemetry spans, exported as OTEL_EXPORTER_OTLP_ENDPOINT "
             "says"),
        ),
    ),
)  # fmt: skip
SECRETS_IN_FILES = (
    "A secret can also be read from the file that …_FILE names: REDIS_URL_FILE=/run/redis."
)


def _columns(rows: Variables) -> str:
    lines = []
    for name, text in rows:
        first, *more = textwrap.wrap(text, WIDTH - _NAME_WIDTH - 2, break_on_hyphens=False)
        lines.append(f"  {name:<{_NAME_WIDTH}}{first}")
        lines += [" " * (_NAME_WIDTH + 2) + line for line in more]
    return "\n".join(lines)


ENVIRONMENT = "\n\n".join(f"{title}:\n{_columns(rows)}" for title, rows in VARIABLES)

_SIGNALS = """\
signals:
  SIGTERM, SIGINT (Ctrl-C), and SIGHUP stop the service gracefully; a second signal stops it
  immediately. If SIGINT or SIGHUP was ignored at start (nohup, or a script's background), it
  stays ignored and the service says so; SIGTERM always stops it."""

_STATUSES = """\
exit statuses:
  0    the service was stopped
  1    it could not start or could not be kept running; stderr says why
  2    wrong use of the command line
  130  it was interrupted before it had started"""

MAIN = """\
usage: python -m notifier COMMAND [OPTION…]

The notification service. Everything is configured by environment variables, which
`python -m notifier serve --help` lists.

run the service:
  serve      in production: reads all secrets from the environment
  run        for development: generates missing secrets, includes a private Valkey

prepare and check a deployment:
  check      look for what is wrong: variables, Redis, database, machine; say what to do
  keys       create API keys for publishers, list them, check a file of them
  token      print a token with which a client can connect, to try it

options:
  --help     show this help, or that of a command, and exit
  --version  show the versions of the service and of what it runs on, and exit

examples:
  python -m notifier run
  python -m notifier check
  python -m notifier keys create shop --channels 'orders:*' --file keys.json
  python -m notifier token ada

exit statuses:
  0  done
  1  it could not be done, or `check` found something wrong
  2  wrong use of the command line; one sentence on stderr says what

`python manage.py help` lists further commands: publish, listen, migrate, createsuperuser …
"""

SERVE = f"""\
usage: python -m notifier serve

Run the service in production. A missing or invalid variable is an error that names it. The
database must have its tables: python manage.py migrate

examples:
  python -m notifier check && exec python -m notifier serve
  PORT=8001 WEB_CONCURRENCY=4 python -m notifier serve

{ENVIRONMENT}

{SECRETS_IN_FILES}

{_SIGNALS}

{_STATUSES}
"""

RUN = f"""\
usage: python -m notifier run [--stop-with-parent]

Run the service to try or develop it (`make run`): generates missing secrets, creates a
database with two users, and starts a private Valkey unless REDIS_URL is set. While it runs,
`manage.py` and the other commands find it in another terminal, without any variables.

options:
  --stop-with-parent  stop when the parent process exits (used by make)

examples:
  python -m notifier run
  PORT=8001 REDIS_URL=redis://127.0.0.1:6379/0 python -m notifier run

{ENVIRONMENT}

{SECRETS_IN_FILES}

{_SIGNALS}

{_STATUSES}
"""

CHECK = """\
usage: python -m notifier check [--json]

Check a deployment where it will run, before or while it does: with the same variables, as
the same user, with the same limits. It changes nothing. Each line is `ok`, `warning` (it
works, but may not be intended) or `wrong`; what to do follows.

  configuration  each variable, the strength of each secret, Django's checks for deployment
  redis          reachable, version, role, memory, persistence, clock, permitted commands
  database       reachable, tables, clock; with SQLite, who can read the file
  machine        open files for REALTIME_CONNECTIONS, somaxconn, address, processors

Which commands of Redis are permitted is found out in a transaction that is never executed.
Redis notes those that it refuses in ACL LOG.

options:
  --json  print one JSON object: {"ok": …, "findings": [{"area", "level", "text", "advice"}]}

environment:
  the variables of `python -m notifier serve --help`. While `run` runs on this machine, and
  unless SECRET_KEY, REDIS_URL or DEBUG is set, those of `run`.

examples:
  python -m notifier check
  python -m notifier check --json | jq -r '.findings[] | select(.level == "wrong").text'
  systemd-run --pipe --wait -p EnvironmentFile=/etc/notifier.env -p User=notifier \\
      -p LimitNOFILE=65536 -p WorkingDirectory=/srv/notifier \\
      /srv/notifier/.venv/bin/python -m notifier check

exit statuses:
  0  nothing is wrong; there may be warnings
  1  something is wrong
  2  wrong use of the command line
"""

TOKEN = """\
usage: python -m notifier token USER [--channel CHANNEL] [--expires SECONDS]

Print a token for trying, signed with NOTIFIER_TOKEN_SECRET: a client that connects with it
is USER. In production, your site issues tokens, or your identity provider does. The token
is all that stdout gets; stderr gets a line that says how to use it.

arguments:
  USER                 user ID, the claim `sub`; '' for a client without identity, which
                       only makes sense with --channel

options:
  --channel CHANNEL    a subscription token instead: it lets USER subscribe to CHANNEL
  --expires SECONDS    how long it is valid: 1 to 31536000 (600)

environment:
  NOTIFIER_TOKEN_SECRET    signs the token; or NOTIFIER_TOKEN_SECRET_FILE, the path of a file
  NOTIFIER_TOKEN_AUDIENCE  becomes the claim `aud`
  While `run` runs on this machine, its secret is found without a variable.

examples:
  python -m notifier token ada
  python -m notifier token ada --channel orders:7 --expires 3600

exit statuses:
  0  the token was printed
  1  the secret is missing, or USER or CHANNEL is not a valid name
  2  wrong use of the command line
"""  # noqa: S105 - the name of the constant is that of the command

KEYS = """\
usage: python -m notifier keys COMMAND

Manage API keys, with which publishers identify themselves (X-API-Key). A list of them is
JSON: the value of NOTIFIER_API_KEYS, or a file that it names (@path), which a running
service reloads within two seconds. It contains no secrets, only their SHA-256.

commands:
  create NAME   create a key: print its secret once, and the entry or write it into a file
  list [FILE]   show name, methods, channels, rate and fallbacks of each key, not its secret
  check FILE    check a file, and say what is wrong with each entry that is not usable

environment:
  NOTIFIER_API_KEY   `list` shows this key as `default`
  NOTIFIER_API_KEYS  what `list` shows without FILE

examples:
  python -m notifier keys create shop --channels 'orders:*' --file /etc/notifier/keys.json
  python -m notifier keys check /etc/notifier/keys.json
  NOTIFIER_API_KEYS=@/etc/notifier/keys.json python -m notifier keys list

exit statuses:
  0  done
  1  an entry or a file is not usable; stderr says why
  2  wrong use of the command line
"""

KEYS_CREATE = """\
usage: python -m notifier keys create NAME [OPTION…]

Create an API key. With --file, stdout gets only the secret. Without it, the secret is the
first line, and the entry for NOTIFIER_API_KEYS follows. The secret is not stored: give it
to the publisher, who sends it as X-API-Key.

arguments:
  NAME                   name of the key in logs: A-Z a-z 0-9 _ - .

options:
  --channels PATTERN…    channels it may publish to (all)
  --methods METHOD…      methods it may call (publish broadcast batch)
  --fallbacks [NAME…]    fallbacks it may name (none)
  --rate N               publications per second across all nodes (no limit)
  --file PATH            add the entry to this file; a missing one is created, mode 0600

patterns match channel names segment by segment, split at colons:
  orders:*               matches orders:7, not orders:7:lines
  orders:**              matches both, not orders
  *                      every channel without a colon
  **                     every channel

examples:
  python -m notifier keys create shop --channels 'orders:*' public:news \\
      --methods publish batch --rate 100 --file /etc/notifier/keys.json

exit statuses:
  0  the key was created
  1  the entry is not valid, or the file could not be read or written; it is unchanged
  2  wrong use of the command line
"""

KEYS_LIST = """\
usage: python -m notifier keys list [FILE] [--json]

Show what each API key may do. No secret and no hash of one is shown.

arguments:
  FILE    a file of keys; otherwise NOTIFIER_API_KEY and NOTIFIER_API_KEYS

options:
  --json  print a JSON array of objects

exit statuses:
  0  all keys are shown
  1  the list is not usable, or an entry is not; stderr says why
  2  wrong use of the command line
"""

KEYS_CHECK = """\
usage: python -m notifier keys check FILE

Check a file of API keys, for example before it replaces the one that a service uses.

exit statuses:
  0  all entries are usable; stdout says how many
  1  the file is not usable, or an entry is not; each is on a line of stderr
  2  wrong use of the command line
"""

PAGES = {
    "": MAIN,
    "serve": SERVE,
    "run": RUN,
    "check": CHECK,
    "token": TOKEN,
    "keys": KEYS,
    "keys create": KEYS_CREATE,
    "keys list": KEYS_LIST,
    "keys check": KEYS_CHECK,
}
"""The help of each command; empty is the program itself."""

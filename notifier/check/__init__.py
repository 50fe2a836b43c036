"""``python -m notifier check``: examines a deployment, and says what is wrong and what to do.

* `findings`: What is found, and how it is printed.
* `configuration`: The variables, the strength of secrets, and Django's system checks.
* `redis_servers`: Each Redis, by what `realtime.wiring.monitoring.diagnose_redis` has found out.
* `database`: The database of users and sessions.
* `machine`: The limits of this machine for the processes of the service.

The rules take values and return findings, so that each is tested without breaking a machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from notifier import servicefile
from notifier.check.configuration import check_variables, repair
from notifier.check.findings import Finding, Level, is_anything_wrong, write_findings
from notifier.private import NotPrivate


def run_check(environ: Mapping[str, str], *, as_json: bool) -> int:
    """Check the deployment that the environment describes, and print what is found.

    Returns:
        The exit status: 1 if anything is wrong.
    """
    findings = find_all(environ)
    if as_json:
        facts = {"ok": not is_anything_wrong(findings), "findings": [f._asdict() for f in findings]}
        print(json.dumps(facts, indent=2))
    else:
        print(write_findings(findings))
    return int(is_anything_wrong(findings))


def find_all(environ: Mapping[str, str]) -> list[Finding]:
    """Return all findings, in the order in which they are printed."""
    own = dict(environ)
    notes = []
    try:
        if servicefile.read(path := servicefile.default_path()) is not None:
            before = dict(own)
            servicefile.adopt(own, path)
            if own != before:
                text = f"the variables are those of the service that runs here: {path}"
                notes.append(Finding("configuration", Level.OK, text))
    except NotPrivate as error:
        return [Finding("configuration", Level.WRONG, str(error))]
    repaired = repair(own)
    findings = [*notes, *repaired.findings]
    if repaired.environment is None:
        text = "nothing else was checked: correct these variables first"
        return [*findings, Finding("configuration", Level.WARNING, text)]
    findings += check_variables(repaired)
    os.environ.clear()
    os.environ.update(repaired.variables)
    os.environ["DJANGO_SETTINGS_MODULE"] = "notifier.settings"
    import django

    django.setup()
    # They need Django's settings.
    from notifier.check.configuration import check_settings
    from notifier.check.database import check_database
    from notifier.check.machine import check_machine
    from notifier.check.redis_servers import check_redis

    findings += check_settings(is_debug=repaired.environment.debug)
    if "REDIS_URL" not in repaired.faulty:
        findings += check_redis(has_fallbacks=bool(repaired.environment.app["fallbacks"]))
    if "DATABASE_URL" not in repaired.faulty:
        findings += check_database()
    return findings + check_machine(repaired.environment)

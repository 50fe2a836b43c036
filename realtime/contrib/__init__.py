"""Integrations with other packages; most modules require the package that they integrate.

`celery` shows the progress of tasks, `jinja2` has the template tags as functions, and `admin` is an
app of its own with pages of Django's admin.
"""

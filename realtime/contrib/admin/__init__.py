"""Pages of Django's admin: dead letters, live users, and channels with their members.

Optional: a host adds ``realtime.contrib.admin`` to INSTALLED_APPS (docs/howto/admin.md). The models
have no tables; they give the pages names, permissions and places in the index.

* `apps`: The Django app, with the label ``realtime_admin``.
* `models`: What the pages are about, and the permissions.
* `admin`: The pages.
* `pages`: What all of them have in common.
* `dead_letters`: Reads, retries and purges dead letters.
* `live`: Asks the nodes for channels, users and connections.
"""

"""Django's sessions and users, and key files.

* `sessions`: The user of a session, and whether it is still valid.
* `user_info`: What other clients see about a user.
* `token_log`: Logs why tokens are rejected.
* `jwks_file`: A key set in a file, reloaded when it changes.
* `watched_file`: A file that is reloaded when it changes.
* `containment`: Keeps our errors out of the host's own code.
"""

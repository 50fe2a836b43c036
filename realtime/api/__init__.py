"""The HTTP API as one rule for two rims.

* `methods`: What each method does.
* `backend`: What a method asks of the publishing side.
* `request`: Looks at a request before its body is read.
* `fields`: The fields of each method, declared once.
* `items`: Makes publications of fields.
* `events`: Makes publications of CloudEvents.
* `cloudevents`: Reads CloudEvents, and makes fields of them.
* `cloudevent_attributes`: What their attributes must be.
* `cloudevent_routes`: Chooses their channels, by rules.
* `control`: Makes commands for nodes of fields.
* `answers`: Statuses and bodies.
* `keys`: What an API key may do.
* `channel_patterns`: Which channels it may use.
* `key_entries`: Reads keys from the configuration.
* `keyring`: The API keys of the settings and of files.
* `key_debts`: Which keys are over their rate.
"""

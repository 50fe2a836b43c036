"""The HTTP API: one implementation for two rims.

* `methods`: What each method does.
* `inspection`: Those that only read.
* `backend`: What a method needs from the publishing side.
* `request`: Checks a request before its body is read.
* `fields`: The fields of each method, declared once.
* `items`: Builds publications from fields.
* `events`: Builds publications from CloudEvents.
* `cloudevents`: Parses CloudEvents into fields.
* `cloudevent_attributes`: Validates their attributes.
* `cloudevent_routes`: Chooses their channels, by rules.
* `control`: Builds commands for nodes from fields.
* `answers`: Statuses and bodies.
* `keys`: What an API key may do.
* `channel_patterns`: Which channels it may use.
* `key_entries`: Reads keys from the configuration.
* `keyring`: The API keys of the settings and of files.
* `key_debts`: Which keys are over their rate.
"""

"""The HTTP API: `methods` is the rule, `backend` what it asks of the publishing side."""

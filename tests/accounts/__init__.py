"""An app of a host whose users and sessions are spread over several models."""

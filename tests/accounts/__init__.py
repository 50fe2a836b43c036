"""A host's app whose users and sessions are spread over several models."""

"""The identity of a client: tokens, keys and origins; all of it ring 0.

* `tokens`: Verifies connection and subscription tokens.
* `jwks`: Reads a JSON Web Key Set.
* `origins`: Decides which pages may connect and use the session.
* `url_secrets`: Finds secrets in a URL.
* `ended_sessions`: Remembers which sessions have ended.
* `web_push`: Encrypts messages for browsers, and signs who sends them.
"""

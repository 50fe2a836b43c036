"""Every error of the project, as one tree.

* `RealtimeError`: the root; never raised itself

  * `RequestError`: the caller's fault

    * `InvalidName`: a channel, event or tag name breaks its rule
    * `InvalidData`: the data is not JSON that every client can read
    * `TooLarge`: more bytes or items than the limit
    * `Unauthorized`: credentials are missing or invalid

      * `InvalidToken`: the token is invalid
      * `TokenExpired`: the token has expired; get another one

    * `Forbidden`: not allowed, or it does not exist; both get the same response
    * `LimitExceeded`: a limit is exceeded; try again later
    * `IdempotencyConflict`: the key was used for another publication

  * `BrokerError`: the broker's fault

    * `BrokerUnavailable`: certainly not published
    * `OutcomeUnknown`: perhaps published; a retry with the same idempotency key is safe
    * `QueueFull`: the queue for fallbacks is full; not published

  * `GiveUp`: raised by a fallback's handler if further attempts are useless
  * `PartlyDone`: raised by a fallback's handler that completed only part of its work
  * `EnvelopeError`: invalid bytes on the broker: counted, dropped, never fatal
  * `ConfigurationError`: a setting is missing or invalid; names it

An error carries its facts as attributes; its text is for people. Where an error has no text, or has
one that names hosts or paths, HTTP clients get the first line of its class's docstring. `code` is
the stable slug that HTTP bodies show; this module knows neither HTTP statuses nor wire numbers
(those tables are in `realtime.api` and `realtime.core.codes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class RealtimeError(Exception):
    """The root of all errors of the project."""

    code: ClassVar[str] = "error"
    temporary: ClassVar[bool] = False


class RequestError(RealtimeError):
    """The request is invalid."""

    code = "bad_request"


class InvalidName(RequestError):
    """A name breaks its rule."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        self.field = field
        self.value = _shorten(value)
        self.rule = rule
        name = field if value is None else f"{field} {self.value} is not valid"
        super().__init__(f"{name}: {rule}")

    @property
    def code(self) -> str:  # type: ignore[override]
        """`invalid_channel`, `invalid_event`, … by the field that is wrong."""
        return f"invalid_{self.field}"


class InvalidData(RequestError):
    """The data is not JSON that every client can read."""

    code = "invalid_data"

    def __init__(self, reason: str, *, field: str = "data", at: str = "") -> None:
        self.reason = reason
        self.field = field
        self.at = at
        super().__init__(f"{field}{at}: {reason}")


class TooLarge(RequestError):
    """The size exceeds the limit."""

    code = "too_large"

    def __init__(self, what: str, size: int, limit: int, unit: str = "bytes") -> None:
        self.what = what
        self.size = size
        self.limit = limit
        super().__init__(f"{what} has {size} {unit}, the limit is {limit}")


class Unauthorized(RequestError):
    """Credentials are missing or invalid."""

    code = "unauthorized"


class InvalidToken(Unauthorized):
    """The token is invalid; the text says why, for the log only.

    Attributes:
        reason: One of a few fixed sentences.
        about: The value in the token that is wrong, escaped and short; it is not verified.
    """

    code = "invalid_token"

    def __init__(self, reason: str, said: object = None) -> None:
        self.reason = reason
        self.about = "" if said is None else _shorten(said)
        super().__init__(f"{reason}: {self.about}" if self.about else reason)


class TokenExpired(Unauthorized):
    """The token has expired."""

    code = "token_expired"


class Forbidden(RequestError):
    """Permission denied, or it does not exist: both get the same response."""

    code = "forbidden"


class LimitExceeded(RequestError):
    """A limit is exceeded."""

    code = "rate_limited"
    temporary = True

    def __init__(self, what: str, limit: float, retry_seconds: float | None = None) -> None:
        self.limit = limit
        self.retry_seconds = retry_seconds
        super().__init__(f"{what}: the limit is {limit:g}")


class IdempotencyConflict(RequestError):
    """This idempotency key was used for a different publication on the channel."""

    code = "idempotency_conflict"


class BrokerError(RealtimeError):
    """The broker failed."""

    code = "broker_error"
    temporary = True


class BrokerUnavailable(BrokerError):
    """The broker is unavailable; nothing was published."""

    code = "broker_unavailable"


class OutcomeUnknown(BrokerError):
    """The broker did not respond; the publication may or may not have been published."""

    code = "outcome_unknown"


class QueueFull(BrokerError):
    """The queue for fallbacks is full; nothing was published or queued."""

    code = "queue_full"


class GiveUp(RealtimeError):
    """Raised by a fallback's handler: no attempt can succeed, so the entry is dead."""

    code = "given_up"


class PartlyDone(RealtimeError):
    """Raised by a fallback's handler that completed only part of its work.

    Attributes:
        options: The options for the remaining work; they replace the publication's options.
        is_final: Whether further attempts are useless. If so, the entry is dead, with these
        options.
    """

    code = "partly_done"

    def __init__(self, reason: str, options: Mapping[str, Any], *, is_final: bool = False) -> None:
        self.options = options
        self.is_final = is_final
        super().__init__(reason)


class EnvelopeError(RealtimeError):
    """The bytes on the broker are not a valid envelope."""

    code = "bad_envelope"


class ConfigurationError(RealtimeError):
    """A setting is missing or invalid."""

    code = "configuration"

    def __init__(self, setting: str, problem: str) -> None:
        self.setting = setting
        self.problem = problem
        super().__init__(f"{setting}: {problem}")


def _shorten(value: object, longest: int = 80) -> str:
    """Show a foreign value in an error: quoted, escaped, never long (CWE-117)."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # thousands of digits, or of nested lists
        text = f"<{type(value).__name__}>"
    return text if len(text) <= longest else f"{text[:longest]}…"

"""Every error of the project, as one tree.

* `RealtimeError`: the root; never raised itself

  * `RequestError`: the caller's fault

    * `InvalidName`: a channel, event or tag name breaks its rule
    * `InvalidData`: the data is not JSON that every client can read
    * `TooLarge`: more bytes or items than the limit
    * `Unauthorized`: who are you?

      * `InvalidToken`: that is no token of ours
      * `TokenExpired`: it was one; get another

    * `Forbidden`: not you; the same answer as for what does not exist
    * `LimitExceeded`: too many of something; come back later
    * `IdempotencyConflict`: the key was used for another publication

  * `BrokerError`: the broker's fault

    * `BrokerUnavailable`: certainly not published
    * `OutcomeUnknown`: perhaps published; a retry with the same idempotency key is safe
    * `QueueFull`: nobody was there and its fallback's queue is full; not published

  * `GiveUp`: a fallback's handler says that to try again is of no use
  * `EnvelopeError`: bytes on the broker that are not ours: counted, dropped, never fatal
  * `ConfigurationError`: a setting that cannot work; names it

An error carries its facts as attributes; its text is for people. `code` is the stable slug that
HTTP bodies show; this module knows neither HTTP statuses nor wire numbers (those tables stand in
`realtime.api` and `realtime.codes`).
"""

from __future__ import annotations

from typing import ClassVar


class RealtimeError(Exception):
    """Something went wrong that we have a name for."""

    code: ClassVar[str] = "error"
    temporary: ClassVar[bool] = False


class RequestError(RealtimeError):
    """The request cannot be done as it was made."""

    code = "bad_request"


class InvalidName(RequestError):
    """A name breaks its rule."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        self.field = field
        self.value = _shortened(value)
        self.rule = rule
        super().__init__(f"{field} {self.value} is not valid: {rule}")

    @property
    def code(self) -> str:  # type: ignore[override]
        """`invalid_channel`, `invalid_event`, … by the field that is wrong."""
        return f"invalid_{self.field}"


class InvalidData(RequestError):
    """The data is not JSON that every client can read."""

    code = "invalid_data"

    def __init__(self, reason: str, *, field: str = "data") -> None:
        self.reason = reason
        self.field = field
        super().__init__(f"{field}: {reason}")


class TooLarge(RequestError):
    """More than the limit allows."""

    code = "too_large"

    def __init__(self, what: str, size: int, limit: int, unit: str = "bytes") -> None:
        self.what = what
        self.size = size
        self.limit = limit
        super().__init__(f"{what} has {size} {unit}, the limit is {limit}")


class Unauthorized(RequestError):
    """No valid credentials."""

    code = "unauthorized"


class InvalidToken(Unauthorized):
    """The token proves nothing; the text says why, which a client is not told.

    Attributes:
        reason: One of few sentences.
        about: What the token said there, escaped and short; of what nobody has vouched for.
    """

    code = "invalid_token"

    def __init__(self, reason: str, said: object = None) -> None:
        self.reason = reason
        self.about = "" if said is None else _shortened(said)
        super().__init__(f"{reason}: {self.about}" if self.about else reason)


class TokenExpired(Unauthorized):
    """The token has proved something until now."""

    code = "token_expired"


class Forbidden(RequestError):
    """Not allowed, or no such thing: the two look the same on purpose."""

    code = "forbidden"


class LimitExceeded(RequestError):
    """Too many of something."""

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
    """The broker did not do its part."""

    code = "broker_error"
    temporary = True


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached or refuses; certainly nothing was published."""

    code = "broker_unavailable"


class OutcomeUnknown(BrokerError):
    """The broker did not answer; the publication may or may not be out."""

    code = "outcome_unknown"


class QueueFull(BrokerError):
    """Nobody listens, and the queue for fallbacks is full; nothing was published or queued."""

    code = "queue_full"


class GiveUp(RealtimeError):
    """Raised by a fallback's handler: no attempt can succeed, so that the operator is to look."""

    code = "given_up"


class EnvelopeError(RealtimeError):
    """Bytes on the broker that are not an envelope of ours."""

    code = "bad_envelope"


class ConfigurationError(RealtimeError):
    """A setting that cannot work."""

    code = "configuration"

    def __init__(self, setting: str, problem: str) -> None:
        self.setting = setting
        self.problem = problem
        super().__init__(f"{setting}: {problem}")


def _shortened(value: object, longest: int = 80) -> str:
    """Show a foreign value in an error: quoted, escaped, never long (CWE-117)."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # thousands of digits, or of nested lists
        text = f"<{type(value).__name__}>"
    return text if len(text) <= longest else f"{text[:longest]}…"

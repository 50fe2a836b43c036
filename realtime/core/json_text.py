"""JSON that every parser accepts: what publishers send, and what is delivered of it.

Nothing is passed through raw: a raw newline would split a frame, and browsers cannot parse what
msgspec rejects (NaN, lone surrogates, invalid UTF-8). Everything that visits each value of the data
runs in C: a client may send 64 KiB of nothing but brackets, and walking them in Python took 5 ms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import singledispatch

import msgspec

from realtime.errors import InvalidData, TooLarge

ESCAPED = 6
"""Maximum number of bytes in which a client may write one byte of what we keep: ``\\u0041`` is A
(RFC 8259 §7). Two bytes of UTF-8 take 6, four take 12 (a surrogate pair), and a control character
keeps its size.
"""
DATA_LIMIT = 64 * 1024  # bytes of compact JSON; Centrifugo 64 KiB, Pusher 10 KB
STEP_CHARACTERS = 40
"""Of a key in the path to a value that is not JSON."""
DEPTH_LIMIT = 32  # nested arrays and objects; real data has 4 or 5, a stack overflow needs hundreds


class TooDeep(InvalidData):
    """The data may be JSON, but is nested too deeply to decode.

    How deep that is depends on the version of Python, so it is refused like data that was decoded
    and is nested too deeply.
    """


def decode_json(raw: bytes) -> object:
    """Decode JSON from outside.

    Raises:
        TooDeep: It is nested too deeply to find out.
        InvalidData: It is not JSON that every parser accepts.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidData(str(error)) from error
    except RecursionError as error:
        raise TooDeep(f"nested deeper than {DEPTH_LIMIT} levels") from error


def encode_json(
    value: object,
    field: str = "data",
    limit: int = DATA_LIMIT,
    depth: int = DEPTH_LIMIT,
    *,
    is_decoded: bool = False,
) -> bytes:
    """Return a value as compact JSON that every parser accepts, on one line.

    Args:
        value: Any JSON value as Python objects; see `to_json_type` for more types.
        field: Its name, for errors.
        limit: Maximum size, in bytes.
        depth: Maximum depth of nested arrays and objects.
        is_decoded: Whether `decode_json` returned it: then it is made of plain types and finite
            numbers, and what the encoder writes of it need not be scanned.

    Raises:
        InvalidData: It cannot be encoded as JSON, or is nested too deeply.
        TooLarge: It exceeds the limit, in bytes.
    """
    try:
        text = _encoder.encode(value)
        if len(text) > limit:
            raise TooLarge(field, len(text), limit)
        if is_deeper(text, depth):
            raise InvalidData(f"nested deeper than {depth} levels", field=field)
        if not is_decoded:
            _refuse_what_json_hides(value, text)
    except RecursionError as error:
        raise InvalidData(f"nested deeper than {depth} levels", field=field) from error
    except UnicodeEncodeError as error:
        reason = "a string contains a lone surrogate, which is not valid Unicode"
        raise InvalidData(reason, field=field, at=_place_of_flaw(value)) from error
    except (TypeError, ValueError, OverflowError, msgspec.DecodeError) as error:
        raise InvalidData(str(error), field=field, at=_place_of_flaw(value)) from error
    return text


@singledispatch
def to_json_type(value: object) -> object:
    """Convert a value that msgspec cannot encode itself into one that it can.

    Register a type to make its values publishable: outer rings know more types than this one.

    Raises:
        TypeError: The type is not registered.
    """
    raise TypeError(f"{type(value).__name__} is not JSON")


to_json_type.register(str, str.__str__)  # subclasses, such as Django's SafeString
to_json_type.register(int, int)
to_json_type.register(float, float)
to_json_type.register(Mapping, dict)


def canonicalize(text: bytes) -> bytes:
    """Return the canonical form of JSON: members sorted, 1.0 written as 1.

    Costs one decode and one encode: 1.3 µs for 200 bytes, 0.7 ms for 50 KiB, 5 ms for 64 KiB of
    fractions.
    """
    try:
        return _sorting.encode(_by_value(text))
    except msgspec.MsgspecError:  # `msgspec.Raw` with a number that does not fit a double
        return text


def is_deeper(text: bytes, levels: int) -> bool:
    """Return whether arrays and objects in valid JSON are nested deeper than this many levels.

    Each pass removes the innermost level. For 64 KiB the whole check takes 0.3 ms, at worst 4 ms
    (a thousand values, all nested to the limit).
    """
    if text.count(b"[") + text.count(b"{") <= levels:
        return False  # the usual case; brackets inside strings only cost a needless check
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Where one string ends and the next begins, two quotes are adjacent: they become one, which is
    # removed like each of them.
    quoted = unescaped.translate(_ONE_KIND, _OTHERS).replace(b'""', b"")
    brackets = b"".join(quoted.split(b'"')[::2])
    for _ in range(levels):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _number(text: str) -> int | float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("is not a double")
    return int(number) if number.is_integer() and abs(number) <= _EXACT else number


_EXACT = 2.0**53  # beyond it not every integer is a double, and 1e300 has 301 digits
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))
_sorting = msgspec.json.Encoder(order="sorted")
_by_value = msgspec.json.Decoder(float_hook=_number).decode
_encoder = msgspec.json.Encoder(enc_hook=to_json_type)
_scan = msgspec.json.Decoder(msgspec.Raw).decode
_encode_finite = json.JSONEncoder(allow_nan=False, skipkeys=True, check_circular=False).encode


def _refuse_what_json_hides(data: object, encoded: bytes) -> None:
    """Reject what the encoder lets through: junk in `msgspec.Raw`, and NaN.

    The encoder copies `msgspec.Raw` unread and writes NaN as ``null``, so numbers are only checked
    in data that contains a ``null``.
    """
    if b"\n" in encoded:
        raise ValueError("msgspec.Raw must be one line")
    _scan(encoded.decode())
    if b"null" in encoded:
        _refuse_nan(msgspec.to_builtins(data, enc_hook=to_json_type))


def _place_of_flaw(value: object) -> str:
    """Return the path to the first part that is not JSON, such as ``.items[3].price``.

    Empty if it is the whole value. Only called to describe an error, because each level is encoded
    again.
    """
    path = ""
    for _ in range(DEPTH_LIMIT):
        for step, part in _parts(value):
            if not _is_json(part):
                path, value = path + step, part
                break
        else:
            break
    return path


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            is_word = isinstance(key, str) and key.isidentifier() and len(key) <= STEP_CHARACTERS
            yield f".{key}" if is_word else f"[{ascii(key)[:STEP_CHARACTERS]}]", part
    elif isinstance(value, list | tuple | set | frozenset):
        for number, part in enumerate(value):
            yield f"[{number}]", part


def _is_json(part: object) -> bool:
    try:
        _refuse_what_json_hides(part, _encoder.encode(part))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.DecodeError):
        return False
    return True


def _refuse_nan(builtins: object) -> None:
    try:
        # msgspec has no option for this, and a walk in Python took 2 ms for 64 KiB.
        _encode_finite(builtins)
    except ValueError as error:
        raise ValueError("NaN and infinity are not JSON (RFC 8259 §6)") from error

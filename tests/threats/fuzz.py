"""Invalid bodies, messages, frames and handshakes, the same ones in every run.

`corpus/` holds cases that were found once or are worth keeping, one per file; all of them are sent
unchanged, and the other cases are derived from them. Each source is a generator of this many cases
for a seed.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.support.raw import BINARY, CLOSE, PING, PONG, TEXT, frame, handshake

CORPUS = Path(__file__).parent / "corpus"
SPECIAL = [
    *(b"\x00", b"\xff", b"\r\n", b"\n", b"\r", b"\x0b", b"\x0c", b"\x85", b"\x1c", b" ", b"\t"),
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"*", b"#", b"%00", b"NaN", b"1e999", b"-"),
    *(rb"\ud800", b"\xed\xa0\x80", b"\xc0\xaf", b"\xef\xbb\xbf", "\u2028\u202e".encode()),
    *(
        b"9" * 400,
        b"[" * 400,
        b'{"a":' * 400,
        b"a" * 300,
        b"null",
        b"true",
        b"18446744073709551616",
    ),
]


def corpus(kind: str) -> dict[str, bytes]:
    """Return the stored cases of a kind by name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / kind).iterdir())}


def mutated(chance: random.Random, case: bytes) -> bytes:
    """Return the case with one to four small errors."""
    made = bytearray(case)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(6):
            case 0:
                made[at:at] = chance.choice(SPECIAL)
            case 1:
                del made[at : at + chance.randint(1, 8)]
            case 2 if made:
                made[at % len(made)] ^= 1 << chance.randrange(8)
            case 3:
                made[at:at] = made[at : at + chance.randint(1, 40)]
            case 4:
                del made[at:]
            case _:
                made[at : at + 1] = chance.choice(SPECIAL)
    return bytes(made)


# --- bodies of the HTTP API, for Hypothesis ---

_texts = st.one_of(
    st.sampled_from(["public:fuzz", "fuzz", "nothing:fuzz", "fuzz#42", "", "*", "a\r\nb", "k"]),
    st.text(max_size=20),
)
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=10,
)
_fields = st.sampled_from(
    (
        *("channel", "channels", "data", "event", "tags", "idempotency_key", "fallback"),
        *("commands", "publish", "broadcast", "skip_history", "delta", "parallel", "b64data"),
    )
)
_publishes = st.fixed_dictionaries(
    {"channel": _texts, "data": _values},
    optional={
        "event": _texts,
        "tags": st.dictionaries(_texts, _texts | _values, max_size=3),
        "idempotency_key": _texts,
        "fallback": st.sampled_from(["log", "email"]) | _values,
        "fallback_when": st.sampled_from(["nobody", "always"]) | _values,
        "fallback_options": _values,
    },
)
_broadcasts = st.fixed_dictionaries(
    {"channels": st.lists(_texts, max_size=5), "data": _values}, optional={"tags": _values}
)
_batches = st.fixed_dictionaries(
    {
        "commands": st.lists(
            st.fixed_dictionaries({"publish": _publishes})
            | st.fixed_dictionaries({"broadcast": _broadcasts})
            | st.dictionaries(_fields, _values, max_size=2),
            max_size=5,
        )
    }
)
_written = (
    _publishes | _broadcasts | _batches | st.dictionaries(_fields, _values, max_size=5) | _values
).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))


def bodies() -> st.SearchStrategy[tuple[str, bytes]]:
    """Return a strategy of methods and bodies, intact and damaged ones."""
    kept = st.sampled_from(list(corpus("bodies").values()))
    seeds = st.integers(0, 2**32)
    damaged = st.builds(
        lambda case, seed: mutated(random.Random(seed), case), kept | _written, seeds
    )
    methods = st.sampled_from(["publish"] * 5 + ["broadcast", "batch"] * 3 + ["info"])
    return st.tuples(methods, _written | damaged | st.binary(max_size=200))


# --- messages of the wire protocol ---

_COMMANDS: list[Callable[[random.Random], dict[str, Any]]] = [
    lambda r: {"subscribe": {"channel": _channel(r)}},
    lambda r: {"unsubscribe": {"channel": _channel(r)}},
    lambda r: {"publish": {"channel": _channel(r), "data": _json(r)}},
    lambda r: {"ping": {}},
    lambda r: {"connect": {}},
    lambda r: {"refresh": {"token": _json(r)}},
    lambda r: {"sub_refresh": {"channel": _channel(r), "token": _json(r)}},
    lambda r: {"presence": {"channel": _channel(r)}},
    lambda r: {"history": _json(r)},
    lambda r: {"rpc": {"method": "x", "data": _json(r)}},
    lambda r: {_channel(r): _json(r)},
    lambda r: {"subscribe": _json(r), "publish": _json(r)},
]
_CHANNELS = ["public:fuzz", "chat:fuzz", "fuzz", "a#1", "", "*", "\x00", "a" * 256, "nothing:x"]
_LEAVES = [None, True, 0, -1, 2**53, 2**64, 1e308, "", "x", "\u2028", "\ud83d\ude00", "{}", "\n"]
_IDS = [*range(1, 9), 0, -1, 2**32 - 1, 2**32, 1.5, "1", None, True, [], 10**30]


def _channel(chance: random.Random) -> str:
    return chance.choice(_CHANNELS)


def _json(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(8 if depth < 4 else 6)
    if kind == 6:
        return [_json(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 7:
        return {chance.choice(_CHANNELS): _json(chance, depth + 1) for _ in range(3)}
    return chance.choice(_LEAVES)


def messages(seed: int, count: int) -> Iterator[bytes]:
    """Yield text frames, both valid and invalid ones."""
    chance = random.Random(seed)
    kept = list(corpus("messages").values())
    yield from kept
    for number in range(count - len(kept)):
        if number % 3 == 0:
            yield mutated(chance, chance.choice(kept))
            continue
        lines = [
            json.dumps({"id": chance.choice(_IDS)} | chance.choice(_COMMANDS)(chance)).encode()
            for _ in range(chance.choice((1, 1, 1, 2, 5)))
        ]
        said = b"\n".join(lines)
        yield said if number % 3 == 1 else mutated(chance, said)


# --- frames ---

_TEXTS = [
    b"",
    b"{}",
    b'{"id":1,"connect":{}}',
    b'{"id":2,"subscribe":{"channel":"public:fuzz"}}',
    b"\xff",
    b"\xe2\x82",
    b"\xed\xa0\x80",
    b"x" * 125,
    b"x" * 126,
    b"x" * 65_536,
    b"x" * 131_073,
]
_CODES = [0, 1, 999, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1009, 1015, 1016, 2999, 3000, 4999]
_CODES += [5000, 65_535]
_SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, 131_073, 2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def frames(seed: int, count: int) -> Iterator[bytes]:
    """Yield frames, most of them broken: opcodes, reserved bits, masks, lengths, close codes."""
    chance = random.Random(seed)
    kept = list(corpus("frames").values())
    yield from kept
    for _ in range(count - len(kept)):
        made = _frame(chance)
        yield mutated(chance, made) if chance.random() < 0.2 else made


def _frame(chance: random.Random) -> bytes:
    opcode = chance.choice((TEXT, TEXT, TEXT, BINARY, 0, CLOSE, PING, PONG, *range(16)))
    payload = chance.choice(_TEXTS[:8] if chance.random() < 0.95 else _TEXTS)
    if opcode == CLOSE:
        payload = struct.pack("!H", chance.choice(_CODES)) + payload[: chance.randrange(130)]
        payload = payload if chance.random() < 0.9 else payload[:1]
    return frame(
        opcode,
        payload,
        fin=chance.random() < 0.7,
        rsv=chance.randrange(8) if chance.random() < 0.1 else 0,
        mask=None if chance.random() < 0.05 else chance.randbytes(4),
        size=chance.choice(_SIZES) if chance.random() < 0.1 else None,
        wide=chance.choice((0, 0, 0, 16, 64)),
    )


# --- handshakes ---

_LINES = [
    *("Origin: http://127.0.0.1", "Origin: https://evil.example", "Origin: null", "Origin:"),
    *("Host: evil.example", "Host:", "Host: 127.0.0.1, evil.example", "X-Forwarded-For: 1.2.3.4"),
    *("Content-Length: 5", "Content-Length: -1", "Content-Length: 5, 5", "Content-Length: 1e3"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Transfer-Encoding : chunked"),
    *("Upgrade: websocket", "Upgrade: h2c, websocket", "Upgrade: WebSocket", "Upgrade:"),
    *("Connection: close", "Connection: keep-alive, Upgrade", "Connection: upgrade, upgrade"),
    *("Sec-WebSocket-Key: x", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Key:"),
    *("Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 13, 8", "Sec-WebSocket-Version: x"),
    *("Sec-WebSocket-Protocol: a, a", "Sec-WebSocket-Protocol:", "Sec-WebSocket-Protocol: \x7f"),
    *("Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Extensions: ;;=,"),
    *("Cookie: sessionid=x", "Cookie: " + "a=b; " * 500, "Cookie: sessionid=\udcff", "Expect: x"),
    *("X-A: a\x0bOrigin: x", "X-A: a\x0cb", "X-A: \x1c\x1d\x1e", "X-A: a\udc85b", "X-A: a\x00b"),
    *(" folded: x", "no colon", ": no name", "X\x00: y", "X-\udcff: y", "X-A: " + "a" * 9000),
    *("Expect: 100-continue", "Forwarded: for=_x", "Authorization: Basic !!", "TE: trailers"),
    *("X-A: \u20ac", "X-A: a\rb", "X-A: a\nb", "\tX: y", "X Y: z", "Range: bytes=0-"),
]
_VERBS = ["GET", "GET", "GET", "POST", "get", "PRI", "CONNECT", "G\x00T", "", "GET" * 50, "\udcff"]
_PATHS = [
    *("/connection/websocket", "/connection/websocket", "/connection/websocket?a=b", "*", "", "/"),
    *("/connection/websocket/", "//connection/websocket", "/connection/./websocket", "/%00", "/%"),
    *("/connection/websocket#x", "/connection/websocket?" + "a" * 9000, "/\udcff", "/\u20ac"),
    *("http://evil.example/connection/websocket", "/connection/websocket?token=%ff", "/x y", "?"),
    *("/connection/%77ebsocket", "/connection/websocket%0d%0aX: y", "/../etc/passwd", "/livez"),
]
_VERSIONS = [
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2.0",
    "HTTP/0.9",
    "",
    "HTTP/1.1 ",
]


def handshakes(seed: int, count: int) -> Iterator[bytes]:
    """Yield handshakes: odd, duplicate or missing headers, methods, paths, versions, lengths."""
    chance = random.Random(seed)
    kept = list(corpus("handshakes").values())
    yield from kept
    for number in range(count - len(kept)):
        made = _handshake(chance)
        yield mutated(chance, made) if number % 4 == 0 else made


def _handshake(chance: random.Random) -> bytes:
    line, *given = handshake().decode().removesuffix("\r\n\r\n").split("\r\n")
    given += chance.choices(_LINES, k=chance.choice((0, 1, 1, 1, 2)))
    if chance.random() < 0.3:
        del given[chance.randrange(len(given))]
    if chance.random() < 0.2:
        chance.shuffle(given)
    if chance.random() < 0.4:
        parts = chance.choice(_VERBS), chance.choice(_PATHS), chance.choice(_VERSIONS)
        line = " ".join(parts)
    end = chance.choice((*["\r\n"] * 18, "\n", "\r"))
    return (end.join([line, *given]) + end * 2).encode("utf-8", "surrogateescape")

"""What the host answers to clients."""

from __future__ import annotations

import threading
from typing import Any

from realtime.errors import Forbidden, InvalidData
from realtime.identity import Identity

said: list[Any] = []
held = threading.Event()


def answer(identity: Identity, method: str, data: Any) -> Any:
    if method == "":
        said.append(data)
        return None
    if method == "said":
        return said
    if method == "who":
        return {"user": identity.user, "data": data}
    if method == "forbid":
        raise Forbidden
    if method == "wrong":
        raise InvalidData("that is not how it goes")
    if method == "hold":
        return held.wait(10)
    if method == "release":
        held.set()
        return None
    if method == "nothing":
        return None
    if method == "no-json":
        return object()
    raise ValueError("a secret of the host")

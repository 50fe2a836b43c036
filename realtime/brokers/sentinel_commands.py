"""The questions to sentinels and to Redis that find the master, and what the replies mean.

A sentinel that was cut off for a while answers with an old master. Each failover has a new number,
the configuration epoch, so that the newest of several answers is known. And what a sentinel names
counts as the master only once it says so itself (ROLE): Redis' guidelines for Sentinel clients.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import exceptions

if TYPE_CHECKING:
    from realtime.brokers.script import Args
    from realtime.core.redis_url import Address

RETRY_SECONDS = 0.1
"""The shortest interval between two attempts to connect while there is no master."""
POLL_SECONDS = 0.25
"""The interval at which a node asks for the master; so a switch is noticed within 0.5 s."""
TRUSTED_SECONDS = 1.0
"""How long a publisher uses a connection before it asks again whether it leads to the master."""

EPOCH_SECONDS = 15.0
"""How long older answers are ignored. By then the former master is a replica; and sentinels that
were set up anew, which count from 0 again, are believed."""

ROLE: Args = ("ROLE",)


class MasterAnswer(NamedTuple):
    """The answer of one sentinel."""

    epoch: int
    address: Address


def ask_for_master(name: str) -> list[Args]:
    """Return the commands for a sentinel, whose replies `parse_answer` takes.

    The address in the reply to the second command is the older one until the failover has ended.
    """
    return [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name), ("SENTINEL", "MASTER", name)]


def parse_answer(replies: Sequence[Any]) -> MasterAnswer:
    """Parse the replies of a sentinel.

    Raises:
        RedisError: It refuses to answer, or knows no such master.
    """
    for reply in replies:
        if isinstance(reply, exceptions.RedisError):
            raise reply
    address, facts = replies
    if address is None:
        raise exceptions.ResponseError("No such master with that name")
    known = dict(zip(facts[::2], facts[1::2], strict=True))
    host, port = address
    return MasterAnswer(int(known.get(b"config-epoch", 0)), (host.decode(), int(port)))


class MasterChoice:
    """Chooses the master from the answers of sentinels, and remembers how new the last one was.

    After a failover, the other sentinels learn of it within two seconds. Until then, the majority
    may name the former master, which says that it still is one. A program that has moved must not
    be drawn back.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._epoch = 0
        self._counts_until = -math.inf

    def choose(
        self, answers: Sequence[MasterAnswer], errors: Sequence[Exception], now: float
    ) -> Address:
        """Return the address in the newest answer; of several, the one that most sentinels gave.

        Args:
            answers: The answers that came in time.
            errors: What came instead of others.
            now: The time, in seconds.

        Raises:
            ConnectionError: There is none, or none as new as the last one.
        """
        if not answers:
            reason = f": {errors[0]}" if errors else " in time"
            raise exceptions.ConnectionError(f"no sentinel named the master {self._name!r}{reason}")
        counts = Counter(answers)
        best = max(answers, key=lambda answer: (answer.epoch, counts[answer]))
        if best.epoch < self._epoch and now < self._counts_until:
            raise exceptions.ConnectionError(
                f"all sentinels that answered about {self._name!r} are out of date"
            )
        self._epoch, self._counts_until = best.epoch, now + EPOCH_SECONDS
        return best.address


def refuse_replica(role: Any, address: Address) -> None:
    """Check a reply to ROLE.

    Raises:
        RedisError: The server is not a master, or refuses to say.
    """
    if isinstance(role, exceptions.RedisError):
        raise role
    if role[0] != b"master":
        host, port = address
        raise exceptions.ConnectionError(f"{host}:{port}, named by the sentinels, is no master yet")

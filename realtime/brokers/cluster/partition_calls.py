"""Commands for one partition of a cluster, until each has a reply. Uses no socket and no clock.

While a slot moves, a master executes some of several commands and refuses others: those whose keys
have left. Only what was refused is sent again. The master that imports the slot must get nothing
else: it would take a key that it has not got yet for a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from realtime.brokers.cluster.slots import ASKING, RefusalKind, refusal_of
from realtime.brokers.commands import errors_of
from realtime.errors import BrokerUnavailable

if TYPE_CHECKING:
    from realtime.brokers.cluster.slots import NodeRefusal
    from realtime.brokers.script import Args, Script
    from realtime.core.partitions import Partition
    from realtime.core.redis_url import Address
    from realtime.errors import BrokerError


class PartitionCall:
    """See the module. Send `outgoing`, then pass the replies to `receive`, until `is_done`."""

    def __init__(
        self, partition: Partition, commands: Sequence[Args], script: Script | None = None
    ) -> None:
        """Start with nothing sent.

        Args:
            partition: The partition of all keys.
            commands: The commands.
            script: The script that every command calls, if they call one.
        """
        self.partition = partition
        self.can_continue = False
        """Whether it can be sent again at once: what a reply asks for has not been tried yet."""
        self._commands = commands
        self._script = script
        self._replies: list[Any] = [None] * len(commands)
        self._failure: BrokerError | None = None
        # The numbers of the commands to send, and where each was redirected with ASK.
        self._pending: dict[int, Address | None] = dict.fromkeys(range(len(commands)))
        self._loads_script = False
        # What the last `outgoing` has returned.
        self._sent: list[int] = []
        self._is_asking = False
        self._extra = 0

    @property
    def is_done(self) -> bool:
        """Whether no command has to be sent again."""
        return not self._pending

    @property
    def target(self) -> Address | None:
        """The master that imports the slot, if it has to be asked next; None for the owner."""
        return next((address for address in self._pending.values() if address), None)

    def outgoing(self) -> list[Args]:
        """Return the commands to send next, to `target` or to the owner."""
        target = self.target
        self._sent = [number for number, where in self._pending.items() if where == target]
        self._is_asking = target is not None
        commands: list[Args] = []
        if self._script is not None and (self._loads_script or self._is_asking):
            commands.append(self._script.load)
        self._extra = len(commands)
        for number in self._sent:
            if self._is_asking:
                commands.append(ASKING)
            commands.append(self._commands[number])
        return commands

    def receive(self, replies: Sequence[Any], address: Address) -> NodeRefusal | None:
        """Take the replies to `outgoing`; return a refusal with MOVED, if there is one.

        Args:
            replies: A reply or an error reply for each.
            address: Where they come from.
        """
        moved: NodeRefusal | None = None
        self._failure, self.can_continue = None, True
        answers = replies[self._extra :]
        if self._is_asking:
            answers = answers[1::2]
        for number, reply in zip(self._sent, answers, strict=True):
            self._replies[number] = reply
            if isinstance(reply, exceptions.NoScriptError) and self._script and not self._extra:
                self._loads_script = True
                self._pending[number] = None
                continue
            refusal = _refusal_of(reply, address)
            if refusal is None:
                del self._pending[number]
                continue
            is_redirected = refusal.kind is RefusalKind.ASK
            self._pending[number] = refusal.address if is_redirected else None
            if self._is_asking or not is_redirected:
                self.can_continue = False
            if refusal.kind is RefusalKind.MOVED:
                moved = refusal
        return moved

    def fail(self, error: BrokerError) -> None:
        """Record why there were no replies; `result` raises it unless replies arrive later.

        Args:
            error: After `BrokerUnavailable`, the commands can be sent again, to the owner. After
                anything else, they must not.
        """
        self._failure, self.can_continue = error, False
        is_certain = isinstance(error, BrokerUnavailable)
        self._pending = dict.fromkeys(self._pending) if is_certain else {}

    def result(self) -> list[Any]:
        """Return a reply or an error reply for each command.

        Raises:
            BrokerUnavailable: What was still to be sent was certainly not executed.
            OutcomeUnknown: Perhaps it was.
        """
        if self._failure is not None:
            raise self._failure
        return self._replies


def _refusal_of(reply: Any, address: Address) -> NodeRefusal | None:
    errors = errors_of([reply])
    # A script that has published something must not run again for the rest.
    if type(reply) is list and len(errors) < len(reply):
        return None
    return refusal_of(errors, address)

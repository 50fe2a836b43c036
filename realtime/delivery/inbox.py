"""The incoming commands of one client: parsed, throttled, and queued while they wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from sys import getsizeof
from typing import TYPE_CHECKING

from realtime.connection.decisions import Reply
from realtime.core.codes import LIMIT_EXCEEDED, TOO_MANY_COMMANDS, Close, Refusal
from realtime.core.limits import BYTES_PER_COMMAND, Bucket, Throttle, cost_of
from realtime.core.members import ANSWER_BYTES
from realtime.delivery.joining import Joining
from realtime.protocols import BadFrame, Call, Command, Connect, Immediate, Pong, Subscribe
from realtime.protocols import Publish as PublishCommand

if TYPE_CHECKING:
    from realtime.connection.client_state import ClientState
    from realtime.connection.writer import Writer
    from realtime.delivery.node_services import NodeServices

WAITING_COMMANDS = 256
"""Waiting commands; at this number, reading from the client pauses."""
WAITING_COMMANDS_BYTES = 256 * 1024
"""Size of the waiting commands; 256 publications of 64 KiB would cost 16 MiB per client."""

Step = Joining | Immediate | BadFrame | Reply
"""An element of the queue; a `Reply` refuses a command without validating it."""


class CommandReader:
    """Reads the frames of one client and applies the rate limits."""

    __slots__ = ("_address", "_budget", "_node", "_state", "_throttle", "_writer")

    def __init__(
        self, node: NodeServices, state: ClientState, writer: Writer, address: str
    ) -> None:
        self._node = node
        self._state = state
        self._writer = writer
        self._address = address
        self._throttle: Throttle | None = None  # None until the first command
        self._budget: Bucket | None = None  # None until the first publication

    def commands(self, frame: str | None) -> Iterator[Command | BadFrame | Reply]:
        """Yield the commands of a frame in order, not yet validated; pongs count immediately."""
        bad = None
        try:
            if frame is None:
                raise BadFrame("frames must be text")
            limits = self._node.limits
            is_known = self._state.connected
            most = limits.escaped_frame_bytes if is_known else limits.frame_bytes
            commands = self._writer.protocol.read(frame, most, limits.frame_commands)
        except BadFrame as error:
            commands, bad = list(error.good), error
            if error.limit:
                self._node.reached.count(error.limit)
        for command in commands:
            if isinstance(command, Pong) and self._writer.pong():
                continue
            why_not = self._check_rates(command)
            if isinstance(why_not, Close):
                self._writer.end(why_not)  # immediately: waiting commands are part of the flood
                return
            if isinstance(command, Pong):
                continue
            if why_not is None:
                yield command
            else:
                yield Reply(self._writer.protocol.encode_refusal(command, why_not))
        if bad is not None:
            yield bad

    def _check_rates(self, command: Command) -> Refusal | Close | None:
        """Return the refusal or close of a command that exceeds a rate limit."""
        if self._throttle is None:
            self._throttle = Throttle(self._node.limits.commands)
        now = asyncio.get_running_loop().time()
        cost = 1
        if isinstance(command, Connect):
            # Each of its `subs` is validated and answered like a subscribe, so it costs as much.
            cost += len(command.subs)
        elif isinstance(command, PublishCommand | Call):
            cost = cost_of(command.data)
        if (why_not := self._throttle.command(now, cost)) is not None:
            self._node.reached.count("commands_per_second")
            return why_not
        if isinstance(command, PublishCommand) and not self._may_publish(now, cost):
            self._node.reached.count("publications_per_second")
            return TOO_MANY_COMMANDS
        wanted = _subscriptions_in(command)
        if wanted and not self._node.subscriptions.take(self._address, wanted, now):
            self._node.reached.count("subscriptions_per_address")
            return TOO_MANY_COMMANDS
        return None

    def _may_publish(self, now: float, cost: int) -> bool:
        budgets = self._node.publications
        if self._budget is None:
            self._budget = budgets.take(self._address)
        # A large publication could otherwise never pass a small burst.
        return self._budget.take(now, min(cost, budgets.rate.burst))

    def release(self) -> None:
        """Leave the budget of publications to the next connection of this address."""
        if self._budget is not None:
            now = asyncio.get_running_loop().time()
            self._node.publications.give_back(self._address, self._budget, now)
            self._budget = None

    def refuse_debt(self) -> Refusal | None:
        """Return the refusal of a presence query, if earlier ones have not been paid for yet."""
        if self._throttle is None or not self._throttle.is_in_debt(
            asyncio.get_running_loop().time()
        ):
            return None
        self._node.reached.count("commands_per_second")
        return TOO_MANY_COMMANDS

    def charge(self, answer: str | Refusal) -> None:
        """Charge a presence query to the rate limit; its cost depends on the size of the answer."""
        size = len(answer)
        if isinstance(answer, Refusal):
            size = ANSWER_BYTES if answer.code == LIMIT_EXCEEDED.code else 0
        if self._throttle is not None:
            now = asyncio.get_running_loop().time()
            self._throttle.pay(now, size // BYTES_PER_COMMAND)


class CommandQueue:
    """The steps of one client that wait, in order; bounded by pausing the reader."""

    __slots__ = ("_bytes", "_space", "_steps")

    def __init__(self) -> None:
        self._steps: deque[tuple[Step, int]] = deque()  # with the bytes of each
        self._bytes = 0
        self._space: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Step]:
        return (step for step, _ in self._steps)

    @property
    def first(self) -> Step:
        """The step at the head."""
        return self._steps[0][0]

    @property
    def is_full(self) -> bool:
        """Whether so many commands wait that reading from the client must pause."""
        return len(self._steps) >= WAITING_COMMANDS or self._bytes >= WAITING_COMMANDS_BYTES

    def append(self, step: Step) -> None:
        """Add a step at the end; beyond the limits, the caller must wait for `space` first."""
        size = _bytes_of(step)
        self._steps.append((step, size))
        self._bytes += size

    def drop_first(self) -> None:
        """Remove the step at the head; executing it may have cleared the queue already."""
        if self._steps:
            _, size = self._steps.popleft()
            self._bytes -= size
            self._wake_reader()

    def clear(self) -> None:
        """Remove all steps: the connection has ended."""
        self._steps.clear()
        self._bytes = 0
        self._wake_reader()

    def space(self) -> asyncio.Future[None] | None:
        """Return what is done when the queue has room or is cleared; None if it has room."""
        if not self.is_full:
            return None
        if self._space is None or self._space.done():
            self._space = asyncio.get_running_loop().create_future()
        return self._space

    def _wake_reader(self) -> None:
        if self._space is not None and not self.is_full:
            if not self._space.done():  # cancelled together with the reader task
                self._space.set_result(None)
            self._space = None


def _subscriptions_in(command: Command) -> int:
    """Return how many channels a command subscribes to."""
    if isinstance(command, Connect):
        return len(command.subs)
    return 1 if isinstance(command, Subscribe) else 0


def _bytes_of(step: Step) -> int:
    """Return the memory taken by the fields of a step whose size a client controls.

    One character beyond the BMP makes Python use four bytes per character (PEP 393).
    """
    command = step.command if isinstance(step, Joining) else step
    names = ("data", "token", "method", "channel")
    size = sum(getsizeof(getattr(command, name, "")) for name in names)
    if isinstance(command, Connect):
        size += sum(getsizeof(each.channel) + getsizeof(each.token) for each in command.subs)
    return size

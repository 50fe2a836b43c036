"""Runs something in several partitions at the same time: where one fails, the others go on."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from realtime.core.partitions import partition_of
from realtime.errors import BrokerError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class PartitionResults(NamedTuple, Generic[_Result]):
    """The results of partitions and the errors of others, by the number of the partition."""

    results: Mapping[int, _Result]
    errors: Mapping[int, BrokerError]

    def raise_if_any_failed(self) -> None:
        """Raise one of the errors, if there are any."""
        for error in self.errors.values():
            raise error

    def raise_if_all_failed(self) -> None:
        """Raise one of the errors, if there are no results."""
        if not self.results:
            self.raise_if_any_failed()


async def gather(
    numbers: Iterable[int], run: Callable[[int], Awaitable[_Result]]
) -> PartitionResults[_Result]:
    """Run something in partitions, by their numbers, and wait for all of them.

    What they send in the first turn of the event loop is one write for each master.
    """
    results: dict[int, _Result] = {}
    errors: dict[int, BrokerError] = {}

    async def run_in(number: int) -> None:
        try:
            results[number] = await run(number)
        except BrokerError as error:
            errors[number] = error

    async with asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(run_in(number))
    return PartitionResults(results, errors)


def by_partition(
    items: Iterable[_Item], channel_of: Callable[[_Item], str]
) -> dict[int, list[_Item]]:
    """Return items in their order, by the number of the partition of their channel."""
    grouped: defaultdict[int, list[_Item]] = defaultdict(list)
    for item in items:
        grouped[partition_of(channel_of(item)).number].append(item)
    return dict(grouped)

"""The cost of publishing for a Django process with the app: `publish()` and `apublish()`.

python -m bench.publishing REDIS_URL COUNT
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable

import django
from django.conf import settings

DATA = {"text": "x" * 100}
AT_ONCE = 32


def measured(work: Callable[[], None], count: int) -> tuple[float, float]:
    """Return publishes per second, and microseconds of CPU time for each."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return count / seconds, cpu / count * 1e6


def main(redis_url: str, count: int) -> None:
    """Measure, and print JSON."""
    settings.configure(INSTALLED_APPS=["realtime"], REALTIME_REDIS_URL=redis_url)
    django.setup()
    from realtime import apublish, publish
    from realtime.wiring import aclose

    def in_turn() -> None:
        for _ in range(count):
            publish("public:bench", DATA)

    async def one_by_one(times: int) -> None:
        for _ in range(times):
            await apublish("public:bench", DATA)

    async def at_once() -> None:
        await asyncio.gather(*[one_by_one(count // AT_ONCE) for _ in range(AT_ONCE)])
        await aclose()

    async def alone() -> None:
        await one_by_one(count)
        await aclose()

    publish("public:bench", DATA)  # connect
    sync = measured(in_turn, count)
    single = measured(lambda: asyncio.run(alone()), count)
    many = measured(lambda: asyncio.run(at_once()), count)
    names = ("publish()", "apublish()", f"apublish(), {AT_ONCE} at once")
    row: dict[str, float] = {}
    for name, (rate, cost) in zip(names, (sync, single, many), strict=True):
        row |= {f"{name}/s": rate, f"{name} CPU µs": cost}
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

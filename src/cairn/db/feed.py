"""Wake-ups: hints that something changed, inside this process.

Topics are strings: "compute.placer", "node:<id>". Whoever waits must look at the database itself; a lost
hint costs a timer's period, never correctness. On PostgreSQL the same hints cross processes.
"""

import asyncio
from collections import defaultdict


class Feed:
    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    def wake(self, topic: str) -> None:
        for flag in self._waiting.get(topic, ()):
            flag.set()

    def subscribe(self, *topics: str) -> asyncio.Event:
        """An event that each hint on one of `topics` sets; the subscriber clears it before it looks."""
        flag = asyncio.Event()
        for topic in topics:
            self._waiting[topic].add(flag)
        return flag

    def unsubscribe(self, flag: asyncio.Event) -> None:
        for topic in [t for t, flags in self._waiting.items() if flag in flags]:
            self._waiting[topic].discard(flag)
            if not self._waiting[topic]:
                del self._waiting[topic]

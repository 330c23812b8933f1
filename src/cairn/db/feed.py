"""Wake-ups: hints that something changed, inside this process.

Topics are strings: "compute.placer", "node:<id>". Whoever waits must look at the database itself; a lost
hint costs a timer's period, never correctness. On PostgreSQL the same hints cross processes (notify.py).
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable

EVERYTHING = "*"
"""The topic of all topics: hints may have been lost, so that everybody must look."""


class Feed:
    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._listeners: list[tuple[str, Callable[[str], None]]] = []

    def wake(self, topic: str) -> None:
        if topic == EVERYTHING:
            self.wake_all()
            return
        for flag in self._waiting.get(topic, ()):
            flag.set()
        for prefix, do in self._listeners:
            if topic.startswith(prefix):
                do(topic)

    def listen(self, prefix: str, do: Callable[[str], None]) -> None:
        """Call `do` with each topic that begins so, and with EVERYTHING: for those who look after
        thousands of topics."""
        self._listeners.append((prefix, do))

    def wake_all(self) -> None:
        """Wake everybody, because nobody knows who missed what."""
        for flags in self._waiting.values():
            for flag in flags:
                flag.set()
        for _, do in self._listeners:
            do(EVERYTHING)

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

"""Reconcilers: small loops that look at the database and make one thing true.

A round takes no input: timer and nudge run the same code, so the rare path is the daily one. A round is
repeatable at any point and on two processes at once; it does not retry, the next round does.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from cairn.core import log
from cairn.core.clock import Clock
from cairn.db.feed import Feed

_log = log.get("reconcile")


class Round(Struct, frozen=True, kw_only=True):
    """What one round came to."""

    found: int = 0
    done: int = 0
    failed: tuple[str, ...] = ()  # "volume 7f…: full"


class Reconciler(Protocol):
    name: str  # "compute.placer"; hints on this topic start a round
    period_s: float

    async def run_once(self) -> Round: ...


class RoundRecord(Struct, kw_only=True):
    """The last round of a reconciler, for operators."""

    name: str
    rounds: int = 0
    last: Round | None = None
    last_at: datetime | None = None
    trouble: str | None = None  # the bug that ended the last round


class Runner:
    """Runs every reconciler: at once, at each hint, and each period in case a hint was lost."""

    def __init__(self, reconcilers: Sequence[Reconciler], feed: Feed, clock: Clock) -> None:
        self._reconcilers = tuple(reconcilers)
        self._feed = feed
        self._clock = clock
        self.records = {r.name: RoundRecord(name=r.name) for r in self._reconcilers}

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reconciler in self._reconcilers:
                group.create_task(self._loop(reconciler), name=reconciler.name)

    async def _loop(self, reconciler: Reconciler) -> None:
        flag = self._feed.subscribe(reconciler.name)
        try:
            while True:
                flag.clear()
                await self._round(reconciler)
                try:
                    async with asyncio.timeout(reconciler.period_s):
                        await flag.wait()
                except TimeoutError:
                    continue
        finally:
            self._feed.unsubscribe(flag)

    async def _round(self, reconciler: Reconciler) -> None:
        record = self.records[reconciler.name]
        try:
            record.last = await reconciler.run_once()
            record.trouble = None
        except Exception as error:  # The top of a task: a bug stops the round, not the process.
            record.trouble = f"{type(error).__name__}: {error}"
            _log.exception("round failed", reconciler=reconciler.name)
        record.rounds += 1
        record.last_at = self._clock.now()
        if record.last is not None and record.last.failed:
            _log.warning("round", reconciler=reconciler.name, failed=record.last.failed)

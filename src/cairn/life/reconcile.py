"""Reconcilers: small loops that look at the database and make one thing true.

A round takes no input: timer and hint run the same code, so the rare path is the daily one. A round is
repeatable at any point and on two processes at once; it does not retry, the next round does. It says
itself when it wants the next one: where nothing waits for time to pass, nothing is asked, so that a cloud
at rest costs its database nothing.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from cairn.core import log
from cairn.core.clock import Clock
from cairn.db.feed import Feed

BROKEN_PAUSE_S = 10.0  # before a round that ended with a bug is tried again

_log = log.get("reconcile")


class Round(Struct, frozen=True, kw_only=True):
    """What one round came to."""

    found: int = 0
    done: int = 0
    failed: tuple[str, ...] = ()  # "volume 7f…: full"
    again_s: float | None = (
        None  # look again after so long even without a hint; None: only at a hint
    )


class Reconciler(Protocol):
    name: str  # "compute.placer"; hints on this topic start a round

    async def run_once(self) -> Round: ...


class RoundRecord(Struct, kw_only=True):
    """The last round of a reconciler, for operators."""

    name: str
    rounds: int = 0
    last: Round | None = None
    last_at: datetime | None = None
    trouble: str | None = None  # the bug that ended the last round
    seconds: float = 0.0  # of all rounds
    found: int = 0
    done: int = 0
    failures: int = 0  # rounds that a bug ended, and what the others could not do
    last_ok_at: datetime | None = None


class Runner:
    """Runs every reconciler: at once, at each hint, and when its last round asked for it."""

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
                again_s = await self._round(reconciler)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(again_s):
                        await flag.wait()
        finally:
            self._feed.unsubscribe(flag)

    async def _round(self, reconciler: Reconciler) -> float | None:
        """Run one; after how many seconds it wants the next."""
        record = self.records[reconciler.name]
        started_s = time.perf_counter()
        try:
            record.last = await reconciler.run_once()
            record.trouble = None
            again_s = record.last.again_s
        except Exception as error:  # The top of a task: a bug stops the round, not the process.
            record.trouble = f"{type(error).__name__}: {error}"
            again_s = BROKEN_PAUSE_S
            _log.exception("round failed", reconciler=reconciler.name)
        record.rounds += 1
        record.last_at = self._clock.now()
        record.seconds += time.perf_counter() - started_s
        _count(record)
        if record.last is not None and record.last.failed:
            _log.warning("round", reconciler=reconciler.name, failed=record.last.failed)
        return again_s


def _count(record: RoundRecord) -> None:
    if record.trouble is not None:
        record.failures += 1
    elif record.last is not None:
        record.found += record.last.found
        record.done += record.last.done
        record.failures += len(record.last.failed)
        record.last_ok_at = record.last_at

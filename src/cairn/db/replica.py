"""Reads from a replica that can serve them: one that has seen all that was committed before they began.

A route says that it may be answered so (http/routes.py, `stale_ok`). Each such read first asks the primary
how far its log is on disk, which costs no table and no snapshot and is asked once for all reads that came
meanwhile; then the replica is taken only if it has replayed that far. So nobody misses a write that was
acknowledged to anybody before the question, through whichever control process it went: a client's own
writes need no bookkeeping. Where the replica is behind, or gone, the primary answers.

This holds for `synchronous_commit = on`, PostgreSQL's default, which Cairn needs anyway: without it a
commit that was acknowledged may be lost in a power cut.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from cairn.core import log

CATCH_UP_S = 0.05  # for which a read waits for the replica before it goes to the primary
LOOK_S = 0.002
AVOID_S = 10.0  # after a failure the replica is left alone for so long

_FLOOR = text("SELECT pg_current_wal_flush_lsn()::text")
_IS_CURRENT = text("SELECT pg_last_wal_replay_lsn() >= CAST(:floor AS pg_lsn)")
_log = log.get("db.replica")


class Behind(Exception):
    """The replica cannot answer now."""


class Replica:
    """One replica of the primary behind `primary`."""

    def __init__(self, url: str, primary: Engine, threads: Executor) -> None:
        self._engine = create_engine(
            url, pool_size=8, max_overflow=8, isolation_level="REPEATABLE READ"
        ).execution_options(postgresql_readonly=True)
        self._primary = primary.execution_options(isolation_level="AUTOCOMMIT")
        self._threads = threads
        self._waiting: list[asyncio.Future[str]] = []
        self._is_asking = False
        self._avoid_until_s = 0.0
        self.reads_total = 0  # that the replica has answered
        self.behind_total = 0  # that went to the primary instead

    async def read(self, work: Callable[[Connection], Any]) -> Any:
        """What `work` reads there. Raises Behind."""
        if time.monotonic() < self._avoid_until_s:
            self.behind_total += 1
            raise Behind
        floor = await self._floor()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._read_from, floor, work)

    @property
    def is_avoided(self) -> bool:
        """Whether it failed a moment ago, so that nobody asks it now."""
        return time.monotonic() < self._avoid_until_s

    def close(self) -> None:
        self._engine.dispose()

    async def _floor(self) -> str:
        """How far the primary's log was on disk at some moment after the call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        self._waiting.append(future)
        if not self._is_asking:
            self._is_asking = True
            self._task = loop.create_task(self._ask(), name="replica floor")
        return await future

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                try:
                    floor = await loop.run_in_executor(self._threads, self._ask_primary)
                except Exception as error:
                    for future in asked:
                        if not future.done():
                            future.set_exception(Behind(str(error)))
                else:
                    for future in asked:
                        if not future.done():
                            future.set_result(floor)
        finally:
            self._is_asking = False

    def _ask_primary(self) -> str:
        with self._primary.connect() as connection:
            return str(connection.execute(_FLOOR).scalar_one())

    def _read_from(self, floor: str, work: Callable[[Connection], Any]) -> Any:
        try:
            connection = self._engine.connect()
        except DBAPIError as error:
            self._avoid(error)
            raise Behind from error
        with connection:
            try:
                self._wait_until_current(connection, floor)
                result = work(connection)
            except DBAPIError as error:
                # Lost, or cancelled because the primary removed what the snapshot still needed.
                self._avoid(error)
                raise Behind from error
            finally:
                if not connection.invalidated:
                    connection.rollback()
        self.reads_total += 1
        return result

    def _wait_until_current(self, connection: Connection, floor: str) -> None:
        deadline = time.monotonic() + CATCH_UP_S
        while True:
            is_current = connection.execute(_IS_CURRENT, {"floor": floor}).scalar()
            # The snapshot of the read must be younger than this answer.
            connection.rollback()
            if is_current is None:  # It is a primary itself: somebody promoted it.
                raise Behind
            if is_current:
                return
            if time.monotonic() > deadline:
                self.behind_total += 1
                raise Behind
            time.sleep(LOOK_S)

    def _avoid(self, error: Exception) -> None:
        self.behind_total += 1
        self._avoid_until_s = time.monotonic() + AVOID_S
        _log.warning("replica left alone", seconds=AVOID_S, because=str(error).splitlines()[0])

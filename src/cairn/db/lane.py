"""PostgreSQL's writes: one transaction at a time in the whole cloud, with all that has queued up here.

Nearly every write of a cloud meets another one on some row (a project's quota, the number of the host that
writes a zone's network), so that transactions side by side would mostly clash and be made again, dearer
than having waited (measured: docs/decisions/0008). So each takes one lock first, for all control processes,
and what has gathered meanwhile is done within one: a savepoint each, one commit for all. A process that
falls silent while it has the lock is cut off by the database.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from cairn.core.errors import Unavailable
from cairn.db.stats import Stats

TRIES_MAX = 3  # when the connection is lost: a server that is restarted, or replaced by its replica
PAUSE_S = 0.2  # before the second; doubled for the third
_LOST = ("08", "57P", "25P03")  # SQLSTATE: connection exceptions, shutdowns, cut off for silence
GROUP_MAX = 64  # writes that share one commit
SILENCE_MS_MAX = 10_000  # in a transaction, after which the database ends it
WAIT_MS_MAX = (
    30_000  # for the lane, after which a write is refused: a request would be given up anyway
)
_LOCK = text("SELECT pg_advisory_xact_lock(109270032084599)")  # "cairnw" in ASCII
_SAVEPOINT, _UNDO, _KEEP = (
    "SAVEPOINT verb",
    "ROLLBACK TO SAVEPOINT verb; RELEASE SAVEPOINT verb",
    "RELEASE SAVEPOINT verb",
)

Attempt = Callable[[Connection], tuple[Any, Any]]
"""Runs a verb; its result and its transaction's record."""


class Outcome(NamedTuple):
    future: "asyncio.Future[Any]"
    result: Any
    tx: Any  # None: it failed
    failure: BaseException | None


def is_lost(error: Exception) -> bool:
    """Whether the connection, and not the statement, is what failed."""
    cause = getattr(error, "orig", error)
    if not isinstance(cause, psycopg.OperationalError):
        return False
    return cause.sqlstate is None or cause.sqlstate.startswith(_LOST)


def begin(connection: Connection) -> None:
    """Wait until no other process writes. The transaction's first statement."""
    connection.execute(_LOCK)


class Lane:
    """This process's way into the lane."""

    def __init__(
        self,
        engine: Engine,
        *,
        publish: Callable[[Any], None],
        translate: Callable[[DBAPIError], Exception],
        stats: Stats,
    ) -> None:
        self._engine = engine
        self._publish = publish
        self._translate = translate
        self._stats = stats
        self._began_s = 0.0
        self._waiting: deque[tuple[Attempt, asyncio.Future[Any]]] = deque()
        self._is_busy = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="db-write")

    def submit(self, attempt: Attempt) -> "asyncio.Future[Any]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((attempt, future))
        if not self._is_busy:
            self._is_busy = True
            self._start(loop)
        return future

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        group: list[tuple[Attempt, asyncio.Future[Any]]] = []
        while self._waiting and len(group) < GROUP_MAX:
            attempt, future = self._waiting.popleft()
            # A caller that gave up before we began gets nothing done; once begun, it is done.
            if not future.cancelled():
                group.append((attempt, future))
        if not group:
            self._is_busy = False
            return
        self._began_s = time.perf_counter()
        try:
            work = loop.run_in_executor(self._thread, self._run, group)
        except RuntimeError:  # Closed: the process ends, and nothing of this was begun.
            for _, future in group:
                if not future.done():
                    future.set_exception(Unavailable("The control process ends; try again."))
            self._is_busy = False
            return
        # In the thread's own words: whoever asked may have given up meanwhile.
        work.add_done_callback(lambda done: self._finish(loop, group, done))

    def _run(self, group: Sequence[tuple[Attempt, "asyncio.Future[Any]"]]) -> list[Outcome]:
        """In the lane's thread: all of the group, or an exception and none of it."""
        for tries in range(TRIES_MAX):
            is_committing = False
            try:
                with self._engine.connect() as connection:
                    begin(connection)
                    outcomes = self._attempt_all(connection, group)
                    is_committing = True
                    connection.commit()
                    return outcomes
            except (DBAPIError, psycopg.Error) as error:
                # Once the commit was sent, nobody knows what became of it: then it is not made again.
                if is_committing or not is_lost(error) or tries == TRIES_MAX - 1:
                    raise
                self._stats.retries += 1
                time.sleep(PAUSE_S * 2**tries)
        raise AssertionError("the last try raises or returns")

    def _attempt_all(
        self, connection: Connection, group: Sequence[tuple[Attempt, "asyncio.Future[Any]"]]
    ) -> list[Outcome]:
        if len(group) == 1:
            attempt, future = group[0]
            return [Outcome(future, *attempt(connection), None)]
        return [self._attempt(connection, attempt, future) for attempt, future in group]

    def _attempt(
        self, connection: Connection, attempt: Attempt, future: "asyncio.Future[Any]"
    ) -> Outcome:
        raw = connection.connection.cursor()
        raw.execute(_SAVEPOINT)
        try:
            result, tx = attempt(connection)
        except Exception as error:
            raw.execute(_UNDO)
            return Outcome(future, None, None, self._told(error))
        raw.execute(_KEEP)
        return Outcome(future, result, tx, None)

    def _told(self, error: BaseException) -> BaseException:
        """As the caller hears of it."""
        if isinstance(error, DBAPIError):
            return self._translate(error)
        if isinstance(error, psycopg.Error):
            return Unavailable("The database cannot be reached or is full.", because=str(error))
        return error

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        group: Sequence[tuple[Attempt, "asyncio.Future[Any]"]],
        done: "asyncio.Future[list[Outcome]]",
    ) -> None:
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is not None:
            cause = self._told(error)
            outcomes = [Outcome(future, None, None, cause) for _, future in group]
        else:
            outcomes = done.result()
        failed = sum(outcome.tx is None for outcome in outcomes)
        self._stats.grouped(len(outcomes), failed, time.perf_counter() - self._began_s)
        settle(outcomes, self._publish)
        self._start(loop)


def settle(outcomes: Iterable[Outcome], publish: Callable[[Any], None]) -> None:
    """The group is committed: publish what each verb asked for, and tell each caller what came of it."""
    for outcome in outcomes:
        if outcome.tx is not None:
            # Not left to the caller, who may have given up while it was done.
            publish(outcome.tx)
        if outcome.future.done():
            continue
        if outcome.failure is not None:
            outcome.future.set_exception(outcome.failure)
        else:
            outcome.future.set_result(outcome.result)

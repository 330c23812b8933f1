"""Transactions: the only way to the database.

A verb is a plain function on a `Tx`. `Database.write(verb)` runs it in one transaction, all or nothing,
and `Database.read(verb)` on a snapshot. On SQLite both run in place, on the thread of the event loop (a
hand-over to another thread costs more than the verb), and only the commit, an fsync for a whole group of
writes, waits in a thread of its own. On PostgreSQL both run in threads, and writes one after the other in
the whole cloud (lane.py). Never await inside a transaction.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Engine, create_engine, event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql.base import Executable

from cairn.core import log
from cairn.core.clock import Clock, SystemClock
from cairn.core.errors import Conflict, Invalid, Unavailable
from cairn.core.ids import Randomness, SystemRandomness, new_hex_id, new_uuid
from cairn.db import lane
from cairn.db.columns import metadata
from cairn.db.prepared import Prepared, Result
from cairn.db.replica import Behind, Replica
from cairn.db.stats import Stats

T = TypeVar("T")
Verb = Callable[["Tx"], T]
Wake = Callable[[str], None]
_NOTHING: Mapping[str, Any] = {}

_log = log.get("db")
GROUP_MAX = 256  # writes that share one commit: more would only make the first wait longer
GROUP_S = 0.02  # for which writes may hold the event loop before others get their turn
TRIES_MAX = 8  # a serialisation failure is repeated this often before the caller hears of it
CLASH_PAUSE_S = 0.002  # before the first repetition, at most; doubled each time


class Tx:
    """One transaction: statements, its time, ids, and what to do once it is committed."""

    def __init__(
        self, connection: Connection, *, now: datetime, randomness: Randomness, writes: bool
    ) -> None:
        self._connection = connection
        self.now = now
        self.writes = writes
        self.statements = 0
        self._cursor: Any = None
        self.wakes: set[str] = set()
        self.after: list[Callable[[], None]] = []
        self._randomness = randomness

    def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Run one SQLAlchemy Core statement."""
        self.statements += 1
        return self._connection.execute(statement, parameters)

    def run(self, prepared: Prepared, parameters: Mapping[str, Any] = _NOTHING) -> Result:
        """Run a prepared statement: the same as `execute`, at a third of its cost."""
        self.statements += 1
        form = prepared.form(self._connection.dialect)
        try:
            return form.run(self._raw(), parameters)
        except form.errors as error:
            raise form.wrapped(error) from error

    def run_many(self, prepared: Prepared, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run a prepared statement once for each row, as one statement; how many rows it changed."""
        if not rows:
            return 0
        self.statements += 1
        form = prepared.form(self._connection.dialect)
        try:
            return form.run_many(self._raw(), rows)
        except form.errors as error:
            raise form.wrapped(error) from error

    def _raw(self) -> Any:
        """A cursor of the driver's own, within the same transaction."""
        if self._cursor is None:
            self._cursor = self._connection.connection.cursor()
        return self._cursor

    def new_id(self) -> str:
        return new_uuid(self._randomness)

    def new_hex_id(self) -> str:
        """32 hex digits, for identity's resources."""
        return new_hex_id(self._randomness)

    def random_bytes(self, count: int) -> bytes:
        return self._randomness.token_bytes(count)

    def wake(self, topic: str) -> None:
        """After the commit, tell whoever waits for `topic` to look. A hint: nothing may depend on it."""
        self.wakes.add(topic)

    def after_commit(self, do: Callable[[], None]) -> None:
        """Run `do` on the event loop after the commit. For caches in this process only."""
        self.after.append(do)


class Database:
    """One database, SQLite or PostgreSQL, behind `read` and `write`.

    `inline=True` runs writes on the caller's thread: for tests and the simulator, where the order of
    everything must follow from the seed.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        randomness: Randomness | None = None,
        inline: bool = False,
        replica_url: str = "",
    ) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        self._clock = clock or SystemClock()
        self._randomness = randomness or SystemRandomness()
        self._inline = inline or url in _IN_MEMORY  # whose one connection serves reads and writes
        self._wakers: list[Wake] = []
        self.statements_total = 0
        self.stats = Stats()
        self.engine = _sqlite(url) if self.is_sqlite else _postgresql(url)
        # A snapshot that only reads cannot clash, so it needs no serialisation and no repetition.
        self._read_engine = (
            self.engine
            if self.is_sqlite
            else self.engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        )
        self._writer: _GroupWriter | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._lane: lane.Lane | None = None
        self._reader: Connection | None = None
        if self.is_sqlite and not self._inline:
            self._writer = _GroupWriter(self)
        elif not self._inline:
            self._threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="db")
            self._lane = lane.Lane(
                self.engine, publish=self._publish, translate=translated, stats=self.stats
            )
        self.replica: Replica | None = None
        if replica_url and self._threads is not None:
            self.replica = Replica(replica_url, self.engine, self._threads)

    def create_all(self) -> None:
        """Make every table at once: for tests; installations migrate (db/migrations)."""
        metadata.create_all(self.engine)

    @property
    def waiting(self) -> int:
        """Writes that have queued up."""
        queue = self._writer or self._lane
        return queue.waiting if queue is not None else 0

    def on_wake(self, waker: Wake) -> None:
        """Call `waker(topic)` on the event loop for each topic of a committed transaction."""
        self._wakers.append(waker)

    def wake(self, topic: str) -> None:
        """Hand on a hint that came from elsewhere (notify.py). On the event loop only."""
        for waker in self._wakers:
            waker(topic)

    async def read(self, verb: Verb[T], *, stale_ok: bool = False) -> T:
        """`stale_ok`: a replica may answer, if there is one that is current enough (replica.py)."""
        if stale_ok and self.replica is not None:
            with contextlib.suppress(Behind):
                result: T = await self.replica.read(lambda c: verb(self._tx(c, writes=False)))
                return result
        if self._threads is not None:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self.read_now, verb
            )
        return self.read_now(verb)

    async def write(self, verb: Verb[T]) -> T:
        if self._writer is not None:
            return await self._writer.submit(verb)  # type: ignore[no-any-return]
        if self._lane is not None:
            return await self._lane.submit(  # type: ignore[no-any-return]
                lambda connection: self._attempt(connection, verb)
            )
        return self.write_now(verb)

    def read_now(self, verb: Verb[T]) -> T:
        """`read` on the calling thread."""
        started_s = time.perf_counter()
        outcome = "failed"
        try:
            result = self._read_now(verb)
            outcome = "ok"
            return result
        finally:
            self.stats.ended["read", outcome] += 1
            self.stats.read_seconds.add(time.perf_counter() - started_s)

    def _read_now(self, verb: Verb[T]) -> T:
        if self.is_sqlite and not self._inline and threading.current_thread() is _MAIN:
            return self._read_in_place(verb)
        if self.is_sqlite:
            return self._read_once(verb)
        try:
            return self._read_once(verb)
        except DBAPIError as error:
            if not lane.is_lost(error):
                raise translated(error) from error
        try:  # The server was restarted, or its replica took over: the pool connects anew.
            return self._read_once(verb)
        except DBAPIError as error:
            raise translated(error) from error

    def _read_once(self, verb: Verb[T]) -> T:
        with self._read_engine.connect() as connection:
            tx = self._tx(connection, writes=False)
            try:
                return verb(tx)
            finally:
                self.statements_total += tx.statements
                connection.rollback()

    def write_now(self, verb: Verb[T]) -> T:
        """`write` on the calling thread, before the event loop runs or inline."""
        started_s, failed = time.perf_counter(), 1
        try:
            result, tx = self._write_whole(verb)
            failed = 0
        finally:
            self.stats.grouped(1, failed, time.perf_counter() - started_s)
        self._publish(tx)
        return result

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._threads is not None:
            self._threads.shutdown(wait=True)
        if self._lane is not None:
            self._lane.close()
        if self.replica is not None:
            self.replica.close()
        if self._reader is not None:
            self._reader.close()
        self.engine.dispose()

    def _read_in_place(self, verb: Verb[T]) -> T:
        """One connection kept open by the main thread: opening one costs more than a point read."""
        if self._reader is None:
            self._reader = self.engine.connect()
        tx = self._tx(self._reader, writes=False)
        try:
            return verb(tx)
        finally:
            self.statements_total += tx.statements
            self._reader.rollback()

    def _tx(self, connection: Connection, *, writes: bool) -> Tx:
        return Tx(connection, now=self._clock.now(), randomness=self._randomness, writes=writes)

    def _write_whole(self, verb: Verb[T]) -> tuple[T, Tx]:
        for tries in range(TRIES_MAX):
            if tries:  # Those who clashed must not meet again at once.
                self.stats.retries += 1
                time.sleep(random.random() * CLASH_PAUSE_S * 2**tries)  # noqa: S311
            try:
                with self.engine.begin() as connection:
                    if not self.is_sqlite:
                        lane.begin(connection)
                    return self._attempt(connection, verb)
            except DBAPIError as error:
                if not _is_worth_repeating(error):
                    raise translated(error) from error
        raise Unavailable("The database is too busy; try again.", because="serialisation failures")

    def _attempt(self, connection: Connection, verb: Verb[T]) -> tuple[T, Tx]:
        tx = self._tx(connection, writes=True)
        try:
            return verb(tx), tx
        finally:
            self.statements_total += tx.statements

    def _publish(self, tx: Tx) -> None:
        for do in tx.after:
            do()
        for topic in sorted(tx.wakes):
            self.wake(topic)


class _GroupWriter:
    """SQLite's writes: what has queued up runs in one go, a savepoint each, with one commit for all.

    Verbs run on the event loop's thread; the commit waits for the disk in a thread of its own, and what
    comes meanwhile is the next group.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[tuple[Verb[Any], asyncio.Future[Any]]] = deque()
        self._is_busy = False
        self._connection: Connection | None = None
        self._committer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="db-commit")
        self._began_s = 0.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, verb: Verb[Any]) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((verb, future))
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._run_group, loop)
        return future

    def close(self) -> None:
        self._committer.shutdown(wait=True)
        if self._connection is not None:
            self._connection.close()

    def _run_group(self, loop: asyncio.AbstractEventLoop) -> None:
        outcomes: list[lane.Outcome] = []
        self._began_s = time.perf_counter()
        try:
            raw = self._begin()
            ends_s = time.monotonic() + GROUP_S
            while self._waiting and len(outcomes) < GROUP_MAX and time.monotonic() < ends_s:
                verb, future = self._waiting.popleft()
                # A caller that gave up before we began gets nothing done; once begun, it is done.
                if not future.cancelled():
                    outcomes.append(self._attempt(raw, verb, future))
        except BaseException as error:
            self._abandon(outcomes, error)
            self._next(loop)
            return
        work = loop.run_in_executor(self._committer, self._commit)
        work.add_done_callback(lambda done: self._finish(loop, outcomes, _failure_of(done)))

    def _begin(self) -> Any:
        """Open the group's transaction; the driver's own connection, for savepoints."""
        if self._connection is None:
            self._connection = self._database.engine.connect()
        self._connection.begin()
        return self._connection.connection.driver_connection

    def _attempt(self, raw: Any, verb: Verb[Any], future: "asyncio.Future[Any]") -> lane.Outcome:
        assert self._connection is not None
        tx = self._database._tx(self._connection, writes=True)
        raw.execute("SAVEPOINT verb")
        try:
            result = verb(tx)
        except Exception as error:
            raw.execute("ROLLBACK TO verb")
            cause = translated(error) if isinstance(error, DBAPIError) else error
            return lane.Outcome(future, None, None, cause)
        finally:
            raw.execute("RELEASE verb")
            self._database.statements_total += tx.statements
        return lane.Outcome(future, result, tx, None)

    def _commit(self) -> None:
        assert self._connection is not None
        self._connection.commit()

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        outcomes: list[lane.Outcome],
        failure: BaseException | None,
    ) -> None:
        if failure is not None:
            self._abandon(outcomes, failure)
        else:
            self._told(outcomes, sum(outcome.tx is None for outcome in outcomes))
            lane.settle(outcomes, self._database._publish)
        self._next(loop)

    def _abandon(self, outcomes: list[lane.Outcome], error: BaseException) -> None:
        """The group's transaction failed: none of it happened, and each caller must know."""
        self._told(outcomes, len(outcomes))
        if self._connection is not None:
            with contextlib.suppress(DBAPIError):
                self._connection.rollback()
        cause = translated(error) if isinstance(error, DBAPIError) else error
        for outcome in outcomes:
            if not outcome.future.done():
                outcome.future.set_exception(cause)
        if not outcomes and self._waiting:  # It could not even begin: whoever is first must hear.
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(cause)

    def _told(self, outcomes: list[lane.Outcome], failed: int) -> None:
        seconds = time.perf_counter() - self._began_s
        self._database.stats.grouped(len(outcomes), failed, seconds)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting:
            loop.call_soon(self._run_group, loop)
        else:
            self._is_busy = False


def _failure_of(done: "asyncio.Future[Any]") -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()


_MAIN = threading.main_thread()
_IN_MEMORY = ("sqlite://", "sqlite:///:memory:")


def _sqlite(url: str) -> Engine:
    options: dict[str, Any] = {}
    if url in _IN_MEMORY:
        options = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    else:
        options = {"connect_args": {"check_same_thread": False, "timeout": 30}}
    engine = create_engine(url, **options)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = (
            None  # We say BEGIN ourselves: pysqlite's own guess is too late.
        )
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # What was acknowledged survives a power cut; grouped, it is cheap.
            "foreign_keys=ON",
            "temp_store=MEMORY",
            "cache_size=-16384",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _postgresql(url: str) -> Engine:
    # One writes at a time (lane.py), so that each statement may see what is there when it runs.
    return create_engine(
        url,
        pool_size=16,
        max_overflow=4,
        isolation_level="READ COMMITTED",
        connect_args={
            "options": f"-c idle_in_transaction_session_timeout={lane.SILENCE_MS_MAX}"
            f" -c lock_timeout={lane.WAIT_MS_MAX}",
            "application_name": "cairn",
        },
    )


def with_driver(url: str) -> str:
    """A database's address as people write it, with the driver that we use."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def translated(error: DBAPIError) -> Exception:
    """A database error as one of our own where a caller can react to it."""
    if isinstance(error, IntegrityError):
        return Conflict("Something with the same identity exists already.", because=str(error.orig))
    if isinstance(error, DataError):
        return Invalid("A value cannot be stored.", because=str(error.orig))
    if isinstance(error, OperationalError):
        return Unavailable("The database cannot be reached or is full.", because=str(error.orig))
    return error


def _is_worth_repeating(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in ("40001", "40P01")


def open_sqlite(path: Path, **options: Any) -> Database:
    """The database in a file, made if it is not there, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=True)
    return Database(f"sqlite:///{path}", **options)

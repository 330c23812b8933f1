"""Transactions: the only way to the database.

A verb is a plain function on a `Tx`. `Database.write(verb)` runs it in one transaction, all or nothing,
and `Database.read(verb)` on a snapshot. On SQLite one thread writes and commits in groups (an fsync a
group, not a transaction), and reads run in place on WAL. On PostgreSQL both run in threads, writes
serialisable and repeated whole when the database says so. Never await inside a transaction.
"""

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable
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
from cairn.db.columns import metadata

T = TypeVar("T")
Verb = Callable[["Tx"], T]
Wake = Callable[[str], None]

_log = log.get("db")
GROUP_MAX = 64  # transactions that share one commit: more would only make the first wait longer
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
        self.wakes: set[str] = set()
        self.after: list[Callable[[], None]] = []
        self._randomness = randomness

    def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Run one SQLAlchemy Core statement."""
        self.statements += 1
        return self._connection.execute(statement, parameters)

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
    ) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        self._clock = clock or SystemClock()
        self._randomness = randomness or SystemRandomness()
        self._inline = inline
        self._wakers: list[Wake] = []
        self.statements_total = 0
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
        self._reader: Connection | None = None
        if not inline and self.is_sqlite:
            self._writer = _GroupWriter(self)
        elif not inline:
            self._threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="db")

    def create_all(self) -> None:
        """Make every table at once: for tests; installations migrate (db/migrations)."""
        metadata.create_all(self.engine)

    def on_wake(self, waker: Wake) -> None:
        """Call `waker(topic)` on the event loop for each topic of a committed transaction."""
        self._wakers.append(waker)

    async def read(self, verb: Verb[T]) -> T:
        if self._threads is not None:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self.read_now, verb
            )
        return self.read_now(verb)

    async def write(self, verb: Verb[T]) -> T:
        loop = asyncio.get_running_loop()
        if self._writer is not None:
            result, tx = await asyncio.wrap_future(self._writer.submit(verb))
        elif self._threads is not None:
            result, tx = await loop.run_in_executor(self._threads, self._write_whole, verb)
        else:
            result, tx = self._write_whole(verb)
        self._publish(tx)
        return result  # type: ignore[no-any-return]

    def read_now(self, verb: Verb[T]) -> T:
        """`read` on the calling thread."""
        if self.is_sqlite and not self._inline and threading.current_thread() is _MAIN:
            return self._read_in_place(verb)
        with self._read_engine.connect() as connection:
            tx = self._tx(connection, writes=False)
            try:
                return verb(tx)
            finally:
                self.statements_total += tx.statements
                connection.rollback()

    def write_now(self, verb: Verb[T]) -> T:
        """`write` on the calling thread, before the event loop runs or inline."""
        result, tx = self._write_whole(verb)
        self._publish(tx)
        return result

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._threads is not None:
            self._threads.shutdown(wait=True)
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
                time.sleep(random.random() * CLASH_PAUSE_S * 2**tries)  # noqa: S311
            try:
                with self.engine.begin() as connection:
                    tx = self._tx(connection, writes=True)
                    result = verb(tx)
                self.statements_total += tx.statements
                return result, tx
            except DBAPIError as error:
                if not _is_worth_repeating(error):
                    raise translated(error) from error
        raise Unavailable("The database is too busy; try again.", because="serialisation failures")

    def _publish(self, tx: Tx) -> None:
        for do in tx.after:
            do()
        for topic in sorted(tx.wakes):
            for waker in self._wakers:
                waker(topic)


class _GroupWriter:
    """SQLite's one writing thread: takes what has queued up, one savepoint each, one commit for all."""

    def __init__(self, database: Database) -> None:
        from concurrent.futures import Future

        self._future = Future
        self._database = database
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="db-writer", daemon=True)
        self._thread.start()

    def submit(self, verb: Verb[Any]) -> Any:
        future: Any = self._future()
        self._queue.put((verb, future))
        return future

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            while len(group) < GROUP_MAX and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    self._queue.put(None)
                    break
                group.append(following)
            self._commit(group)

    def _commit(self, group: list[Any]) -> None:
        outcomes: list[tuple[Any, Any, BaseException | None]] = []
        try:
            with self._database.engine.begin() as connection:
                for verb, future in group:
                    # A caller that gave up before we began gets nothing done; once begun, it is done.
                    if future.set_running_or_notify_cancel():
                        outcomes.append((future, *self._attempt(connection, verb)))
        except Exception as error:
            # The commit itself failed: none of the group happened, and each caller must know.
            cause = translated(error) if isinstance(error, DBAPIError) else error
            for _, future in group:
                if not future.cancelled() and not future.done():
                    future.set_exception(cause)
            return
        for future, result, failure in outcomes:
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(result)

    def _attempt(
        self, connection: Connection, verb: Verb[Any]
    ) -> tuple[tuple[Any, Tx] | None, BaseException | None]:
        tx = self._database._tx(connection, writes=True)
        savepoint = connection.begin_nested()
        try:
            result = verb(tx)
            savepoint.commit()
        except Exception as error:
            savepoint.rollback()
            return None, translated(error) if isinstance(error, DBAPIError) else error
        finally:
            self._database.statements_total += tx.statements
        return (result, tx), None


_MAIN = threading.main_thread()


def _sqlite(url: str) -> Engine:
    options: dict[str, Any] = {}
    if url in ("sqlite://", "sqlite:///:memory:"):
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
    return create_engine(url, pool_size=16, max_overflow=4, isolation_level="SERIALIZABLE")


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

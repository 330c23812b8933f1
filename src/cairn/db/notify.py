"""Wake-ups between control processes: PostgreSQL's LISTEN and NOTIFY, as hints and nothing more.

Each process has one connection that listens and one that sends. What committed within a few milliseconds
goes out together, after the commit: a NOTIFY inside a transaction takes one lock of the whole database
cluster at its commit, so that all commits would stand in line (docs/decisions/0008).

A process may die between its commit and the sending. So nothing may depend on a hint: whoever had to
listen anew, or sees that a peer died (fleet/controls.py), wakes everybody.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
from sqlalchemy import make_url

from cairn.core import log
from cairn.core.errors import Unavailable
from cairn.db.engine import Database
from cairn.db.feed import EVERYTHING

CHANNEL = "cairn"
GATHER_S = 0.003  # what is committed within this time travels together
BEAT_S = 10.0  # a process that has nothing to tell sends an empty payload this often
SILENCE_S = 25.0  # not even our own beat was heard for so long: the connection is dead
PAYLOAD_BYTES_MAX = 7900  # PostgreSQL takes less than 8,000
RECONNECT_S = 1.0
FLUSH_S_MAX = 2.0  # how long a process that ends waits for its last hints to go out

_log = log.get("db.notify")


class Notifier:
    """Carries this process's hints to its peers, and theirs to this process. Only on PostgreSQL."""

    def __init__(self, database: Database, *, sender: str) -> None:
        assert not database.is_sqlite, "SQLite has one process, which needs no messenger"
        self._database = database
        self._sender = sender
        self._pending: set[str] = set()
        self._news = asyncio.Event()
        self._is_sent = asyncio.Event()
        self._is_sent.set()
        self._is_hearing = False
        self.is_listening = asyncio.Event()
        database.on_wake(self._tell)

    async def run(self) -> None:
        """Runs until cancelled; connects again for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again(self._listen), name="notify listen")
            group.create_task(self._again(self._send), name="notify send")

    async def flush(self) -> None:
        """Wait until what was told has gone out; not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S_MAX):
                await self._is_sent.wait()

    def _tell(self, topic: str) -> None:
        if self._is_hearing:  # It came from a peer, who has told everybody.
            return
        self._pending.add(topic)
        self._is_sent.clear()
        self._news.set()

    async def _again(self, work: Any) -> None:
        while True:
            try:
                await work()
            except (psycopg.Error, Unavailable, OSError) as error:
                _log.warning("hints do not cross", doing=work.__name__, because=str(error).strip())
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        async with await self._connect() as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self.is_listening.set()
            try:
                self._deliver((EVERYTHING,))  # What was said before now was not heard.
                while True:
                    await self._hear_some(connection)
            finally:
                self.is_listening.clear()

    async def _hear_some(self, connection: Any) -> None:
        count = 0
        async for note in connection.notifies(timeout=SILENCE_S, stop_after=1):
            count += 1
            sender, *topics = note.payload.split("\n")
            if sender != self._sender:
                self._deliver(topics)
        if not count:
            raise Unavailable(f"Nothing was heard for {SILENCE_S:.0f} s.")

    def _deliver(self, topics: Iterable[str]) -> None:
        self._is_hearing = True
        try:
            for topic in topics:
                self._database.wake(topic)
        finally:
            self._is_hearing = False

    async def _send(self) -> None:
        async with await self._connect() as connection:
            # A hint that is lost in a power cut finds nobody who waited for it.
            await connection.execute("SET synchronous_commit = off")
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_S):
                        await self._news.wait()
                        await asyncio.sleep(GATHER_S)
                await self._send_pending(connection)

    async def _send_pending(self, connection: Any) -> None:
        self._news.clear()
        topics, self._pending = self._pending, set()
        try:
            for payload in payloads(self._sender, topics):
                await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
        except psycopg.Error:
            self._pending |= topics
            self._news.set()
            raise
        if not self._pending:
            self._is_sent.set()

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        words, options = self._database.engine.dialect.create_connect_args(
            make_url(self._database.url)
        )
        return await psycopg.AsyncConnection.connect(
            *words,
            **options,
            autocommit=True,
            application_name="cairn notify",
            connect_timeout=5,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=2,
        )


def payloads(sender: str, topics: Iterable[str]) -> Iterator[str]:
    """The sender and its topics, a line each, in as few payloads as they fit in; at least one."""
    lines, size = [sender], len(sender.encode())
    for topic in sorted(topics):
        more = 1 + len(topic.encode())
        if size + more > PAYLOAD_BYTES_MAX and len(lines) > 1:
            yield "\n".join(lines)
            lines, size = [sender], len(sender.encode())
        lines.append(topic)
        size += more
    yield "\n".join(lines)

"""A few threads and connections for one directory, so that a slow one holds up its own domain alone.

Each question has a deadline; at its end the connection is cut, which frees the thread. After a failure the
directory counts as down for some seconds: who asks meanwhile is told at once.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cairn.core import log
from cairn.core.errors import Unavailable
from cairn.identity.directory.client import Client
from cairn.identity.directory.config import DirectoryConfig

T = TypeVar("T")
THREADS = 4
WAITING_MAX = 64
QUESTION_S_MAX = 10.0  # one sign-in or one thing
LOOK_S_MAX = 45.0  # a whole list
DOWN_S = 5.0
IDLE_S_MAX = 60.0  # firewalls forget silent connections
_log = log.get("identity.directory")


class Pool:
    """Only the event loop's thread may use it."""

    def __init__(self, name: str, config: DirectoryConfig, *, down_s: float = DOWN_S) -> None:
        self.trouble: str | None = None  # why it is down, since the last question failed
        self._name = name
        self._config = config
        self._down_s = down_s
        self._down_until_s = 0.0
        self._waiting = 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"directory-{name[:8]}")
        self._idle: list[tuple[float, Client]] = []
        self._lock = threading.Lock()

    async def ask(self, question: Callable[[Client], T], *, within_s: float = QUESTION_S_MAX) -> T:
        """The answer of a question that is put on a connection bound as the configured user."""
        return await self._run(lambda job: self._on_connection(job, question), within_s)

    async def check_password(self, dn: str, password: str) -> str | None:
        """As the client's: None if it is right."""
        return await self._run(
            lambda job: job.uses(Client(self._config)).check_password(dn, password), QUESTION_S_MAX
        )

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            idle, self._idle = self._idle, []
        for _, client in idle:
            client.close()

    async def _run(self, work: "Callable[[_Job], T]", within_s: float) -> T:
        if self.trouble is not None and time.monotonic() < self._down_until_s:
            raise self._unavailable(self.trouble)
        if self._waiting >= WAITING_MAX:
            raise self._unavailable(f"more than {WAITING_MAX} requests wait for it")
        job = _Job()
        self._waiting += 1
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, work, job)
            try:
                async with asyncio.timeout(within_s):
                    answer = await asyncio.shield(future)
            except BaseException:
                job.abort()
                future.cancel()
                raise
        except TimeoutError as error:
            raise self._fell(f"it did not answer within {within_s:.0f} s") from error
        except Unavailable as error:
            raise self._fell(error.because or error.message) from error
        finally:
            self._waiting -= 1
        self._rose()
        return answer

    def _on_connection(self, job: "_Job", question: Callable[[Client], T]) -> T:
        client = self._kept()
        if client is not None:
            try:
                return self._asked(job, client, question)
            except Unavailable:
                if job.is_over:
                    raise
                # The server may have closed it while it was idle: a fresh one tells.
        client = Client(self._config)
        job.uses(client).connect()
        return self._asked(job, client, question)

    def _asked(self, job: "_Job", client: Client, question: Callable[[Client], T]) -> T:
        try:
            answer = question(job.uses(client))
        except BaseException:
            client.close()
            raise
        if job.is_over:
            client.close()
        else:
            with self._lock:
                self._idle.append((time.monotonic(), client))
        return answer

    def _kept(self) -> Client | None:
        with self._lock:
            while self._idle:
                since_s, client = self._idle.pop()
                if time.monotonic() - since_s < IDLE_S_MAX:
                    return client
                client.close()
        return None

    def _fell(self, reason: str) -> Unavailable:
        if self.trouble is None:
            _log.error("directory is down", domain=self._name, reason=reason)
        self.trouble = reason
        self._down_until_s = time.monotonic() + self._down_s
        return self._unavailable(reason)

    def _rose(self) -> None:
        if self.trouble is not None:
            _log.info("directory answers again", domain=self._name)
        self.trouble = None

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(
            f"The directory of domain {self._name} cannot be asked now; try again later.",
            because=f"directory of domain {self._name}: {reason}",
        )


class _Job:
    """One question on its way: which connection it uses, and whether anybody still waits."""

    def __init__(self) -> None:
        self.is_over = False
        self._client: Client | None = None
        self._lock = threading.Lock()

    def uses(self, client: Client) -> Client:
        with self._lock:
            self._client = client
            if self.is_over:
                raise Unavailable("The domain's directory cannot be asked now.", because="too late")
        return client

    def abort(self) -> None:
        with self._lock:
            self.is_over = True
            if self._client is not None:
                self._client.abort()

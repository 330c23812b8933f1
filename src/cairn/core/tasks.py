"""Long-lived tasks that belong to a group: no orphans, no silent deaths."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from cairn.core import log

T = TypeVar("T", bound=Hashable)

_log = log.get("tasks")


async def first_to_end(*works: tuple[str, Coroutine[Any, Any, Any]]) -> list[BaseException]:
    """Run these (name and coroutine) until one ends, then end the others. What the ended ones raised."""
    tasks = [asyncio.create_task(work, name=name) for name, work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [error for task in done if (error := task.exception()) is not None]


class TaskGroup:
    """Tasks that live until `close`; one that dies of a bug is logged, and the others go on."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], *, name: str) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel all and wait until they are gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task died", task=task.get_name(), exc_info=error)


class Batcher(Generic[T]):
    """Hands what has gathered to `handle`, a batch at a time. While there is nothing, nothing runs.

    The same thing added twice before its turn is handled once.
    """

    def __init__(
        self,
        handle: Callable[[list[T]], Awaitable[None]],
        *,
        tasks: TaskGroup,
        name: str,
        most: int,
    ) -> None:
        self._handle = handle
        self._tasks = tasks
        self._name = name
        self._most = most
        self._gathered: dict[T, None] = {}
        self._is_running = False

    def add(self, thing: T) -> None:
        self._gathered[thing] = None
        if not self._is_running:
            self._is_running = True
            self._tasks.start(self._run(), name=self._name)

    def drop(self, thing: T) -> None:
        """It need not be handled any more."""
        self._gathered.pop(thing, None)

    def take_all(self) -> list[T]:
        """What waits, for whoever handles it himself."""
        taken = list(self._gathered)
        self._gathered.clear()
        return taken

    async def _run(self) -> None:
        try:
            while self._gathered:
                batch = list(self._gathered)[: self._most]
                for thing in batch:
                    del self._gathered[thing]
                try:
                    await self._handle(batch)
                except Exception:  # A bug with one batch must not stop all that follow.
                    _log.exception("batch failed", name=self._name, things=len(batch))
        finally:
            self._is_running = False

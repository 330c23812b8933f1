"""Long-lived tasks that belong to a group: no orphans, no silent deaths."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from cairn.core import log

_log = log.get("tasks")


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

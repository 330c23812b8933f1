"""Hosts that connect: each gets the next generation, many in one transaction.

After a restart of the control plane ten thousand come at once; what each of them costs is one row read
and one row written.
"""

import asyncio
from collections.abc import Mapping, Sequence

from cairn.core.errors import NotFound
from cairn.core.ids import NodeId
from cairn.core.tasks import Batcher, TaskGroup
from cairn.db.engine import Database
from cairn.fleet import service
from cairn.fleet.records import Arrival, Coming

BATCH_MAX = 250


class Arrivals:
    """Takes hosts in by the batch."""

    def __init__(self, database: Database, tasks: TaskGroup) -> None:
        self._database = database
        self._waiting: dict[Coming, asyncio.Future[Arrival]] = {}
        self._batcher: Batcher[Coming] = Batcher(
            self._take_in, tasks=tasks, name="arrivals", most=BATCH_MAX
        )

    async def welcome(self, coming: Coming) -> Arrival:
        """What the control plane knows of the host. Raises NotFound when it is not enrolled."""
        future = self._waiting.get(coming)
        if future is None:
            future = self._waiting[coming] = asyncio.get_running_loop().create_future()
            self._batcher.add(coming)
        return await asyncio.shield(future)

    async def _take_in(self, batch: Sequence[Coming]) -> None:
        futures = {coming: self._waiting.pop(coming) for coming in batch}
        try:
            found: Mapping[NodeId, Arrival] = await self._database.write(
                lambda tx: service.take_in(tx, batch)
            )
        except Exception as error:
            for future in futures.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # Whoever waited may be gone: then nobody need hear of it.
            return
        for coming, future in futures.items():
            if future.done():
                continue
            if (arrival := found.get(coming.node_id)) is not None:
                future.set_result(arrival)
            else:
                future.set_exception(NotFound(f"Host {coming.node_id} is not enrolled here."))
                future.exception()

"""Specs that wait to be sent: composed when their turn comes, many in one look at the database."""

import asyncio
from collections.abc import Callable, Sequence

from cairn.core import log
from cairn.core.errors import CloudError, NotFound, Unavailable
from cairn.core.ids import NodeId
from cairn.core.tasks import Batcher, TaskGroup
from cairn.db.engine import Database, Tx
from cairn.wire.link import Link, Spec
from cairn.wire.spec import NodeSpec

BATCH_MAX = 25
# Between two big specs to one host: some times what composing and reading one takes, so that a burst of
# changes in a big zone is not answered by composing the whole of it for each.
BIG = 50
PAUSE_S_A_THING = 0.0004
PAUSE_S_MAX = 2.0
CONGESTED_PAUSE_S = 0.2  # before a host that takes nothing is tried again
FAILED_PAUSE_S = 5.0  # before a spec that could not be composed is tried again

CompileSpec = Callable[[Tx, NodeId], NodeSpec]

_log = log.get("fleet.outbox")


class Door:
    """The way out to one connected host. `sent` is the number of the newest spec that it knows."""

    __slots__ = ("is_due_later", "link", "node_id", "not_before_s", "sent", "wire_version")

    def __init__(self, link: Link, node_id: NodeId, wire_version: int) -> None:
        self.link = link
        self.node_id = node_id
        self.wire_version = wire_version
        self.sent = 0
        self.not_before_s = 0.0
        self.is_due_later = False


class Outbox:
    """Sends each host its newest spec, once however often it changed meanwhile."""

    def __init__(self, database: Database, compile_spec: CompileSpec, tasks: TaskGroup) -> None:
        self._database = database
        self._compile = compile_spec
        self._batcher: Batcher[Door] = Batcher(
            self._send, tasks=tasks, name="specs", most=BATCH_MAX
        )

    def due(self, door: Door) -> None:
        """The host's spec may have changed: the first change after a rest goes out at once."""
        if door.is_due_later:
            return
        wait_s = door.not_before_s - asyncio.get_running_loop().time()
        if wait_s <= 0:
            self._batcher.add(door)
        else:
            self._later(door, wait_s)

    def drop(self, door: Door) -> None:
        self._batcher.drop(door)

    def _later(self, door: Door, wait_s: float) -> None:
        door.is_due_later = True
        asyncio.get_running_loop().call_later(wait_s, self._is_time, door)

    def _is_time(self, door: Door) -> None:
        door.is_due_later = False
        self._batcher.add(door)

    async def _send(self, doors: Sequence[Door]) -> None:
        free = []
        for door in doors:
            if door.link.is_congested:
                self._later(door, CONGESTED_PAUSE_S)
            else:
                free.append(door)
        specs: Sequence[NodeSpec | None]
        try:
            specs = await self._database.read(
                lambda tx: [self._compile(tx, door.node_id) for door in free]
            )
        except Exception:
            # One host whose spec cannot be composed must not keep the others from theirs.
            specs = [await self._composed(door) for door in free]
        now_s = asyncio.get_running_loop().time()
        for door, spec in zip(free, specs, strict=True):
            if spec is None or spec.number <= door.sent:
                continue
            try:
                door.link.post(Spec(spec=spec))
            except Unavailable:
                continue  # It connects again and asks anew.
            door.sent = spec.number
            if (size := size_of(spec)) > BIG:
                door.not_before_s = now_s + min(PAUSE_S_MAX, size * PAUSE_S_A_THING)

    async def _composed(self, door: Door) -> NodeSpec | None:
        try:
            return await self._database.read(lambda tx: self._compile(tx, door.node_id))
        except NotFound:
            door.link.close()  # Removed meanwhile: it hears so when it connects again.
            return None
        except CloudError as error:
            _log.warning("spec not composed", node=door.node_id, because=str(error))
        except Exception:
            _log.exception("spec not composed", node=door.node_id)
        self._later(door, FAILED_PAUSE_S)
        return None


def size_of(spec: NodeSpec) -> int:
    """How many things must be read and written for it."""
    in_zone = len(spec.zone.ports) if spec.zone is not None else 0
    return len(spec.guests) + len(spec.volumes) + len(spec.ports) + in_zone

"""What keeps volumes true: the placer, which gives each new volume a host."""

from collections.abc import Mapping
from functools import partial

from cairn.core.errors import CloudError
from cairn.core.ids import NodeId, VolumeId
from cairn.db.engine import Database, Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import Node
from cairn.life.reconcile import Round
from cairn.volume import service, store
from cairn.volume.records import Volume

BATCH_MAX = 100
RETRY_S = 15.0  # before volumes that found no host are looked at again


class Placer:
    """Gives volumes that no server waits for to the host of their zone with the most unclaimed disk.

    A server's volumes go where the server goes, and copies stay where their source is, so neither
    passes here.
    """

    name = service.PLACER

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> Round:
        waiting = await self._database.read(lambda tx: store.unplaced_volumes(tx, BATCH_MAX))
        done, failed = 0, []
        for volume in waiting:
            try:
                trouble = await self._database.write(partial(place_one, volume_id=volume.id))
            except CloudError as error:
                trouble = error.message
            if trouble is None:
                done += 1
            else:
                failed.append(f"volume {volume.id}: {trouble}")
        again_s = RETRY_S if failed else None
        return Round(found=len(waiting), done=done, failed=tuple(failed), again_s=again_s)


def place_one(tx: Tx, volume_id: VolumeId) -> str | None:
    """Place one volume, or say why it waits. A volume that somebody placed or removed is done."""
    volume = store.find_volume(tx, volume_id)
    if volume is None or volume.node_id is not None or volume.attachments:
        return None
    node_id = choose(volume, fleet.candidates(tx, volume.zone), service.claimed_gib(tx))
    if node_id is not None:
        service.place(tx, volume.id, node_id)
        return None
    trouble = f"no usable host in zone '{volume.zone}' has {volume.size_gib} GiB of disk unclaimed"
    if volume.trouble != trouble:
        store.change_volume(tx, volume.id, trouble=trouble)
    return trouble


def choose(volume: Volume, nodes: list[Node], claimed_gib: Mapping[NodeId, int]) -> NodeId | None:
    """The usable host with the most unclaimed disk, if it has enough; the lowest id among equals."""
    free = {
        node.id: node.facts.disk_gib - claimed_gib.get(node.id, 0)
        for node in nodes
        if node.is_usable and node.zone == volume.zone and node.facts is not None
    }
    best = min(free, key=lambda node_id: (-free[node_id], node_id), default=None)
    return best if best is not None and free[best] >= volume.size_gib else None

"""What becomes of volumes whose host will never come back: nothing can be read from them again."""

from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.volume import store
from cairn.volume.records import VolumeState


def write_off(tx: Tx, node_id: NodeId) -> int:
    """Every volume of the host is in error and nowhere; those that were to go are gone. How many."""
    found = store.volumes_on(tx, node_id)
    for volume in found:
        if volume.gone_number is not None and not volume.attachments:
            store.remove_volume(tx, volume.id)
            continue
        if volume.state is not VolumeState.ERROR:
            store.move_volume(tx, volume, f"reset to {VolumeState.ERROR}")
        store.change_volume(tx, volume.id, node_id=None)
    return len(found)

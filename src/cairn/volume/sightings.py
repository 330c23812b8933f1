"""What a host's report makes of its volumes: the only writer of what was seen.

Reports are whole and numbered. What a volume was wished to be stays untouched; only its state moves, by
the same table as the verbs use.
"""

from cairn.db.engine import Tx
from cairn.volume import store
from cairn.volume.records import Snapshot, SnapshotState, Volume, VolumeState
from cairn.wire.report import NodeReport, VolumeSeen

PLACER = "volume.placer"
# In these the host has nothing left to do; in all others a report may end what is under way.
SETTLED = (
    VolumeState.AVAILABLE,
    VolumeState.ATTACHING,
    VolumeState.IN_USE,
    VolumeState.DETACHING,
)
TRIES_MAX = 3  # a host's failures before the owner hears "error"; the host itself goes on trying


def take_report(tx: Tx, report: NodeReport) -> None:
    """Write what a host saw of its volumes. Older news than what is known changes nothing."""
    here = store.watched_on(tx, report.node_id)
    if not here:
        return
    seen = {v.id: v for v in report.volumes}
    snapshots = store.snapshots_moving_on(tx, report.node_id)
    for known in here:
        moving = snapshots.get(known.id, [])
        if moving or _may_be_news(known, seen.get(known.id)):
            volume = store.find_volume(tx, known.id)
            assert volume is not None, "read in one transaction"
            _take_volume(tx, report, volume, seen.get(known.id), moving)


def _may_be_news(known: store.Watched, seen: VolumeSeen | None) -> bool:
    if known.state not in SETTLED:
        return True
    if seen is None:
        return False
    made_gib = seen.size_gib if seen.ready else known.seen_size_gib
    return (made_gib, seen.trouble) != (known.seen_size_gib, None) or known.trouble is not None


def _take_volume(
    tx: Tx,
    report: NodeReport,
    volume: Volume,
    seen: VolumeSeen | None,
    snapshots: list[Snapshot],
) -> None:
    if volume.state is VolumeState.DELETING and seen is None:
        if volume.gone_number is not None and report.spec_number >= volume.gone_number:
            store.remove_volume(tx, volume.id)
            tx.wake(PLACER)  # room for whoever waits
        return
    if seen is None:
        return
    made_gib = seen.size_gib if seen.ready else volume.seen_size_gib
    trouble = seen.trouble.message if seen.trouble else None
    is_news = (made_gib, trouble) != (volume.seen_size_gib, volume.trouble)
    if is_news and not store.record_seen(
        tx, volume, report.number, seen_size_gib=made_gib, trouble=trouble
    ):
        return
    event = _event(volume, seen)
    if event is not None:
        store.move_volume(tx, volume, event)
    for snapshot in snapshots:
        _take_snapshot(tx, report, snapshot, seen)


def _event(volume: Volume, seen: VolumeSeen) -> str | None:
    """What the report means for the volume's life."""
    is_whole = seen.ready and seen.size_gib >= volume.size_gib
    gave_up = seen.trouble is not None and seen.trouble.tries >= TRIES_MAX
    match volume.state:
        case VolumeState.CREATING | VolumeState.ERROR if is_whole and not volume.was_made:
            return "made for a server" if volume.attachments else "made"
        case VolumeState.CREATING if gave_up and not is_whole:
            return "broke"
        case VolumeState.EXTENDING | VolumeState.ERROR_EXTENDING if is_whole:
            return "extended in use" if volume.attachments else "extended"
        case VolumeState.EXTENDING if gave_up:
            return "broke"
        case _:
            return None


def _take_snapshot(tx: Tx, report: NodeReport, snapshot: Snapshot, seen: VolumeSeen) -> None:
    exists = snapshot.id in seen.snapshots
    match snapshot.state:
        case SnapshotState.DELETING if not exists and snapshot.gone_number is not None:
            if report.spec_number >= snapshot.gone_number:
                store.remove_snapshot(tx, snapshot.id)
        case SnapshotState.CREATING | SnapshotState.ERROR if exists:
            store.move_snapshot(tx, snapshot, "made", trouble=None, seen_number=report.number)
        case SnapshotState.CREATING if seen.trouble and seen.trouble.tries >= TRIES_MAX:
            store.move_snapshot(
                tx, snapshot, "broke", trouble=seen.trouble.message, seen_number=report.number
            )
        case _:
            pass

"""Every state and event of the lives of volumes and snapshots."""

import pytest

from cairn.core.errors import Conflict
from cairn.volume.records import (
    RESETTABLE,
    SNAPSHOT_LIFE,
    VOLUME_LIFE,
    SnapshotState,
    VolumeState,
)

EVENTS = sorted({event for _, event in VOLUME_LIFE.table})
SNAPSHOT_EVENTS = sorted({event for _, event in SNAPSHOT_LIFE.table})


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", list(VolumeState))
def test_volume_moves_by_the_table_only(state: VolumeState, event: str) -> None:
    if (state, event) in VOLUME_LIFE.table:
        assert VOLUME_LIFE.move(state, event) is VOLUME_LIFE.table[state, event]
    else:
        with pytest.raises(Conflict, match="while it is in state"):
            VOLUME_LIFE.move(state, event)


@pytest.mark.parametrize("event", SNAPSHOT_EVENTS)
@pytest.mark.parametrize("state", list(SnapshotState))
def test_snapshot_moves_by_the_table_only(state: SnapshotState, event: str) -> None:
    if (state, event) in SNAPSHOT_LIFE.table:
        assert SNAPSHOT_LIFE.move(state, event) is SNAPSHOT_LIFE.table[state, event]
    else:
        with pytest.raises(Conflict):
            SNAPSHOT_LIFE.move(state, event)


def test_nothing_leads_out_of_deleting_but_an_administrators_word() -> None:
    events = [e for s, e in VOLUME_LIFE.table if s is VolumeState.DELETING]
    events += [e for s, e in SNAPSHOT_LIFE.table if s is SnapshotState.DELETING]
    assert all(event.startswith("reset to ") for event in events)


def test_every_state_can_be_reached() -> None:
    natural = {s for (_, e), s in VOLUME_LIFE.table.items() if not e.startswith("reset")}
    assert natural | {VolumeState.CREATING} == set(VolumeState)
    assert set(RESETTABLE) <= set(VolumeState)

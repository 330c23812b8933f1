"""The life of a server: every state with every event, and what sightings mean."""

import pytest

from cairn.compute.records import SERVER_LIFE, Seen, ServerState, event_of
from cairn.core.errors import Conflict
from cairn.wire.report import GuestState, Trouble
from cairn.wire.spec import Power

EVENTS = sorted({event for _, event in SERVER_LIFE.table})


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", ServerState)
def test_every_event_moves_or_is_refused(state: ServerState, event: str) -> None:
    if SERVER_LIFE.allows(state, event):
        assert SERVER_LIFE.move(state, event) in ServerState
    else:
        with pytest.raises(Conflict, match=f"while it is in state '{state}'"):
            SERVER_LIFE.move(state, event)


@pytest.mark.parametrize("state", ServerState)
def test_every_server_can_be_deleted_and_every_failure_heals(state: ServerState) -> None:
    SERVER_LIFE.require(state, "delete")
    assert SERVER_LIFE.move(state, "running") is ServerState.ACTIVE
    assert SERVER_LIFE.move(state, "failed") is ServerState.ERROR


G, RUN, STOP = GuestState, Power.RUNNING, Power.STOPPED


@pytest.mark.parametrize(
    ("state", "boot", "wanted", "power", "tries", "event"),
    [
        (G.RUNNING, 1, 1, RUN, 0, "running"),
        (G.RUNNING, 1, 2, RUN, 0, None),  # the reboot is under way
        (G.RUNNING, 1, 1, STOP, 0, None),  # the stop is under way
        (G.STOPPING, 1, 1, STOP, 0, None),
        (G.STOPPED, 1, 1, STOP, 0, "stopped"),
        (G.STOPPED, 1, 2, RUN, 0, None),  # the start is under way
        (G.ENDED, 1, 1, RUN, 0, "stopped"),  # its owner's wish
        (G.ENDED, 1, 1, STOP, 0, "stopped"),
        (G.ENDED, 1, 2, RUN, 0, None),  # the old boot of a reboot
        (G.CRASHED, 1, 1, RUN, 0, None),  # its host boots it again
        (G.CRASHED, 1, 1, RUN, 3, "failed"),
        (G.WAITING, 0, 1, RUN, 0, None),
        (G.WAITING, 0, 1, RUN, 2, None),
        (G.WAITING, 0, 1, RUN, 3, "failed"),
        (G.RUNNING, 1, 1, RUN, 9, "running"),  # trouble with a disk does not stop a guest
    ],
)
def test_sightings_mean_events(
    state: GuestState, boot: int, wanted: int, power: Power, tries: int, event: str | None
) -> None:
    trouble = Trouble(message="no", tries=tries) if tries else None
    seen = Seen(state=state, boot=boot, wanted_boot=wanted, power=power, trouble=trouble)
    assert event_of(seen) == event

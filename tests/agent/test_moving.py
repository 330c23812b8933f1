"""What an agent does about a guest that comes or goes, and what it tells of it."""

from msgspec.structs import replace
from tests.agent_specs import GUEST, GUEST_SPEC, IMAGE, NODE_SPEC, PORT, ROOT, ROOT_SPEC

from cairn.agent.look import View
from cairn.agent.plan import plan
from cairn.agent.report import report
from cairn.core.ids import NodeId, SnapshotId
from cairn.drivers.contracts import GuestView, PortView, Reception, Sending, VolumeView
from cairn.wire.report import GuestSeen, GuestState, HostFacts
from cairn.wire.spec import DiskDoor, Incoming, NodeSpec, Outgoing, Power

FACTS = HostFacts(
    hostname="h", vcpus=1, memory_mib=1, disk_gib=1, disk_free_gib=1, accelerator="tcg"
)
RUNNING = GuestView(
    id=GUEST, incarnation=1, boot_number=1, running=True, disks=(ROOT,), nics=(PORT,)
)
DOWN = replace(RUNNING, running=False, disks=(), nics=())
DOOR = DiskDoor(volume_id=ROOT, port=49153, export="root")
COMES = Incoming(migration_id="m", from_node=NodeId("other"), from_address="192.0.2.2")
GOES = Outgoing(
    migration_id="m",
    to_node=NodeId("other"),
    address="192.0.2.2",
    memory_port=49152,
    disks=(DOOR,),
)
STOP = replace(GOES, is_cancelled=True)
WAITS = replace(
    DOWN,
    disks=(ROOT,),
    nics=(PORT,),
    reception=Reception(migration_id="m", memory_port=49152, disks=(DOOR,)),
)
UNDER_WAY = Sending(migration_id="m", total_bytes=100, left_bytes=60)
BROKE = replace(UNDER_WAY, trouble="the connection broke")
SENT = replace(UNDER_WAY, left_bytes=0, done=True, pause_ms=12)


def have(view: GuestView | None) -> View:
    return View(
        guests={} if view is None else {GUEST: view},
        volumes={ROOT: VolumeView(id=ROOT, size_gib=1)},
        images=frozenset({IMAGE}),
        ports={PORT: PortView(id=PORT, up=True)},
    )


def want(**changes: object) -> NodeSpec:
    return replace(NODE_SPEC, guests=(replace(GUEST_SPEC, **changes),))


def steps(spec: NodeSpec, view: GuestView | None, stopping_s: float | None = None) -> list[str]:
    stopping = {} if stopping_s is None else {GUEST: stopping_s}
    return [
        type(s).__name__ for s in plan(spec, have(view), applied_zone=None, stopping_s=stopping)
    ]


def told(spec: NodeSpec, view: GuestView | None, *, restless: bool = False) -> GuestSeen:
    (guest,) = report(
        spec,
        have(view),
        number=1,
        facts=FACTS,
        trouble_of=lambda key: None,
        applied_zone_number=0,
        looked_number=1,
        restless={f"guest:{GUEST}"} if restless else (),
    ).guests
    return guest


# --- the new host ------------------------------------------------------------------------------------


def test_guest_that_comes_is_waited_for_once_all_it_needs_is_there() -> None:
    assert steps(want(incoming=COMES), None) == ["ReceiveGuest"]
    received = replace(want(incoming=COMES), volumes=(replace(ROOT_SPEC, is_received=True),))
    bare = replace(have(None), volumes={}, ports={})
    names = [type(s).__name__ for s in plan(received, bare, applied_zone=None, stopping_s={})]
    assert names == ["Plug", "CreateVolume"]


def test_stopped_guest_is_waited_for_as_well() -> None:
    assert steps(want(incoming=COMES, power=Power.STOPPED), None) == ["ReceiveGuest"]


def test_guest_that_comes_is_never_booted() -> None:
    for view in (
        WAITS,
        replace(WAITS, reception=replace(WAITS.reception, trouble="broke")),
        replace(DOWN, crashed=True),
        replace(DOWN, ended=True),
        RUNNING,
    ):
        assert steps(want(incoming=COMES), view) == []


def test_older_life_goes_before_the_guest_is_waited_for() -> None:
    assert steps(want(incoming=COMES, incarnation=2), RUNNING) == ["RemoveGuest"]
    sent = replace(DOWN, sending=SENT)
    assert steps(want(incoming=COMES, incarnation=2), sent) == ["RemoveGuest"]


def test_reception_of_another_try_goes_first() -> None:
    assert steps(want(incoming=replace(COMES, migration_id="m2")), WAITS) == ["RemoveGuest"]


def test_guest_whose_move_is_over_runs_on_or_is_booted_from_its_disks() -> None:
    assert steps(want(), WAITS) == [], "it will run in a moment"
    assert steps(want(), RUNNING) == []
    failed = replace(WAITS, reception=replace(WAITS.reception, trouble="the host restarted"))
    assert steps(want(), failed) == ["RemoveGuest"]
    assert steps(want(), None) == ["Boot"]
    assert steps(want(), replace(DOWN, crashed=True)) == ["Boot"]
    assert steps(want(power=Power.STOPPED), WAITS) == ["RemoveGuest"]


def test_disks_of_a_reception_are_in_use() -> None:
    nothing = NodeSpec(node_id=NODE_SPEC.node_id, number=2, images=NODE_SPEC.images)
    assert steps(nothing, WAITS) == ["RemoveGuest"]


def test_received_disk_keeps_what_it_came_with() -> None:
    spec = replace(want(incoming=COMES), volumes=(replace(ROOT_SPEC, is_received=True),))
    seen = replace(
        have(WAITS),
        volumes={ROOT: VolumeView(id=ROOT, size_gib=1, snapshots=(SnapshotId("s"),))},
    )
    assert plan(spec, seen, applied_zone=None, stopping_s={}) == []


def test_new_host_tells_where_it_waits() -> None:
    seen = told(want(incoming=COMES), WAITS)
    assert seen.state is GuestState.RECEIVING
    assert seen.migration is not None
    assert (seen.migration.memory_port, seen.migration.disks) == (49152, (DOOR,))
    assert seen.migration.trouble is None
    assert told(want(incoming=COMES, power=Power.STOPPED), None).state is GuestState.WAITING
    failed = replace(WAITS, reception=replace(WAITS.reception, trouble="no"))
    moving = told(want(incoming=COMES), failed).migration
    assert moving is not None and moving.trouble is not None and moving.trouble.message == "no"


# --- the old host ------------------------------------------------------------------------------------


def test_guest_is_sent_once() -> None:
    assert steps(want(outgoing=GOES), RUNNING) == ["SendGuest"]
    for sending in (UNDER_WAY, BROKE, SENT):
        view = replace(RUNNING, running=not sending.done, sending=sending)
        assert steps(want(outgoing=GOES), view) == []
    later = replace(RUNNING, sending=replace(BROKE, migration_id="m0"))
    assert steps(want(outgoing=GOES), later) == ["SendGuest"]


def test_guest_that_is_to_go_cold_is_shut_down_first() -> None:
    cold = want(outgoing=GOES, power=Power.STOPPED)
    assert steps(cold, RUNNING) == ["ShutDown"]
    assert steps(cold, replace(RUNNING, stopping=True), stopping_s=60) == ["CutOff"]
    assert steps(cold, DOWN) == ["SendGuest"]
    assert steps(cold, None) == ["SendGuest"], "it never ran here"
    assert steps(cold, replace(DOWN, sending=UNDER_WAY)) == []


def test_guest_on_its_way_is_not_booted_when_it_dies() -> None:
    for sending in (None, UNDER_WAY, BROKE):
        assert steps(want(outgoing=GOES), replace(DOWN, crashed=True, sending=sending)) == []
        assert steps(want(outgoing=STOP), replace(DOWN, crashed=True, sending=sending)) == []


def test_cancelled_guest_is_called_back_once() -> None:
    assert steps(want(outgoing=STOP), replace(RUNNING, sending=UNDER_WAY)) == ["CancelSend"]
    assert steps(want(outgoing=STOP), replace(RUNNING, sending=BROKE)) == []
    assert steps(want(outgoing=STOP), RUNNING) == [], "it is not sent any more"
    assert steps(want(), replace(RUNNING, sending=UNDER_WAY)) == ["CancelSend"]


def test_guest_that_was_sent_never_boots_here_again() -> None:
    gone = replace(DOWN, sending=SENT)
    for spec in (want(), want(boot_number=2), want(outgoing=GOES), want(outgoing=STOP)):
        assert steps(spec, gone) == []
        assert steps(spec, replace(gone, crashed=True)) == []
    assert steps(want(incarnation=3), gone) == ["RemoveGuest"], "it came back: another life"


def test_guest_that_stayed_after_all_is_booted_when_it_died() -> None:
    for sending in (UNDER_WAY, BROKE):
        assert steps(want(), replace(DOWN, crashed=True, sending=sending)) == ["Boot"]


def test_old_host_tells_how_far_it_is() -> None:
    seen = told(want(outgoing=GOES), replace(RUNNING, sending=UNDER_WAY))
    assert seen.state is GuestState.RUNNING and seen.migration is not None
    assert (seen.migration.total_bytes, seen.migration.left_bytes) == (100, 60)
    gone = told(want(outgoing=GOES), replace(DOWN, sending=SENT))
    assert gone.state is GuestState.SENT
    assert gone.migration is not None and gone.migration.pause_ms == 12
    assert told(want(outgoing=GOES), RUNNING).migration is None


def test_guest_that_stands_still_for_the_last_moment_is_no_crash() -> None:
    between = replace(DOWN, sending=UNDER_WAY)
    assert told(want(outgoing=GOES), between).state is GuestState.RUNNING
    off = want(outgoing=GOES, power=Power.STOPPED)
    assert told(off, between).state is GuestState.STOPPED


def test_old_host_says_that_nothing_was_sent_only_when_it_is_sure() -> None:
    never = told(want(outgoing=STOP), RUNNING).migration
    assert never is not None and never.trouble is not None
    assert told(want(outgoing=STOP), RUNNING, restless=True).migration is None
    broke = told(want(outgoing=STOP), replace(RUNNING, sending=BROKE)).migration
    assert broke is not None and broke.trouble is not None
    dead = told(want(outgoing=STOP), replace(DOWN, crashed=True, sending=UNDER_WAY)).migration
    assert dead is not None and dead.trouble is None, "it may run there"


def test_what_was_seen_before_is_no_answer_to_newer_wishes() -> None:
    def number(looked: int) -> int:
        return report(
            NODE_SPEC,
            have(RUNNING),
            number=1,
            facts=FACTS,
            trouble_of=lambda key: None,
            applied_zone_number=0,
            looked_number=looked,
        ).spec_number

    assert number(0) == 0
    assert number(1) == 1

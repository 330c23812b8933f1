"""The plan: tables of wish and sight to the next steps."""

from msgspec.structs import replace
from tests.agent_specs import GUEST, GUEST_SPEC, IMAGE, NODE_SPEC, PORT, ROOT, ROOT_SPEC

from cairn.agent import plan as p
from cairn.agent.look import View
from cairn.agent.plan import plan, waiting_for
from cairn.core.ids import NetworkId, SnapshotId, VolumeId
from cairn.drivers.contracts import GuestView, PortView, VolumeView
from cairn.wire.spec import (
    DiskSpec,
    MetadataNetworkSpec,
    NicSpec,
    NodeSpec,
    Power,
    SnapshotSpec,
    VolumeSpec,
    ZoneSpec,
)

RUNNING = GuestView(
    id=GUEST, incarnation=1, boot_number=1, running=True, disks=(ROOT,), nics=(PORT,)
)
DOWN = replace(RUNNING, running=False)
HERE = View(
    guests={GUEST: RUNNING},
    volumes={ROOT: VolumeView(id=ROOT, size_gib=1)},
    images=frozenset({IMAGE}),
    ports={PORT: PortView(id=PORT, up=True)},
)
EMPTY = replace(HERE, guests={})


def steps(
    want: NodeSpec, have: View, stopping_s: float | None = None, zone: ZoneSpec | None = None
) -> list[str]:
    stopping = {} if stopping_s is None else {GUEST: stopping_s}
    return [type(s).__name__ for s in plan(want, have, applied_zone=zone, stopping_s=stopping)]


def with_guest(**changes: object) -> NodeSpec:
    return replace(NODE_SPEC, guests=(replace(GUEST_SPEC, **changes),))


def test_nothing_is_left_to_do() -> None:
    assert steps(NODE_SPEC, HERE) == []


def test_a_new_host_first_makes_what_guests_need() -> None:
    assert steps(NODE_SPEC, View()) == ["Plug", "ImportImage"]
    assert steps(NODE_SPEC, View(images=frozenset({IMAGE}))) == ["Plug", "CreateVolume"]
    assert steps(NODE_SPEC, EMPTY) == ["Boot"]


def test_the_door_of_metadata_that_an_earlier_agent_opened_is_closed_when_unwanted() -> None:
    network = NetworkId("9b1c5b5e-6d0c-4a53-9d6e-0f3d3a1f7c11")
    have = replace(HERE, unanswered_metadata=frozenset({network}))
    assert steps(NODE_SPEC, have) == ["CloseMetadata"]
    wanted = MetadataNetworkSpec(
        network_id=network, port_id=PORT, mac="fa:16:3e:00:00:01", addresses=("192.0.2.2/24",)
    )
    want = replace(NODE_SPEC, metadata_networks=(wanted,))
    assert steps(want, have) == ["OpenMetadata"]


def test_waiting_names_what_is_missing() -> None:
    assert "image" in (waiting_for(GUEST_SPEC, NODE_SPEC, View()) or "")
    assert "volume" in (waiting_for(GUEST_SPEC, NODE_SPEC, View(images=frozenset({IMAGE}))) or "")
    assert "port" in (waiting_for(GUEST_SPEC, NODE_SPEC, replace(EMPTY, ports={})) or "")
    assert waiting_for(GUEST_SPEC, NODE_SPEC, EMPTY) is None


def test_ports_wait_until_the_host_follows_the_zones_database() -> None:
    there = ("ssl:192.0.2.2:6642",)
    want = replace(NODE_SPEC, southbound=there)
    portless = replace(EMPTY, ports={})
    assert steps(want, portless) == ["JoinZone"]
    assert waiting_for(GUEST_SPEC, want, portless) == "the zone's network database"
    assert steps(want, replace(portless, southbound=there)) == ["Plug"]


def test_a_host_that_has_joined_follows_the_zone_elsewhere_and_keeps_its_ports() -> None:
    want = replace(NODE_SPEC, southbound=("ssl:192.0.2.3:6642",))
    assert steps(want, replace(HERE, southbound=("ssl:192.0.2.2:6642",))) == ["JoinZone"]


def test_only_a_host_with_a_zone_of_its_own_goes_back_to_its_own_database() -> None:
    joined = replace(HERE, southbound=("ssl:192.0.2.2:6642",))
    assert steps(NODE_SPEC, joined) == []
    own = replace(NODE_SPEC, zone=ZoneSpec())
    assert steps(own, joined, zone=ZoneSpec()) == ["JoinZone"]


def test_crashed_guest_is_booted_again_and_an_ended_one_is_not() -> None:
    assert steps(NODE_SPEC, replace(HERE, guests={GUEST: replace(DOWN, crashed=True)})) == ["Boot"]
    assert steps(NODE_SPEC, replace(HERE, guests={GUEST: replace(DOWN, ended=True)})) == []


def test_ended_guest_is_booted_when_its_owner_starts_it() -> None:
    ended = replace(HERE, guests={GUEST: replace(DOWN, ended=True)})
    assert steps(with_guest(boot_number=2), ended) == ["Boot"]


def test_stop_asks_first_and_cuts_off_after_the_grace() -> None:
    want = with_guest(power=Power.STOPPED, stop_grace_s=60)
    stopping = replace(HERE, guests={GUEST: replace(RUNNING, stopping=True)})
    assert steps(want, HERE) == ["ShutDown"]
    assert steps(want, stopping, stopping_s=59) == []
    assert steps(want, stopping, stopping_s=60) == ["CutOff"]
    assert steps(want, replace(HERE, guests={GUEST: DOWN})) == []
    assert steps(with_guest(power=Power.STOPPED, stop_grace_s=0), HERE) == ["CutOff"]


def test_reboots() -> None:
    assert steps(with_guest(boot_number=2), HERE) == ["CutOff"]
    assert steps(with_guest(boot_number=2, soft_reboot=True), HERE) == ["ShutDown"]
    assert steps(with_guest(boot_number=2), replace(HERE, guests={GUEST: DOWN})) == ["Boot"]


def test_stopped_guest_that_is_wished_stopped_is_left_alone_after_a_crash_of_the_host() -> None:
    crashed = replace(HERE, guests={GUEST: replace(DOWN, crashed=True)})
    assert steps(with_guest(power=Power.STOPPED), crashed) == []


def test_older_incarnation_goes_before_the_newer_comes() -> None:
    assert steps(with_guest(incarnation=2), HERE) == ["RemoveGuest"]


def test_unwanted_guest_keeps_its_volume_and_port_until_it_is_gone() -> None:
    nothing = NodeSpec(node_id=NODE_SPEC.node_id, number=2, images=NODE_SPEC.images)
    assert steps(nothing, HERE) == ["RemoveGuest"]
    assert steps(nothing, EMPTY) == ["Unplug", "RemoveVolume"]


def test_hot_plug_one_at_a_time() -> None:
    extra = VolumeId("extra")
    want = replace(
        NODE_SPEC,
        guests=(
            replace(GUEST_SPEC, disks=(*GUEST_SPEC.disks, DiskSpec(volume_id=extra, device="vdb"))),
        ),
        volumes=(ROOT_SPEC, VolumeSpec(id=extra, size_gib=1)),
    )
    assert steps(want, HERE) == ["CreateVolume"]
    there = replace(HERE, volumes={**HERE.volumes, extra: VolumeView(id=extra, size_gib=1)})
    assert steps(want, there) == ["PlugDisk"]
    plugged = replace(there, guests={GUEST: replace(RUNNING, disks=(ROOT, extra))})
    assert steps(want, plugged) == []
    assert steps(NODE_SPEC, plugged) == ["UnplugDisk"]
    assert steps(with_guest(nics=()), HERE) == ["UnplugNic"]
    assert steps(NODE_SPEC, replace(HERE, guests={GUEST: replace(RUNNING, nics=())})) == ["PlugNic"]
    assert steps(with_guest(nics=(NicSpec(port_id=PORT),)), HERE) == []


def test_snapshots_and_sizes() -> None:
    snapshot = SnapshotId("snap")
    want = replace(
        NODE_SPEC, volumes=(replace(ROOT_SPEC, size_gib=2, snapshots=(SnapshotSpec(id=snapshot),)),)
    )
    (first,) = plan(want, HERE, applied_zone=None, stopping_s={})
    assert isinstance(first, p.TakeSnapshot)
    assert first.used_by == GUEST
    taken = {ROOT: VolumeView(id=ROOT, size_gib=1, snapshots=(snapshot,))}
    assert steps(want, replace(HERE, volumes=taken)) == ["ExtendVolume"]
    assert steps(NODE_SPEC, replace(HERE, volumes=taken)) == ["RemoveSnapshot"]


def test_zone_is_written_when_it_differs() -> None:
    want = replace(NODE_SPEC, zone=ZoneSpec())
    assert steps(want, HERE) == ["ApplyZone"]
    assert steps(want, HERE, zone=ZoneSpec()) == []

"""Verbs, reports and the placer, on both databases."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Invalid, NotFound, OverQuota
from cairn.core.ids import NodeId, ProjectId, ServerId, SnapshotId, VolumeId
from cairn.db.engine import Database, Tx
from cairn.identity import service as identity
from cairn.volume import quota, service
from cairn.volume.control import Placer, choose, place_one
from cairn.volume.records import (
    Snapshot,
    SnapshotState,
    SnapshotWish,
    Volume,
    VolumeState,
    VolumeWish,
)
from tests.callers import CALLERS, P1
from tests.volume.hosts import Host, broken, host, seen

V = VolumeState
ALICE, BOB, ADMIN = CALLERS["alice"], CALLERS["bob"], CALLERS["admin"]
SERVER = ServerId("5e77e700-0000-4000-8000-000000000001")
OTHER_SERVER = ServerId("5e77e700-0000-4000-8000-000000000002")


class Bench:
    """A database with one host, and short words for what tests do to it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.host: Host = host(database)

    def do(self, verb: Callable[..., Any], *words: Any, **options: Any) -> Any:
        return self.database.write_now(lambda tx: verb(tx, *words, **options))

    def create(self, who: Caller = ALICE, **wish: Any) -> Volume:
        wish.setdefault("size_gib", 1)
        if wish["size_gib"] is None:
            del wish["size_gib"]
        volume: Volume = self.do(service.create, who, VolumeWish(**wish))
        return volume

    def available(self, **wish: Any) -> Volume:
        """A volume that is placed and made."""
        volume = self.create(**wish)
        if volume.node_id is None:
            assert self.do(place_one, volume.id) is None
        self.host.obey()
        return self.get(volume)

    def get(self, volume: Volume) -> Volume:
        found: Volume = self.do(service.get, ADMIN, volume.id)
        return found

    def snapshot(self, volume: Volume, **wish: Any) -> Snapshot:
        wished = SnapshotWish(volume_id=volume.id, **wish)
        snapshot: Snapshot = self.do(service.create_snapshot, ALICE, wished)
        return snapshot

    def is_gone(self, volume: Volume) -> bool:
        try:
            self.get(volume)
        except NotFound:
            return True
        return False


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database)


# --- making ------------------------------------------------------------------------------------------


def test_volume_is_placed_made_and_available(bench: Bench) -> None:
    volume = bench.create(name="v", size_gib=2)
    assert (volume.state, volume.node_id) == (V.CREATING, None)
    assert bench.host.wishes() == ()
    before = bench.host.spec_number()
    assert bench.do(place_one, volume.id) is None
    assert bench.host.spec_number() > before
    assert [(w.id, w.size_gib) for w in bench.host.wishes()] == [(volume.id, 2)]
    bench.host.obey()
    assert (bench.get(volume).state, bench.get(volume).seen_size_gib) == (V.AVAILABLE, 2)


async def test_placer_places_all_and_says_why_one_waits(bench: Bench) -> None:
    small, large = bench.create(size_gib=1), bench.create(size_gib=101)
    done = await Placer(bench.database).run_once()
    assert (done.found, done.done, len(done.failed)) == (2, 1, 1)
    assert bench.get(small).node_id == bench.host.id
    assert bench.get(large).node_id is None
    assert "101 GiB" in (bench.get(large).trouble or "")
    host(bench.database, "h2", disk_gib=200)
    assert (await Placer(bench.database).run_once()).done == 1
    assert bench.get(large).node_id == "h2"
    assert bench.get(large).trouble is None


def test_most_unclaimed_disk_wins_within_the_zone(bench: Bench) -> None:
    from cairn.fleet import service as fleet

    host(bench.database, "h2", disk_gib=150)
    host(bench.database, "h3", disk_gib=500, zone="away")
    volume = bench.create(size_gib=50)
    nodes = bench.do(fleet.nodes)
    assert choose(volume, nodes, {}) == "h2"
    assert choose(volume, nodes, {NodeId("h2"): 60}) == "h1"
    assert choose(volume, nodes, {NodeId("h2"): 120, NodeId("h1"): 60}) is None


def test_place_is_repeatable_but_never_moves(bench: Bench) -> None:
    volume = bench.available()
    bench.do(service.place, volume.id, bench.host.id)
    other = host(bench.database, "h2")
    with pytest.raises(Conflict, match="lives on host h1"):
        bench.do(service.place, volume.id, other.id)


def test_failure_is_told_after_three_tries_and_late_success_mends_it(bench: Bench) -> None:
    volume = bench.create()
    bench.do(place_one, volume.id)
    bench.host.report(broken(volume.id, "the storage pool is full", tries=1))
    assert bench.get(volume).state is V.CREATING
    bench.host.report(broken(volume.id, "the storage pool is full", tries=3))
    found = bench.get(volume)
    assert (found.state, found.trouble) == (V.ERROR, "the storage pool is full")
    bench.host.obey()
    found = bench.get(volume)
    assert (found.state, found.trouble) == (V.AVAILABLE, None)


def test_half_made_volume_is_not_available(bench: Bench) -> None:
    volume = bench.create(size_gib=2)
    bench.do(place_one, volume.id)
    bench.host.report(seen(volume.id, 1))
    assert bench.get(volume).state is V.CREATING


def test_late_report_changes_nothing(bench: Bench) -> None:
    volume = bench.available(size_gib=2)
    bench.do(service.extend, ALICE, volume.id, 3, even_in_use=False)
    bench.host.obey()
    bench.host.report(seen(volume.id, 2), number=bench.host.base + 1)
    assert bench.get(volume).seen_size_gib == 3


def test_copies_stay_where_their_source_is(bench: Bench) -> None:
    source = bench.available(size_gib=2, zone="nova")
    host(bench.database, "h2", disk_gib=900)
    clone = bench.create(source_id=source.id, size_gib=None)
    assert (clone.node_id, clone.size_gib) == (bench.host.id, 2)
    (wish,) = [w for w in bench.host.wishes() if w.id == clone.id]
    assert wish.from_volume == source.id


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"size_gib": None}, "size"),
        ({"size_gib": 0}, "size"),
        ({"zone": "mars"}, "availability_zone"),
        ({"image_id": "3f000000-0000-4000-8000-000000000001"}, "imageRef"),
        ({"image_id": "x", "source_id": "y"}, "Only one"),
    ],
)
def test_bad_wishes_name_the_field(bench: Bench, wish: dict[str, Any], why: str) -> None:
    with pytest.raises(Invalid, match=why):
        bench.create(**wish)


def test_copy_may_not_shrink_nor_leave_its_zone(bench: Bench) -> None:
    source = bench.available(size_gib=2)
    with pytest.raises(Invalid, match="less than"):
        bench.create(source_id=source.id, size_gib=1)
    with pytest.raises(Invalid, match="availability_zone"):
        bench.create(source_id=source.id, size_gib=2, zone="away")


def test_things_of_others_do_not_exist(bench: Bench) -> None:
    volume = bench.available()
    snapshot = bench.snapshot(volume)
    for verb in (
        lambda tx: service.get(tx, BOB, volume.id),
        lambda tx: service.delete(tx, BOB, volume.id),
        lambda tx: service.attach(tx, BOB, volume.id, SERVER, "vdb"),
        lambda tx: service.get_snapshot(tx, BOB, snapshot.id),
        lambda tx: service.create(tx, BOB, VolumeWish(source_id=volume.id)),
        lambda tx: service.create(tx, BOB, VolumeWish(snapshot_id=snapshot.id)),
        lambda tx: service.create_snapshot(tx, BOB, SnapshotWish(volume_id=volume.id)),
    ):
        with pytest.raises(NotFound):
            bench.database.write_now(verb)


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "maximum"), [("volumes", 1), ("gigabytes", 3), ("per_volume_gigabytes", 1)]
)
def test_limits_are_kept(bench: Bench, name: str, maximum: int) -> None:
    bench.available(size_gib=1)
    bench.do(identity.set_limit, ProjectId(P1), name, maximum)
    with pytest.raises(OverQuota):
        bench.create(size_gib=3)
    assert bench.do(quota.used, ProjectId(P1))["volumes"] == 1


def test_snapshots_and_growth_count(bench: Bench) -> None:
    volume = bench.available(size_gib=2)
    bench.do(identity.set_limit, ProjectId(P1), "gigabytes", 3)
    with pytest.raises(OverQuota, match="gigabytes"):
        bench.snapshot(volume)
    with pytest.raises(OverQuota, match="gigabytes"):
        bench.do(service.extend, ALICE, volume.id, 4, even_in_use=False)
    bench.do(identity.set_limit, ProjectId(P1), "gigabytes", -1)
    bench.do(identity.set_limit, ProjectId(P1), "snapshots", 0)
    with pytest.raises(OverQuota, match="snapshots"):
        bench.snapshot(volume)


# --- deleting ----------------------------------------------------------------------------------------


def test_row_goes_only_when_the_host_says_so(bench: Bench) -> None:
    volume = bench.available()
    old = bench.host.spec_number()
    bench.do(service.delete, ALICE, volume.id)
    assert bench.get(volume).state is V.DELETING
    (wish,) = bench.host.wishes()
    assert wish.is_doomed
    bench.host.report(spec_number=old)  # made before the wish was known
    assert not bench.is_gone(volume)
    bench.host.report(seen(volume.id, 1))  # not yet
    assert not bench.is_gone(volume)
    bench.host.report()
    assert bench.is_gone(volume)


def test_unplaced_volume_goes_at_once(bench: Bench) -> None:
    volume = bench.create()
    bench.do(service.delete, ALICE, volume.id)
    assert bench.is_gone(volume)


def test_volume_with_snapshots_goes_only_with_them(bench: Bench) -> None:
    volume = bench.available()
    snapshot = bench.snapshot(volume)
    bench.host.obey()
    with pytest.raises(Conflict, match="1 dependent snapshots"):
        bench.do(service.delete, ALICE, volume.id)
    bench.do(service.delete, ALICE, volume.id, cascade=True)
    bench.host.report()
    assert bench.is_gone(volume)
    with pytest.raises(NotFound):
        bench.do(service.get_snapshot, ALICE, snapshot.id)


def test_source_stays_until_the_copy_is_made(bench: Bench) -> None:
    source = bench.available()
    copy = bench.create(source_id=source.id)
    with pytest.raises(Conflict, match="being copied"):
        bench.do(service.delete, ALICE, source.id)
    with pytest.raises(Conflict, match="being copied"):
        bench.do(service.attach, ALICE, source.id, SERVER, "vdb")
    bench.host.obey()
    bench.do(service.delete, ALICE, source.id)
    bench.host.obey()
    assert bench.is_gone(source)
    assert bench.get(copy).state is V.AVAILABLE


def test_force_delete_never_takes_a_disk_from_a_server(bench: Bench) -> None:
    volume = bench.available()
    bench.do(service.attach, ALICE, volume.id, SERVER, "vdb")
    bench.do(service.attached, volume.id, SERVER)
    with pytest.raises(Conflict, match="has it"):
        bench.do(service.delete, ADMIN, volume.id, force=True)
    bench.do(service.detached, volume.id, SERVER)
    bench.do(service.reserve, ALICE, volume.id)
    bench.do(service.delete, ADMIN, volume.id, force=True)
    bench.host.obey()
    assert bench.is_gone(volume)


def test_word_deleting_takes_no_data_from_a_host(bench: Bench) -> None:
    volume = bench.available()
    snapshot = bench.snapshot(volume)
    bench.host.obey()
    bench.do(service.reset_snapshot_state, ADMIN, snapshot.id, SnapshotState.DELETING)
    bench.do(service.reset_state, ADMIN, volume.id, V.DELETING)
    assert [w.id for w in bench.host.wishes()] == [volume.id]
    assert [s.id for s in bench.host.wishes()[0].snapshots] == [snapshot.id]
    bench.do(service.reset_snapshot_state, ADMIN, snapshot.id, SnapshotState.AVAILABLE)
    bench.do(service.reset_state, ADMIN, volume.id, V.AVAILABLE)
    assert bench.get(volume).state is V.AVAILABLE


@pytest.mark.parametrize("word", list(SnapshotState))
def test_forced_delete_removes_a_snapshot_whatever_it_was_called(
    bench: Bench, word: SnapshotState
) -> None:
    snapshot = bench.snapshot(bench.available())
    bench.host.obey()
    bench.do(service.reset_snapshot_state, ADMIN, snapshot.id, word)
    bench.do(service.delete_snapshot, ADMIN, snapshot.id, force=True)
    with pytest.raises(Conflict, match="being removed"):
        bench.do(service.reset_snapshot_state, ADMIN, snapshot.id, SnapshotState.AVAILABLE)
    bench.do(service.delete_snapshot, ADMIN, snapshot.id, force=True)
    bench.host.obey()
    with pytest.raises(NotFound):
        bench.do(service.get_snapshot, ADMIN, snapshot.id)


def test_forced_delete_removes_a_volume_that_was_called_deleting(bench: Bench) -> None:
    volume = bench.available()
    bench.do(service.reset_state, ADMIN, volume.id, V.DELETING)
    bench.do(service.delete, ADMIN, volume.id, force=True)
    bench.host.obey()
    assert bench.is_gone(volume)


# --- servers -----------------------------------------------------------------------------------------


def test_attach_and_detach(bench: Bench) -> None:
    volume = bench.available()
    attachment = bench.do(service.attach, ALICE, volume.id, SERVER, "vdb")
    assert bench.get(volume).state is V.ATTACHING
    with pytest.raises(Conflict, match=SERVER):
        bench.do(service.attach, ALICE, volume.id, OTHER_SERVER, "vdb")
    bench.do(service.attached, volume.id, OTHER_SERVER)  # somebody else's news
    assert bench.get(volume).state is V.ATTACHING
    bench.do(service.attached, volume.id, SERVER)
    bench.do(service.attached, volume.id, SERVER)
    assert bench.get(volume).state is V.IN_USE
    assert bench.do(service.attachments_of, [SERVER, OTHER_SERVER])[SERVER][0].id == attachment.id
    with pytest.raises(Conflict):
        bench.do(service.delete, ALICE, volume.id)
    with pytest.raises(NotFound):
        bench.do(service.detach, ALICE, volume.id, OTHER_SERVER)
    bench.do(service.detach, ALICE, volume.id, SERVER)
    bench.do(service.detach, ALICE, volume.id, SERVER)
    assert bench.get(volume).state is V.DETACHING
    bench.do(service.attached, volume.id, SERVER)  # a report from before
    assert bench.get(volume).state is V.DETACHING
    bench.do(service.detached, volume.id, SERVER)
    bench.do(service.detached, volume.id, SERVER)
    found = bench.get(volume)
    assert (found.state, found.attachments) == (V.AVAILABLE, ())


def test_volume_for_a_server_goes_where_the_server_goes(bench: Bench) -> None:
    volume = bench.create(for_server=SERVER, device="vda")
    assert bench.do(place_one, volume.id) is None
    assert bench.get(volume).node_id is None  # the placer leaves it to compute
    bench.do(service.place, volume.id, bench.host.id)
    bench.host.obey()
    assert bench.get(volume).state is V.ATTACHING
    bench.do(service.attached, volume.id, SERVER)
    assert bench.get(volume).state is V.IN_USE


def test_volume_of_a_server_that_never_came_is_placed_after_all(bench: Bench) -> None:
    volume = bench.create(for_server=SERVER)
    bench.do(service.detached, volume.id, SERVER)
    assert bench.get(volume).state is V.CREATING
    bench.do(place_one, volume.id)
    assert bench.get(volume).node_id == bench.host.id


# --- growing -----------------------------------------------------------------------------------------


def test_extend_shows_the_old_size_until_it_is_done(bench: Bench) -> None:
    volume = bench.available(size_gib=1)
    with pytest.raises(Invalid, match="greater"):
        bench.do(service.extend, ALICE, volume.id, 1, even_in_use=False)
    bench.do(service.extend, ALICE, volume.id, 3, even_in_use=False)
    found = bench.get(volume)
    assert (found.state, found.shown_size_gib) == (V.EXTENDING, 1)
    assert bench.host.wishes()[0].size_gib == 3
    bench.host.obey()
    found = bench.get(volume)
    assert (found.state, found.shown_size_gib) == (V.AVAILABLE, 3)


def test_extend_in_use_only_when_asked_so(bench: Bench) -> None:
    volume = bench.available(size_gib=1)
    bench.do(service.attach, ALICE, volume.id, SERVER, "vdb")
    bench.do(service.attached, volume.id, SERVER)
    with pytest.raises(Conflict):
        bench.do(service.extend, ALICE, volume.id, 2, even_in_use=False)
    bench.do(service.extend, ALICE, volume.id, 2, even_in_use=True)
    bench.host.obey()
    assert bench.get(volume).state is V.IN_USE


def test_failed_extend_is_told_and_a_late_success_mends_it(bench: Bench) -> None:
    volume = bench.available(size_gib=1)
    bench.do(service.extend, ALICE, volume.id, 2, even_in_use=False)
    bench.host.report(broken(volume.id, "the storage pool is full", tries=3, size_gib=1))
    found = bench.get(volume)
    assert (found.state, found.shown_size_gib) == (V.ERROR_EXTENDING, 1)
    bench.host.obey()
    assert bench.get(volume).state is V.AVAILABLE


# --- snapshots ---------------------------------------------------------------------------------------


def test_snapshot_lives_and_goes(bench: Bench) -> None:
    volume = bench.available()
    snapshot = bench.snapshot(volume)
    assert [s.id for s in bench.host.wishes()[0].snapshots] == [snapshot.id]
    assert snapshot.state == "creating"
    bench.host.obey()
    assert bench.do(service.get_snapshot, ALICE, snapshot.id).state == "available"
    bench.do(service.delete_snapshot, ALICE, snapshot.id)
    assert bench.host.wishes()[0].snapshots == ()
    bench.host.report(seen(volume.id, 1, snapshot.id))
    assert bench.do(service.get_snapshot, ALICE, snapshot.id).state == "deleting"
    bench.host.obey()
    with pytest.raises(NotFound):
        bench.do(service.get_snapshot, ALICE, snapshot.id)


def test_volume_from_snapshot_outlives_it(bench: Bench) -> None:
    volume = bench.available(size_gib=2)
    snapshot = bench.snapshot(volume)
    with pytest.raises(Conflict, match="snapshot"):
        bench.create(snapshot_id=snapshot.id, size_gib=2)
    bench.host.obey()
    copy = bench.create(snapshot_id=snapshot.id, size_gib=None)
    assert (copy.node_id, copy.size_gib) == (bench.host.id, 2)
    with pytest.raises(Conflict, match="being copied"):
        bench.do(service.delete_snapshot, ALICE, snapshot.id)
    bench.host.obey()
    bench.do(service.delete_snapshot, ALICE, snapshot.id)
    bench.host.obey()
    assert bench.get(copy).state is V.AVAILABLE


def test_snapshot_in_use_needs_force(bench: Bench) -> None:
    volume = bench.available()
    bench.do(service.attach, ALICE, volume.id, SERVER, "vdb")
    bench.do(service.attached, volume.id, SERVER)
    with pytest.raises(Conflict, match="must be available"):
        bench.snapshot(volume)
    assert bench.snapshot(volume, even_in_use=True).state == "creating"


def test_failed_snapshot_is_told(bench: Bench) -> None:
    volume = bench.available()
    snapshot = bench.snapshot(volume)
    bench.host.report(broken(volume.id, "the storage failed", tries=3, size_gib=1))
    found = bench.do(service.get_snapshot, ALICE, snapshot.id)
    assert (found.state, found.trouble) == ("error", "the storage failed")
    assert bench.get(volume).state is V.AVAILABLE


def test_reading_a_host_takes_few_statements(bench: Bench) -> None:
    for _ in range(5):
        bench.snapshot(bench.available())

    def count(tx: Tx) -> int:
        assert len(service.volumes_of(tx, bench.host.id)) == 5
        return tx.statements

    assert bench.database.read_now(count) <= 3


def test_unknown_ids_are_not_found(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.do(service.get, ALICE, VolumeId("nothing"))
    with pytest.raises(NotFound):
        bench.do(service.get_snapshot, ALICE, SnapshotId("nothing"))
    with pytest.raises(NotFound):
        bench.do(service.place, VolumeId("nothing"), bench.host.id)


def test_admin_may_delete_what_is_not_his(bench: Bench) -> None:
    volume = bench.available()
    bench.do(service.delete, replace(ADMIN, project_id=None), volume.id)
    assert bench.get(volume).state is V.DELETING

"""Servers that move between hosts: step by step, as both hosts report, and whatever goes wrong."""

from datetime import timedelta

import pytest

from cairn import membership
from cairn.compute import store as servers
from cairn.compute.migration_records import MIGRATION_LIFE, OPEN, MigrationState
from cairn.core.clock import FakeClock
from cairn.core.errors import Conflict
from cairn.core.ids import ServerId, VolumeId
from cairn.db.engine import Database, Tx
from cairn.fleet import service as fleet
from cairn.fleet.store import nodes
from cairn.volume import service as volumes
from cairn.volume.records import SnapshotWish
from cairn.wire.report import GuestState, MigrationSeen, Trouble
from cairn.wire.spec import Power
from tests.compute.moving import LIVE, Moving
from tests.compute.world import ADMIN, ALICE, at

M = MigrationState


@pytest.fixture
def world(database: Database) -> Moving:
    return Moving(database)


@pytest.mark.parametrize("state", M)
def test_every_open_state_can_end_and_no_closed_one_goes_on(state: M) -> None:
    follows = {event for s, event in MIGRATION_LIFE.table if s is state}
    assert ({"fail", "cancel"} <= follows) == (state in OPEN)
    assert bool(follows) == (state in OPEN)


def test_running_server_moves_without_standing_still(world: Moving) -> None:
    volume_id = world.new_volume()
    server_id = world.active()
    path = f"/compute/v2.1/servers/{server_id}/os-volume_attachments"
    old, new = world.home(server_id), world.away(server_id)
    home = world.volume(volume_id).node_id
    if home == old.id:
        assert (
            world.api.post(path, {"volumeAttachment": {"volumeId": volume_id}}).status_code == 200
        )
        old.obey()
    port_id = old.specs()[ServerId(server_id)].nics[0].port_id

    assert world.request(server_id, LIVE).status_code == 202
    shown = world.show(server_id)
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("MIGRATING", "migrating")
    assert world.incoming(new, server_id) is None, "nothing is prepared before there is room"

    world.go_on()
    incoming = world.incoming(new, server_id)
    assert incoming is not None and incoming.from_node == old.id and len(incoming.secret) == 64
    assert new.specs()[ServerId(server_id)].incarnation == 2
    assert world.outgoing(old, server_id) is None, (
        "the old host hears of it when the new one is ready"
    )
    assert world.claims(new) == [world.move_of(server_id).claimant]
    assert world.claims(old) == [server_id]

    world.wait_for_it(new, server_id)
    outgoing = world.outgoing(old, server_id)
    assert outgoing is not None and outgoing.memory_port == 49152
    assert outgoing.secret == incoming.secret
    world.send(old, server_id, left=400)
    assert (world.move_of(server_id).total_bytes, world.move_of(server_id).left_bytes) == (
        1000,
        400,
    )

    world.say_sent(old, server_id)
    assert world.is_own(new, server_id) and not world.is_own(old, server_id)
    assert new.specs()[ServerId(server_id)].incarnation == 2
    assert world.claims(new) == [server_id] and world.claims(old) == []
    new.obey()
    shown = world.show(server_id, who="admin")
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ACTIVE", None)
    assert shown["OS-EXT-SRV-ATTR:host"] == new.facts.hostname
    assert world.move_of(server_id).pause_ms == 33
    bound = world.database.read_now(lambda tx: servers.nics_of(tx, [ServerId(server_id)]))
    assert bound[ServerId(server_id)][0].port_id == port_id
    if home == old.id:
        assert world.volume(volume_id).node_id == new.id
        assert world.volume(volume_id).state == "in-use"


def test_the_new_host_may_be_the_first_to_say_so(world: Moving) -> None:
    server_id = world.under_way()
    old, new = world.home(server_id), world.away(server_id)
    new.say(server_id, GuestState.RUNNING)
    assert world.is_own(new, server_id)
    old.report()
    assert world.move_of(server_id).state is M.DONE


def test_guest_that_crashed_there_had_come(world: Moving) -> None:
    server_id = world.under_way()
    new = world.away(server_id)
    new.say(server_id, GuestState.CRASHED)
    assert world.is_own(new, server_id)
    assert new.specs()[ServerId(server_id)].power is Power.RUNNING


def test_trouble_of_the_new_host_before_it_is_ready_ends_it_at_once(world: Moving) -> None:
    server_id = world.active()
    world.request(server_id, LIVE)
    world.go_on()
    old, new = world.home(server_id), world.away(server_id)
    new.say(server_id, GuestState.WAITING, trouble=Trouble(message="the pool is full", tries=3))
    move = world.move_of(server_id)
    assert (move.state, move.why) == (M.FAILED, "the pool is full")
    assert world.incoming(new, server_id) is None
    assert world.claims(new) == [] and world.claims(old) == [server_id]
    assert world.show(server_id)["status"] == "ACTIVE"
    actions = world.api.get(f"/compute/v2.1/servers/{server_id}/os-instance-actions").json
    assert any(
        a["action"] == "live-migration" and a["message"] == "Error"
        for a in actions["instanceActions"]
    )


def test_sender_that_failed_ends_it_and_the_guest_runs_on(world: Moving) -> None:
    server_id = world.under_way()
    old, new = world.home(server_id), world.away(server_id)
    world.send(old, server_id, left=400, trouble="the connection broke")
    assert world.move_of(server_id).state is M.FAILED
    assert world.outgoing(old, server_id) is None and world.incoming(new, server_id) is None
    assert world.is_own(old, server_id)


def test_cancelled_move_keeps_the_new_host_ready_until_the_old_one_has_stopped(
    world: Moving,
) -> None:
    server_id = world.under_way()
    old, new = world.home(server_id), world.away(server_id)
    number = world.move_of(server_id).number
    path = f"/compute/v2.1/servers/{server_id}/migrations/{number}"
    assert world.api.delete(path, who="admin", headers=at("2.24")).status_code == 202
    outgoing = world.outgoing(old, server_id)
    assert outgoing is not None and outgoing.is_cancelled
    assert world.incoming(new, server_id) is not None
    old.say(server_id, GuestState.RUNNING)  # No word about the move: it may still be on its way.
    assert world.move_of(server_id).state is M.STOPPING
    world.send(old, server_id, left=100, trouble="cancelled")
    assert world.move_of(server_id).state is M.CANCELLED
    assert world.incoming(new, server_id) is None and world.claims(new) == []


def test_answer_under_older_wishes_is_none(world: Moving) -> None:
    server_id = world.under_way()
    old = world.home(server_id)
    move = world.move_of(server_id)
    world.api.delete(
        f"/compute/v2.1/servers/{server_id}/migrations/{move.number}",
        who="admin",
        headers=at("2.24"),
    )
    spec = old.specs()[ServerId(server_id)]
    seen = MigrationSeen(migration_id=move.id, trouble=Trouble(message="cancelled"))
    old.guests[spec.id] = old.guests[spec.id].__class__(
        id=spec.id, incarnation=1, boot_number=1, state=GuestState.RUNNING, migration=seen
    )
    old.report(spec_number=world.move_of(server_id).stop_number - 1)
    assert world.move_of(server_id).state is M.STOPPING


def test_cancelled_too_late_is_done(world: Moving) -> None:
    server_id = world.under_way()
    old, new = world.home(server_id), world.away(server_id)
    number = world.move_of(server_id).number
    path = f"/compute/v2.1/servers/{server_id}/migrations/{number}"
    world.api.delete(path, who="admin", headers=at("2.24"))
    world.say_sent(old, server_id)
    assert world.move_of(server_id).state is M.DONE
    assert world.is_own(new, server_id)


@pytest.mark.parametrize("has_come", [False, True])
def test_old_host_that_died_on_the_way_boots_nothing_before_the_new_one_was_asked(
    world: Moving, has_come: bool
) -> None:
    server_id = world.under_way()
    old, new = world.home(server_id), world.away(server_id)
    seen = MigrationSeen(migration_id=world.move_of(server_id).id, total_bytes=10, left_bytes=0)
    old.say(server_id, GuestState.CRASHED, migration=seen)
    outgoing = world.outgoing(old, server_id)
    assert outgoing is not None and outgoing.is_cancelled, "so its agent boots nothing"
    old.say(server_id, GuestState.CRASHED, migration=seen)
    assert world.move_of(server_id).ask_number > 0
    assert world.outgoing(old, server_id) is not None
    if has_come:
        new.say(server_id, GuestState.RUNNING)
        assert world.is_own(new, server_id)
    else:
        world.wait_for_it(new, server_id)
        assert world.move_of(server_id).state is M.FAILED
        assert world.outgoing(old, server_id) is None
        assert world.is_own(old, server_id)


def test_stopped_server_moves_with_its_disks_alone(world: Moving) -> None:
    server_id = world.active()
    world.act(server_id, "os-stop")
    old = world.home(server_id)
    old.obey()
    assert world.show(server_id)["status"] == "SHUTOFF"
    assert world.request(server_id, LIVE).status_code == 409
    assert world.request(server_id, {"migrate": None}).status_code == 202
    world.go_on()
    new = world.away(server_id)
    assert new.specs()[ServerId(server_id)].power is Power.STOPPED
    world.wait_for_it(new, server_id)
    world.say_sent(old, server_id)
    shown = world.show(server_id)
    assert (shown["status"], shown["OS-EXT-STS:vm_state"]) == ("VERIFY_RESIZE", "resized")
    assert world.request(server_id, {"confirmResize": None}).status_code == 204
    new.obey()
    assert world.show(server_id)["status"] == "SHUTOFF"


def moved_cold(world: Moving) -> str:
    """A running server that was moved cold and waits to be confirmed."""
    server_id = world.active()
    old, new = world.home(server_id), world.away(server_id)
    assert world.request(server_id, {"migrate": None}).status_code == 202
    assert world.show(server_id)["status"] == "RESIZE"
    world.go_on()
    world.wait_for_it(new, server_id)
    assert old.specs()[ServerId(server_id)].power is Power.STOPPED, "it is shut down first"
    world.send(old, server_id, left=10)
    world.say_sent(old, server_id)
    spec = new.specs()[ServerId(server_id)]
    assert (spec.power, spec.boot_number) == (Power.RUNNING, 2)
    new.obey()
    return server_id


def test_cold_move_is_confirmed(world: Moving) -> None:
    server_id = moved_cold(world)
    old, new = world.away(server_id), world.home(server_id)
    assert world.show(server_id)["status"] == "VERIFY_RESIZE"
    assert world.claims(old) == [world.move_of(server_id).claimant], "room for the way back"
    assert world.act(server_id, "os-stop").status_code == 409
    assert world.request(server_id, {"confirmResize": None}).status_code == 204
    assert world.show(server_id)["status"] == "ACTIVE"
    assert world.claims(old) == [] and world.claims(new) == [server_id]
    assert world.request(server_id, {"confirmResize": None}).status_code == 409


def test_cold_move_is_reverted(world: Moving) -> None:
    server_id = moved_cold(world)
    old, new = world.away(server_id), world.home(server_id)
    assert world.request(server_id, {"revertResize": None}).status_code == 202
    world.go_on()
    move = world.move_of(server_id)
    assert (move.from_node, move.to_node) == (new.id, old.id)
    assert move.incarnation == 3
    assert not move.is_cleared, "its old disks must go from there first"
    wanted = {v.id for v in _disks(world, old)}
    assert VolumeId(server_id) not in wanted
    old.guests.clear()
    old.say(server_id, GuestState.WAITING)
    assert world.move_of(server_id).is_cleared
    assert VolumeId(server_id) in {v.id for v in _disks(world, old)}
    world.wait_for_it(old, server_id)
    old.say(server_id, GuestState.RUNNING)
    assert world.show(server_id)["status"] == "ACTIVE"
    assert world.is_own(old, server_id)


def _disks(world: Moving, host: object) -> tuple[object, ...]:
    from cairn.compute import service as compute

    return world.database.read_now(lambda tx: compute.wanted_on(tx, host.id).disks)  # type: ignore[attr-defined]


def test_moving_server_is_left_alone_by_everybody_else(world: Moving) -> None:
    server_id = world.under_way()
    for action in ("os-stop", "os-start"):
        assert world.act(server_id, action).status_code == 409
    assert world.act(server_id, "reboot", {"type": "HARD"}).status_code == 409
    assert world.request(server_id, LIVE).status_code == 409
    path = f"/compute/v2.1/servers/{server_id}/os-volume_attachments"
    volume_id = world.new_volume()
    assert world.api.post(path, {"volumeAttachment": {"volumeId": volume_id}}).status_code == 409


def test_volume_of_a_moving_server_is_neither_extended_nor_kept(world: Moving) -> None:
    server_id = world.active()
    volume_id = VolumeId(world.new_volume())
    old = world.home(server_id)
    if world.volume(volume_id).node_id != old.id:
        volume_id = VolumeId(world.new_volume())
    path = f"/compute/v2.1/servers/{server_id}/os-volume_attachments"
    assert world.api.post(path, {"volumeAttachment": {"volumeId": volume_id}}).status_code == 200
    old.obey()
    world.request(server_id, LIVE)
    wish = SnapshotWish(volume_id=volume_id, even_in_use=True)
    with pytest.raises(Conflict, match="moved to another host"):
        world.database.write_now(lambda tx: volumes.create_snapshot(tx, ALICE, wish))
    with pytest.raises(Conflict, match="moved to another host"):
        world.database.write_now(
            lambda tx: volumes.extend(tx, ALICE, volume_id, 5, even_in_use=True)
        )
    world.go_on()
    world.wait_for_it(world.away(server_id), server_id)
    world.send(old, server_id, left=1, trouble="broke")
    world.database.write_now(lambda tx: volumes.create_snapshot(tx, ALICE, wish))
    answer = world.request(server_id, LIVE)
    assert answer.status_code == 409 and "snapshot" in answer.text


def test_deleting_a_moving_server_waits_until_it_is_known_where_it_is(world: Moving) -> None:
    server_id = world.under_way()
    old, new = world.home(server_id), world.away(server_id)
    assert world.api.delete(f"/compute/v2.1/servers/{server_id}").status_code == 204
    assert world.show(server_id)["OS-EXT-STS:task_state"] == "deleting"
    outgoing = world.outgoing(old, server_id)
    assert outgoing is not None and outgoing.is_cancelled
    world.say_sent(old, server_id)
    assert ServerId(server_id) not in new.specs()
    old.guests.clear()
    new.guests.clear()
    for host in (old, new):
        host.report()
    assert world.api.get(f"/compute/v2.1/servers/{server_id}").status_code == 404
    assert world.claims(old) == [] and world.claims(new) == []


def test_deleting_a_queued_one_ends_it_at_once(world: Moving) -> None:
    server_id = world.active()
    world.request(server_id, LIVE)
    assert world.api.delete(f"/compute/v2.1/servers/{server_id}").status_code == 204
    assert world.move_of(server_id).state is M.CANCELLED
    for host in world.hosts:
        host.guests.clear()
        host.report()
    assert world.api.get(f"/compute/v2.1/servers/{server_id}").status_code == 404


def test_at_most_so_many_move_at_once(world: Moving) -> None:
    ids = [world.active() for _ in range(2)]
    home = world.home(ids[0])
    while sum(world.is_own(home, i) for i in ids) < 3:
        ids.append(world.active())
    mine = [i for i in ids if world.is_own(home, i)]
    for server_id in mine:
        assert world.request(server_id, LIVE).status_code == 202
    world.go_on(at_once=2)
    states = [world.move_of(i).state for i in mine]
    assert states.count(M.PREPARING) == 2 and states.count(M.QUEUED) == len(mine) - 2


def test_new_host_that_never_gets_ready_is_given_up(world: Moving, clock: FakeClock) -> None:
    server_id = world.active()
    world.request(server_id, LIVE)
    world.go_on()
    clock.advance(timedelta(seconds=121).total_seconds())
    world.go_on()
    move = world.move_of(server_id)
    assert move.state is M.FAILED and "did not make ready" in (move.why or "")


def test_copying_that_comes_to_a_halt_is_called_back(world: Moving, clock: FakeClock) -> None:
    server_id = world.under_way()
    clock.advance(301)
    world.go_on()
    assert world.move_of(server_id).state is M.STOPPING
    outgoing = world.outgoing(world.home(server_id), server_id)
    assert outgoing is not None and outgoing.is_cancelled


def test_host_that_cannot_migrate_live_is_said(database: Database) -> None:
    world = Moving(database, hosts=1)
    world.hosts.append(world.add_host("plain", features=()))
    server_id = world.active()
    answer = world.request(server_id, LIVE, version="2.30")
    assert answer.status_code == 400 and "cannot migrate live" in answer.text
    assert world.request(server_id, LIVE, version="2.34").status_code == 202
    world.go_on()
    move = world.move_of(server_id)
    assert move.state is M.FAILED and "cannot migrate live" in (move.why or "")


def test_bodies_by_microversion(world: Moving) -> None:
    server_id = world.active()
    old = {"host": None, "block_migration": False, "disk_over_commit": False}
    new = {"host": None, "block_migration": "auto"}
    wrong = [
        ("2.1", new), ("2.25", old), ("2.25", {"host": None}), ("2.29", {**new, "force": False}),
        ("2.68", {**new, "force": False}), ("2.30", {**new, "force": True}),
        ("2.25", {"host": 5, "block_migration": "auto"}), ("2.25", {"host": None, "block_migration": 7}),
        ("2.25", None), ("2.25", {"host": "nowhere", "block_migration": "auto"}),
    ]  # fmt: skip
    for version, body in wrong:
        answer = world.request(server_id, {"os-migrateLive": body}, version=version)
        assert answer.status_code == 400, (version, body, answer.text)
    home = world.home(server_id).facts.hostname
    here = {"os-migrateLive": {"host": home, "block_migration": "auto"}}
    assert world.request(server_id, here).status_code == 400
    assert world.request(server_id, {"migrate": {"host": home}}).status_code == 400
    assert world.request(server_id, {"migrate": {"where": home}}).status_code == 400
    away = world.away(server_id).facts.hostname
    body = {"os-migrateLive": {**old, "host": away}}
    assert world.request(server_id, body, version="2.1").status_code == 202


def test_only_administrators_move_servers(world: Moving) -> None:
    server_id = world.active()
    path = f"/compute/v2.1/servers/{server_id}/action"
    assert world.api.post(path, LIVE, headers=at("2.56")).status_code == 403
    assert world.api.post(path, {"migrate": None}).status_code == 403
    assert world.api.get("/compute/v2.1/os-migrations").status_code == 403


def test_progress_is_shown_while_it_lasts(world: Moving) -> None:
    server_id = world.under_way()
    world.send(world.home(server_id), server_id, left=400)
    base = f"/compute/v2.1/servers/{server_id}/migrations"

    def ask(path: str, version: str) -> object:
        answer = world.api.get(path, who="admin", headers=at(version))
        return answer.json if answer.status_code == 200 else answer.status_code

    (shown,) = ask(base, "2.80")["migrations"]  # type: ignore[index]
    assert shown["status"] == "running"
    assert (shown["memory_total_bytes"], shown["memory_remaining_bytes"]) == (1000, 400)
    assert shown["dest_compute"] == world.away(server_id).facts.hostname
    assert {"uuid", "user_id", "project_id"} <= set(shown)
    one = f"{base}/{shown['id']}"
    assert set(ask(one, "2.23")["migration"]) == set(shown) - {"uuid", "user_id", "project_id"}  # type: ignore[index]
    assert ask(base, "2.22") == 404
    forced = world.api.post(
        f"{one}/action", {"force_complete": None}, who="admin", headers=at("2.22")
    )
    assert forced.status_code == 409 and "cannot be forced" in forced.text
    new = world.away(server_id)
    world.say_sent(world.home(server_id), server_id)
    new.obey()
    assert ask(one, "2.23") == 404
    assert ask(base, "2.23") == {"migrations": []}


def test_queued_one_is_aborted_since_265(world: Moving) -> None:
    server_id = world.active()
    world.request(server_id, LIVE)
    path = f"/compute/v2.1/servers/{server_id}/migrations/{world.move_of(server_id).number}"
    assert world.api.delete(path, who="admin", headers=at("2.64")).status_code == 409
    assert world.api.delete(path, who="admin", headers=at("2.65")).status_code == 202
    assert world.move_of(server_id).state is M.CANCELLED
    assert world.api.delete(path, who="admin", headers=at("2.65")).status_code == 409


@pytest.mark.parametrize("gone", ["old", "new"])
@pytest.mark.parametrize("is_ready", [False, True])
def test_host_that_is_gone_for_good_ends_what_moves_from_and_to_it(
    world: Moving, gone: str, is_ready: bool
) -> None:
    server_id = world.active()
    world.request(server_id, LIVE)
    world.go_on()
    old, new = world.home(server_id), world.away(server_id)
    if is_ready:
        world.wait_for_it(new, server_id)
    lost = old if gone == "old" else new

    def write_off(tx: Tx) -> None:
        fleet.silent(tx, lost.id)
        tx.execute(nodes.update().where(nodes.c.id == lost.id).values(state="lost"))
        membership.remove(tx, fleet.node(tx, lost.id), is_gone=True)

    world.database.write_now(write_off)
    world.go_on()
    if gone == "old":
        assert world.move_of(server_id).state is M.FAILED
        assert new.specs() == {} and world.claims(new) == []
        assert world.show(server_id)["status"] == "ERROR"
    elif is_ready:
        outgoing = world.outgoing(old, server_id)
        assert outgoing is not None and outgoing.is_cancelled
        world.say_sent(old, server_id)
        assert world.show(server_id)["status"] == "ERROR", "it went where nobody will find it"
        assert old.specs() == {} and world.claims(old) == []
    else:
        assert world.move_of(server_id).state is M.FAILED
        assert world.show(server_id)["status"] == "ACTIVE"
        assert world.claims(old) == [server_id]


def test_list_of_all_migrations(world: Moving) -> None:
    first, second = world.active(), world.active()
    world.request(first, LIVE)
    world.request(second, {"migrate": None})
    base = "/compute/v2.1/os-migrations"

    def ask(query: str = "", version: str = "2.80") -> list[str]:
        answer = world.api.get(base + query, who="admin", headers=at(version))
        assert answer.status_code == 200, answer.text
        return [m["instance_uuid"] for m in answer.json["migrations"]]

    assert ask() == [second, first]
    assert ask("?limit=1") == [second]
    page = world.api.get(base + "?limit=1", who="admin", headers=at("2.59")).json
    assert page["migrations_links"][0]["rel"] == "next"
    assert ask(f"?marker={page['migrations'][0]['uuid']}") == [first]
    assert ask("?migration_type=migration") == [second]
    assert ask("?status=queued") == [second, first]
    assert ask("?status=completed") == []
    assert ask(f"?instance_uuid={first}") == [first]
    assert ask(f"?user_id={ADMIN.user_id}") == [second, first]
    assert ask("?changes-before=2001-01-01T00:00:00Z") == []
    assert ask("?changes-since=2001-01-01T00:00:00Z") == [second, first]
    for query, version in (("?what=1", "2.59"), ("?user_id=1", "2.66"), ("?marker=x", "2.59")):
        answer = world.api.get(base + query, who="admin", headers=at(version))
        assert answer.status_code == 400, query
    (old,) = {
        frozenset(m) for m in world.api.get(base, who="admin", headers=at("2.1")).json["migrations"]
    }
    assert not old & {"uuid", "links", "migration_type"}


def test_moved_server_counts_as_moved_for_its_owner(world: Moving) -> None:
    server_id = world.under_way()
    old = world.home(server_id)
    before = world.show(server_id)["hostId"]
    world.say_sent(old, server_id)
    assert world.show(server_id)["hostId"] != before

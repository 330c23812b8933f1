"""Emptying hosts: the plan, what stays and why, and that it goes on by itself."""

from typing import Any

import pytest

from cairn.compute import drain, migrations
from cairn.compute.migration_records import MigrationState
from cairn.core.clock import FakeClock
from cairn.db.engine import Database
from cairn.fleet import service as fleet
from cairn.placement import service as placement
from cairn.wire.report import GuestState, Trouble
from tests.compute.moving import Moving
from tests.compute.world import Host

M = MigrationState


@pytest.fixture
def world(database: Database) -> Moving:
    return Moving(database, hosts=3)


def filled(world: Moving, count: int = 3) -> Host:
    """A host with so many servers, the others empty."""
    host, *others = world.hosts
    for other in others:
        _enable(world, other, enabled=False)
    for number in range(count):
        world.active(name=f"s{number}")
    for other in others:
        _enable(world, other, enabled=True)
    return host


def _enable(world: Moving, host: Host, *, enabled: bool) -> None:
    world.database.write_now(lambda tx: fleet.set_enabled(tx, host.id, enabled=enabled))


def begin(world: Moving, host: Host) -> Any:
    answer = world.operator.post(f"/cairn/v1/hosts/{host.id}/drain", {}, who="admin")
    assert answer.status_code == 202, answer.text
    return answer.json["drain"]


def carry(world: Moving, host: Host) -> None:
    """All that has begun to move arrives."""
    for server_id in list(host.specs()):
        move = world.database.read_now(
            lambda tx, s=server_id: drain.rows.of_server(tx, s)  # type: ignore[misc]
        )
        if not move or move[0].state not in (M.PREPARING, M.COPYING):
            continue
        target = next(h for h in world.hosts if h.id == move[0].to_node)
        world.wait_for_it(target, server_id)
        world.say_sent(host, server_id)
        del host.guests[server_id]
        target.obey()


def states(shown: Any) -> dict[str, str]:
    return {g["name"]: g["state"] for g in shown["servers"]}


def test_plan_says_where_each_would_go_and_changes_nothing(world: Moving) -> None:
    host = filled(world)
    shown = world.drained(host)
    assert not shown["is_draining"]
    assert [g["state"] for g in shown["servers"]] == ["waiting"] * 3
    assert {g["target"] for g in shown["servers"]} <= {"host1", "host2"}
    assert {g["way"] for g in shown["servers"]} == {"live"}
    assert not world.is_draining(host)
    assert not world.database.read_now(drain.rows.open_ones)


def test_biggest_go_first_and_what_does_not_fit_is_said(world: Moving) -> None:
    host = filled(world, 2)
    for other in world.hosts[1:]:
        _enable(world, other, enabled=False)
    answer = world.api.post(
        "/compute/v2.1/flavors",
        {"flavor": {"name": "big", "id": "5", "ram": 2048, "vcpus": 1, "disk": 2}},
        who="admin",
    )
    assert answer.status_code == 200
    world.active(name="big", flavorRef="5")
    node, servers, has, nodes = _inputs(world, host)
    rooms = world.database.read_now(lambda tx: placement.rooms(tx, nodes))
    steps = drain.plan(node, servers, has, nodes, rooms)
    assert next(s.server.name for s in steps) == "big"
    assert all(s.target is None and "is disabled" in (s.reason or "") for s in steps)
    _enable(world, world.hosts[1], enabled=True)
    node, servers, has, nodes = _inputs(world, host)
    left = {
        n: r.__class__(
            node_id=n,
            capacity=r.capacity,
            taken=r.taken.__class__(memory_mib=r.capacity.memory_mib - 2560),
        )
        for n, r in rooms.items()
    }
    steps = drain.plan(node, servers, has, nodes, left)
    assert [bool(s.target) for s in steps] == [True, True, False], "big and one small are all"
    assert "lacks 512 MiB of memory (0 free)" in (steps[2].reason or "")


def _inputs(world: Moving, host: Host) -> Any:
    from cairn.compute import store

    def read(tx: Any) -> Any:
        node = fleet.node(tx, host.id)
        servers = store.servers_on(tx, host.id)
        nodes = [n for n in fleet.nodes(tx) if n.id != host.id]
        return node, servers, migrations.belongings(tx, node, servers), nodes

    return world.database.read_now(read)


def test_drain_moves_all_by_itself_and_takes_no_new_ones(world: Moving) -> None:
    host = filled(world)
    shown = begin(world, host)
    assert shown["is_draining"] and world.is_draining(host)
    for _ in range(4):
        world.go_on(at_once=2)
        world.go_on(at_once=2)
        carry(world, host)
    shown = world.drained(host)
    assert set(states(shown).values()) == {"done"}
    assert all(g["pause_ms"] == 33 for g in shown["servers"])
    assert not host.specs() and world.claims(host) == []
    server_id = world.active()
    assert not world.is_own(host, server_id)


def test_only_so_many_go_at_once(world: Moving) -> None:
    host = filled(world)
    begin(world, host)
    world.go_on(at_once=1)
    assert sorted(states(world.drained(host)).values()) == ["preparing", "waiting", "waiting"]


def test_what_cannot_go_stays_with_its_reason_and_the_rest_goes(world: Moving) -> None:
    host = filled(world, 2)
    stuck = next(iter(host.specs()))
    host.say(stuck, GuestState.WAITING, trouble=Trouble(message="no disk", tries=3))
    shown = begin(world, host)
    reasons = {g["id"]: g["reason"] for g in shown["servers"]}
    assert reasons[stuck] == "is in vm_state error"
    world.go_on()
    carry(world, host)
    assert sorted(states(world.drained(host)).values()) == ["done", "stays"]


def test_idle_volumes_stay_and_it_says_so(world: Moving) -> None:
    volume_id = world.new_volume()
    host = next(h for h in world.hosts if h.id == world.volume(volume_id).node_id)
    (volume,) = world.drained(host)["volumes"]
    assert volume["id"] == volume_id and "no server has it" in volume["reason"]


def test_undrain_lets_the_copying_finish_and_the_others_stay(world: Moving) -> None:
    host = filled(world)
    begin(world, host)
    world.go_on(at_once=1)
    (moving,) = [g for g in world.drained(host)["servers"] if g["state"] == "preparing"]
    target = next(h for h in world.hosts if h.facts.hostname == moving["target"])
    world.wait_for_it(target, moving["id"])
    answer = world.operator.delete(f"/cairn/v1/hosts/{host.id}/drain", who="admin")
    assert answer.status_code == 200
    assert not world.is_draining(host)
    assert world.move_of(moving["id"]).state is M.COPYING
    world.say_sent(host, moving["id"])
    assert world.is_own(target, moving["id"])
    world.go_on()
    assert len(host.specs()) == 2


def test_undrain_can_call_back_what_is_being_copied(world: Moving) -> None:
    host = filled(world, 1)
    (server_id,) = host.specs()
    begin(world, host)
    world.go_on()
    target = next(h for h in world.hosts if h.id == world.move_of(server_id).to_node)
    world.wait_for_it(target, server_id)
    path = f"/cairn/v1/hosts/{host.id}/drain"
    assert world.operator.delete(f"{path}?running=what", who="admin").status_code == 400
    assert world.operator.delete(f"{path}?running=cancel", who="admin").status_code == 200
    assert world.move_of(server_id).state is M.STOPPING
    world.send(host, server_id, left=5, trouble="cancelled")
    assert world.move_of(server_id).state is M.CANCELLED
    assert world.is_own(host, server_id)


def test_undrain_before_anything_was_copied_takes_it_all_back(world: Moving) -> None:
    host = filled(world, 1)
    (server_id,) = host.specs()
    begin(world, host)
    world.go_on()
    world.operator.delete(f"/cairn/v1/hosts/{host.id}/drain", who="admin")
    assert world.move_of(server_id).state is M.CANCELLED
    assert all(world.claims(h) == [] for h in world.hosts[1:])


def test_what_failed_is_tried_again_later_and_later(world: Moving, clock: FakeClock) -> None:
    host = filled(world, 1)
    (server_id,) = host.specs()
    begin(world, host)
    for count, pause_s in ((1, 30), (2, 60)):
        world.go_on()
        move = world.move_of(server_id)
        target = next(h for h in world.hosts if h.id == move.to_node)
        trouble = Trouble(message="the pool is full", tries=3)
        target.say(server_id, GuestState.WAITING, trouble=trouble)
        (guest,) = world.drained(host)["servers"]
        assert (guest["state"], guest["tries"]) == ("failed", count)
        assert guest["reason"] == "the pool is full"
        clock.advance(pause_s - 1)
        world.go_on()
        assert world.move_of(server_id).id == move.id, "too early"
        clock.advance(2)
    world.go_on()
    assert world.move_of(server_id).state is M.PREPARING


def test_host_that_is_silent_cannot_be_drained(world: Moving) -> None:
    host = filled(world, 1)
    world.database.write_now(lambda tx: fleet.silent(tx, host.id))
    answer = world.operator.post(f"/cairn/v1/hosts/{host.id}/drain", {}, who="admin")
    assert answer.status_code == 409 and "suspect" in answer.text
    answer = world.operator.post("/cairn/v1/hosts/nowhere/drain", {}, who="admin")
    assert answer.status_code == 404


def test_only_administrators_drain(world: Moving) -> None:
    path = f"/cairn/v1/hosts/{world.host.id}/drain"
    assert world.operator.get(path, who="alice").status_code == 403
    assert world.operator.post(path, {}, who="alice").status_code == 403


def test_nothing_is_asked_of_the_database_twice_while_nothing_moves(world: Moving) -> None:
    filled(world, 1)
    before = world.database.statements_total
    world.go_on()
    assert world.database.statements_total - before <= 3

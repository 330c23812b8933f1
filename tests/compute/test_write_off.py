"""A host that will never come back is removed: what it had is lost, and nothing else is touched."""

from typing import Any

import pytest

from cairn import membership
from cairn.compute import store
from cairn.core.errors import Conflict, NotFound
from cairn.core.ids import ServerId
from cairn.db.engine import Database
from cairn.fleet import loss
from cairn.fleet import service as fleet
from cairn.placement import service as placement
from cairn.volume import service as volumes
from cairn.volume.records import VolumeState
from tests.compute.world import ADMIN, World


@pytest.fixture
def world(database: Database) -> World:
    return World(database, hosts=2)


def lose(world: World) -> None:
    """The first host is silent and fenced by a person."""

    def write(tx: Any) -> None:
        fleet.silent(tx, world.host.id)
        loss.fence_by_hand(tx, world.host.id)

    world.database.write_now(write)


def remove(world: World) -> None:
    """As `cairn host remove --gone`."""
    node = world.database.read_now(lambda tx: fleet.node(tx, world.host.id))
    world.database.write_now(lambda tx: membership.remove(tx, node, is_gone=True))


def only(world: World, index: int) -> None:
    """New guests go to this host only."""
    for number, host in enumerate(world.hosts):
        world.database.write_now(
            lambda tx, host=host, is_open=number == index: fleet.set_enabled(
                tx, host.id, enabled=is_open
            )
        )


def test_servers_of_the_host_are_in_error_and_can_be_deleted(world: World) -> None:
    only(world, 0)
    mine = world.active(networks=[{"uuid": world.network_id}])
    only(world, 1)
    other = world.active()
    lose(world)
    remove(world)
    shown = world.show(mine)
    assert shown["status"] == "ERROR"
    assert "lost for good" in shown["fault"]["message"]
    assert world.show(other)["status"] == "ACTIVE"
    assert world.api.delete(f"/compute/v2.1/servers/{mine}").status_code == 204
    assert world.api.get(f"/compute/v2.1/servers/{mine}").status_code == 404
    with pytest.raises(NotFound):
        world.database.read_now(lambda tx: fleet.node(tx, world.host.id))


def test_room_and_doomed_servers_are_given_back(world: World) -> None:
    only(world, 0)
    doomed = world.active()
    world.api.delete(f"/compute/v2.1/servers/{doomed}")
    kept = world.active()
    lose(world)
    remove(world)
    assert world.api.get(f"/compute/v2.1/servers/{doomed}").status_code == 404
    assert world.show(kept)["status"] == "ERROR"
    claims = world.database.read_now(lambda tx: placement.claims_on(tx, world.host.id))
    assert claims == []
    assert kept not in world.database.read_now(placement.claimants)


def test_volumes_of_the_host_are_in_error_and_can_be_deleted(world: World) -> None:
    only(world, 0)
    volume_id = world.new_volume()
    lose(world)
    remove(world)
    assert world.volume(volume_id).state is VolumeState.ERROR
    assert world.volume(volume_id).node_id is None
    world.database.write_now(lambda tx: volumes.delete(tx, ADMIN, volume_id))
    with pytest.raises(NotFound):
        world.volume(volume_id)


def test_host_that_may_live_is_not_written_off(world: World) -> None:
    server = world.active()
    with pytest.raises(Conflict, match="is up"):
        remove(world)
    world.database.write_now(lambda tx: fleet.silent(tx, world.host.id))
    with pytest.raises(Conflict, match="is suspect"):
        remove(world)
    assert world.show(server)["status"] == "ACTIVE"


def test_host_with_a_server_or_a_volume_is_not_removed(world: World) -> None:
    only(world, 0)
    server = world.active(name="lodger")
    world.database.write_now(
        lambda tx: fleet.enrol(tx, world.host.id, hostname="host0", zone="nova", roles=("compute",))
    )

    def attempt() -> None:
        node = world.database.read_now(lambda tx: fleet.node(tx, world.host.id))
        world.database.write_now(lambda tx: membership.require_empty(tx, node))

    with pytest.raises(Conflict, match=r"1 server \(lodger\)"):
        attempt()
    world.api.delete(f"/compute/v2.1/servers/{server}")
    world.settle()
    attempt()
    volume_id = world.new_volume()
    with pytest.raises(Conflict, match="1 volume"):
        attempt()
    world.database.write_now(lambda tx: volumes.delete(tx, ADMIN, volume_id))
    world.settle()
    attempt()
    assert world.database.read_now(lambda tx: store.servers_on(tx, world.host.id)) == []
    assert ServerId(server) not in world.host.specs()

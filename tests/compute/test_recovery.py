"""Servers of a lost host: which start elsewhere, how fast, only once; and that the old host is not heard."""

import asyncio
from functools import partial
from typing import Any

import pytest

from cairn.compute import recovery
from cairn.compute import service as compute
from cairn.compute.recovery import Recoverer
from cairn.core.clock import FakeClock
from cairn.core.ids import NodeId, ServerId
from cairn.db.engine import Database
from cairn.fleet import loss, loss_store
from cairn.fleet import service as fleet
from cairn.fleet.records import NodeState
from cairn.life.reconcile import Round
from cairn.placement import service as placement
from cairn.volume import service as volumes
from cairn.wire.report import GuestState
from cairn.wire.spec import Power
from tests.compute.world import ADMIN, Host, World, at

FRESH = {"restart_elsewhere": "fresh"}
MARKED = {"restart_elsewhere": "true"}


class Losing:
    """A cloud of which the first host is lost."""

    def __init__(self, database: Database, clock: FakeClock, *, is_shared: bool = False) -> None:
        self.clock = clock
        self.world = World(database)
        if is_shared:
            self.world.hosts = [
                self.world.add_host(f"pool{n}", has_shared_pool=True) for n in (0, 1)
            ]
            self._close("host0-id")
        else:
            self.world.hosts.append(self.world.add_host("host1"))
        self.lost, self.other = self.world.hosts
        self.recoverer = Recoverer(database, clock)

    def _close(self, node_id: str) -> None:
        self.world.database.write_now(
            lambda tx: fleet.set_enabled(tx, NodeId(node_id), enabled=False, reason="test")
        )

    def server(self, **fields: Any) -> ServerId:
        """One that runs on the host that will be lost."""
        self._close(self.other.id)
        made = ServerId(self.world.active(**fields))
        self.world.database.write_now(lambda tx: fleet.set_enabled(tx, self.other.id, enabled=True))
        return made

    def lose(self) -> None:
        def fence(tx: Any) -> None:
            fleet.silent(tx, self.lost.id)
            loss.fence_by_hand(tx, self.lost.id)

        self.world.database.write_now(fence)

    def round(self, after_s: float = 0.0) -> Round:
        self.clock.advance(after_s)
        return asyncio.run(self.recoverer.run_once())

    def recover(self) -> None:
        """All that may go goes, is placed and runs."""
        while self.round(1).again_s == recovery.PERIOD_S:
            pass
        self.world.place()
        self.other.obey()
        self.other.obey()

    def home(self, server_id: ServerId) -> str | None:
        server = self.world.database.read_now(lambda tx: compute.get(tx, ADMIN, server_id))
        return server.node_id

    def back(self) -> Host:
        """The lost host's agent connects again."""
        base = self.world.database.write_now(lambda tx: fleet.connected(tx, self.lost.id))
        self.lost.base, self.lost.count = base, 0
        return self.lost

    def state(self) -> NodeState:
        return self.world.database.read_now(lambda tx: fleet.node(tx, self.lost.id)).state

    def evacuations(self, server_id: ServerId) -> list[Any]:
        listed = self.world.api.get(
            f"/compute/v2.1/servers/{server_id}/os-instance-actions", headers=at("2.21")
        )
        return [a for a in listed.json["instanceActions"] if a["action"] == "evacuate"]


@pytest.fixture
def losing(database: Database, clock: FakeClock) -> Losing:
    return Losing(database, clock)


@pytest.fixture
def sharing(database: Database, clock: FakeClock) -> Losing:
    return Losing(database, clock, is_shared=True)


# --- which -------------------------------------------------------------------------------------------


def test_a_marked_server_of_a_shared_pool_starts_elsewhere(sharing: Losing) -> None:
    server_id = sharing.server(metadata=MARKED)
    before = sharing.world.show(server_id)["addresses"]
    sharing.lose()
    sharing.recover()
    assert sharing.home(server_id) == sharing.other.id
    shown = sharing.world.show(server_id)
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ACTIVE", None)
    assert shown["addresses"] == before, "its ports went with it"
    spec = sharing.other.specs()[server_id]
    assert spec.incarnation == 2 and spec.needs_confirmation
    assert sharing.state() is NodeState.RECOVERED
    assert len(sharing.evacuations(server_id)) == 1


def test_volumes_of_a_shared_pool_go_with_their_server_or_to_another_host(sharing: Losing) -> None:
    server_id = sharing.server(metadata=MARKED)
    world = sharing.world
    sharing._close(sharing.other.id)
    own, free, doomed = (world.new_volume() for _ in range(3))
    path = f"/compute/v2.1/servers/{server_id}/os-volume_attachments"
    assert world.api.post(path, {"volumeAttachment": {"volumeId": own}}).status_code == 200
    sharing.lost.obey()
    world.database.write_now(lambda tx: volumes.delete(tx, ADMIN, doomed))
    world.database.write_now(lambda tx: fleet.set_enabled(tx, sharing.other.id, enabled=True))
    sharing.lose()
    sharing.recover()
    assert {world.volume(v).node_id for v in (own, free)} == {sharing.other.id}
    assert world.volume(own).state == "in-use"
    with pytest.raises(Exception, match="could not be found"):
        world.volume(doomed)
    assert own in {d.volume_id for d in sharing.other.specs()[server_id].disks}


@pytest.mark.parametrize(
    ("metadata", "goes"),
    [(None, False), ({"restart_elsewhere": "false"}, False), (MARKED, False), (FRESH, True)],
)
def test_without_a_shared_pool_only_what_may_be_made_anew_goes(
    losing: Losing, metadata: dict[str, str] | None, goes: bool
) -> None:
    server_id = losing.server(metadata=metadata)
    losing.lose()
    losing.recover()
    assert (losing.home(server_id) == losing.other.id) is goes
    assert losing.state() is NodeState.RECOVERED
    (action,) = losing.evacuations(server_id)
    if not goes:
        why = "lies on host host0 only" if metadata == MARKED else "not marked"
        assert why in action["message"]


def test_a_server_with_a_volume_on_the_host_stays(losing: Losing) -> None:
    server_id = losing.server(metadata=FRESH)
    losing._close(losing.other.id)
    volume_id = losing.world.new_volume()
    path = f"/compute/v2.1/servers/{server_id}/os-volume_attachments"
    body = {"volumeAttachment": {"volumeId": volume_id}}
    assert losing.world.api.post(path, body).status_code == 200
    losing.lost.obey()
    losing.lose()
    losing.recover()
    assert losing.home(server_id) == losing.lost.id
    assert (
        f"volume {volume_id} lies on host host0 only" in losing.evacuations(server_id)[0]["message"]
    )


def test_a_flavor_may_say_it_and_a_server_knows_better(sharing: Losing) -> None:
    specs = {"extra_specs": {"cairn:restart_elsewhere": "true"}}
    path = "/compute/v2.1/flavors/1/os-extra_specs"
    assert sharing.world.api.post(path, specs, who="admin").status_code == 200
    goes = sharing.server()
    stays = sharing.server(metadata={"restart_elsewhere": "false"})
    sharing.lose()
    sharing.recover()
    assert sharing.home(goes) == sharing.other.id
    assert sharing.home(stays) == sharing.lost.id


def test_a_word_that_is_none_is_refused(losing: Losing) -> None:
    answer = losing.world.create(metadata={"restart_elsewhere": "perhaps"})
    assert answer.status_code == 400
    assert "'perhaps' is none of true, fresh, false" in answer.json["badRequest"]["message"]
    specs = {"extra_specs": {"cairn:restart_elsewhere": "perhaps"}}
    answer = losing.world.api.post("/compute/v2.1/flavors/1/os-extra_specs", specs, who="admin")
    assert answer.status_code == 400


def test_a_mark_that_the_host_had_not_heard_does_not_count(sharing: Losing) -> None:
    """The host's ledger would boot the guest without asking, should somebody switch it on apart."""
    unheard, heard = sharing.server(), sharing.server()
    for server_id in (heard, unheard):
        path = f"/compute/v2.1/servers/{server_id}/metadata"
        assert sharing.world.api.post(path, {"metadata": MARKED}).status_code == 200
        if server_id == heard:
            sharing.lost.obey()
    sharing.lose()
    sharing.recover()
    assert sharing.home(heard) == sharing.other.id
    assert sharing.home(unheard) == sharing.lost.id
    assert "had not heard yet" in sharing.evacuations(unheard)[0]["message"]


def test_a_stopped_server_stays_stopped_where_it_comes_to(sharing: Losing) -> None:
    server_id = sharing.server(metadata=MARKED)
    sharing.world.act(server_id, "os-stop")
    sharing.lost.obey()
    assert sharing.world.show(server_id)["status"] == "SHUTOFF"
    sharing.lose()
    sharing.recover()
    assert sharing.home(server_id) == sharing.other.id
    assert sharing.world.show(server_id)["status"] == "SHUTOFF"
    assert sharing.other.specs()[server_id].power is Power.STOPPED


# --- when --------------------------------------------------------------------------------------------


def test_nothing_goes_before_the_host_is_fenced(sharing: Losing) -> None:
    server_id = sharing.server(metadata=MARKED)
    sharing.world.database.write_now(lambda tx: fleet.silent(tx, sharing.lost.id))
    assert sharing.round() == Round()
    assert sharing.home(server_id) == sharing.lost.id


def test_nothing_goes_while_the_zone_is_held(sharing: Losing) -> None:
    server_id = sharing.server(metadata=MARKED)
    database = sharing.world.database
    database.write_now(lambda tx: fleet.silent(tx, sharing.lost.id))
    database.write_now(lambda tx: loss._fence(tx, fleet.node(tx, sharing.lost.id), "power"))
    database.write_now(lambda tx: loss_store.add_hold(tx, "nova", "many are silent"))
    assert sharing.round().done == 0
    portion = database.write_now(partial(recovery.evict_some, node_id=sharing.lost.id, most=9))
    assert portion.evicted == 0
    assert sharing.home(server_id) == sharing.lost.id
    database.write_now(lambda tx: loss.recover_zone(tx, "nova"))
    sharing.recover()
    assert sharing.home(server_id) == sharing.other.id


def test_a_host_that_comes_back_keeps_what_was_not_taken_yet(sharing: Losing) -> None:
    server_id = sharing.server(metadata=MARKED)
    sharing.lose()
    sharing.back()
    assert sharing.round().done == 0
    assert sharing.home(server_id) == sharing.lost.id
    assert server_id in sharing.lost.specs()


def test_they_go_at_a_limited_rate(sharing: Losing) -> None:
    servers = [sharing.server(metadata=MARKED) for _ in range(4)]
    sharing.recoverer = Recoverer(sharing.world.database, sharing.clock, per_minute=120)
    sharing.lose()
    first = sharing.round()
    assert (first.done, first.again_s) == (2, recovery.PERIOD_S)
    assert sharing.round().done == 0, "no second portion at once"
    assert sharing.round(after_s=0.5).done == 1
    assert sharing.round(after_s=600).done == 1
    assert sharing.state() is NodeState.RECOVERED
    assert {sharing.home(s) for s in servers} == {None}


def test_who_finds_no_room_is_tried_again_and_told_why(sharing: Losing) -> None:
    server_id = sharing.server(metadata=MARKED)
    sharing.lose()
    sharing._close(sharing.other.id)
    sharing.round()
    sharing.world.place()
    shown = sharing.world.show(server_id)
    assert shown["status"] == "ERROR"
    assert "No valid host was found" in shown["fault"]["message"]
    found = sharing.round()
    assert found.again_s == recovery.RETRY_S
    sharing.world.database.write_now(
        lambda tx: fleet.set_enabled(tx, sharing.other.id, enabled=True)
    )
    sharing.round(after_s=recovery.RETRY_S)
    sharing.world.place()
    sharing.other.obey()
    assert sharing.world.show(server_id)["status"] == "ACTIVE"
    assert sharing.round().again_s is None


def test_it_goes_only_where_its_disk_can_be_reached(sharing: Losing) -> None:
    server_id = sharing.server(metadata=MARKED)
    sharing.world.hosts.append(sharing.world.add_host("apart"))
    sharing._close(sharing.other.id)
    sharing.lose()
    sharing.round()
    sharing.world.place()
    assert sharing.home(server_id) is None
    assert "does not reach the shared pool" in sharing.world.show(server_id)["fault"]["message"]


# --- the old host ------------------------------------------------------------------------------------


def test_late_reports_of_the_old_host_change_nothing(sharing: Losing) -> None:
    server_id = sharing.server(metadata=MARKED)
    late = dict(sharing.lost.guests)
    sharing.lose()
    sharing.recover()
    before = sharing.world.show(server_id)
    host = sharing.back()
    host.guests = {
        server_id: type(seen)(
            id=server_id, incarnation=seen.incarnation, boot_number=9, state=GuestState.CRASHED
        )
        for server_id, seen in late.items()
    }
    host.report()
    assert sharing.world.show(server_id) == before
    assert sharing.home(server_id) == sharing.other.id
    assert server_id not in host.specs()


def test_a_returning_host_is_told_a_new_spec(sharing: Losing) -> None:
    sharing.server(metadata=MARKED)
    database = sharing.world.database
    before = database.read_now(lambda tx: fleet.node(tx, sharing.lost.id)).spec_number
    sharing.lose()
    sharing.recover()
    after = database.read_now(lambda tx: fleet.node(tx, sharing.lost.id)).spec_number
    assert after > before, "or it would hear that what it has is confirmed"


def test_the_first_report_of_the_new_host_counts_however_often_the_old_one_connected(
    sharing: Losing,
) -> None:
    server_id = sharing.server(metadata=MARKED)
    for _ in range(5):
        sharing.back().obey()
    sharing.lose()
    sharing.recover()
    assert sharing.world.show(server_id)["status"] == "ACTIVE"


def test_a_server_that_was_to_be_deleted_is_deleted_without_its_host(losing: Losing) -> None:
    server_id = losing.server()
    assert losing.world.api.delete(f"/compute/v2.1/servers/{server_id}").status_code == 204
    losing.lose()
    losing.recover()
    assert losing.world.api.get(f"/compute/v2.1/servers/{server_id}").status_code == 404
    assert losing.world.database.read_now(placement.claimants) == []


def test_its_disk_in_a_shared_pool_is_removed_by_another_host(sharing: Losing) -> None:
    server_id = sharing.server()
    assert sharing.world.api.delete(f"/compute/v2.1/servers/{server_id}").status_code == 204
    sharing.lose()
    sharing.round()
    wanted = sharing.world.database.read_now(
        lambda tx: compute.wanted_on(tx, sharing.other.id).disks
    )
    assert [(d.id, d.is_doomed) for d in wanted] == [(server_id, True)]
    sharing.other.obey()
    assert sharing.world.api.get(f"/compute/v2.1/servers/{server_id}").status_code == 404


def test_a_server_between_hosts_is_deleted_with_its_disk(sharing: Losing) -> None:
    server_id = sharing.server(metadata=MARKED)
    sharing.lose()
    sharing.round()
    assert sharing.home(server_id) is None
    assert sharing.world.api.delete(f"/compute/v2.1/servers/{server_id}").status_code == 204
    wanted = sharing.world.database.read_now(
        lambda tx: compute.wanted_on(tx, sharing.other.id).disks
    )
    assert [(d.id, d.is_doomed) for d in wanted] == [(server_id, True)]
    sharing.other.obey()
    assert sharing.world.api.get(f"/compute/v2.1/servers/{server_id}").status_code == 404


# --- the API -----------------------------------------------------------------------------------------


def evacuate(losing: Losing, server_id: str, asked: Any, version: str = "2.14") -> Any:
    path = f"/compute/v2.1/servers/{server_id}/action"
    return losing.world.api.post(path, {"evacuate": asked}, who="admin", headers=at(version))


def test_evacuation_needs_a_fenced_host_and_says_how(losing: Losing) -> None:
    server_id = losing.server()
    answer = evacuate(losing, server_id, {})
    assert answer.status_code == 400
    assert "cairn host fence host0" in answer.json["badRequest"]["message"]


def test_an_unmarked_server_is_evacuated_by_an_administrators_word(losing: Losing) -> None:
    server_id = losing.server()
    losing.lose()
    losing.recover()
    assert losing.home(server_id) == losing.lost.id
    path = f"/compute/v2.1/servers/{server_id}/action"
    assert losing.world.api.post(path, {"evacuate": {}}, headers=at("2.14")).status_code == 403
    answer = evacuate(losing, server_id, {})
    assert answer.status_code == 200
    losing.world.place()
    losing.other.obey()
    assert losing.home(server_id) == losing.other.id
    assert losing.world.show(server_id)["status"] == "ACTIVE"


def test_evacuation_to_a_named_host(losing: Losing) -> None:
    third = losing.world.add_host("host2")
    losing.world.hosts.append(third)
    losing._close(third.id)
    server_id = losing.server()
    losing.world.database.write_now(lambda tx: fleet.set_enabled(tx, third.id, enabled=True))
    losing.lose()
    losing.recover()
    refused = evacuate(losing, server_id, {"host": "host0"})
    assert refused.status_code == 400, "it is down"
    assert losing.home(server_id) == losing.lost.id
    assert evacuate(losing, server_id, {"host": "host2"}).status_code == 200
    assert losing.home(server_id) == third.id


@pytest.mark.parametrize(
    ("version", "asked", "status"),
    [
        ("2.1", {"onSharedStorage": "False"}, 200),
        ("2.1", {}, 400),
        ("2.13", {"onSharedStorage": True, "adminPass": "secret"}, 200),
        ("2.14", {"onSharedStorage": True}, 400),
        ("2.29", {"host": "host1", "force": True}, 200),
        ("2.29", {"force": True}, 400),
        ("2.67", {"force": False}, 200),
        ("2.68", {"force": False}, 400),
        ("2.95", {}, 200),
        ("2.95", {"host": 7}, 400),
        ("2.95", None, 400),
    ],
)
def test_bodies_by_microversion(losing: Losing, version: str, asked: Any, status: int) -> None:
    server_id = losing.server()
    losing.lose()
    losing.recover()
    answer = evacuate(losing, server_id, asked, version)
    assert answer.status_code == status, answer.text
    if status != 200:
        return
    if version in ("2.1", "2.13"):
        assert answer.json["adminPass"] == asked.get("adminPass", answer.json["adminPass"])
    else:
        assert answer.text == ""
    losing.world.place()
    losing.other.obey()
    stopped = version == "2.95"
    assert losing.world.show(server_id)["status"] == ("SHUTOFF" if stopped else "ACTIVE")

"""Servers through the whole of their lives, over the API and with hosts that report."""

import asyncio
from typing import Any

import pytest

from cairn.compute.placing import Placer
from cairn.core.ids import ServerId
from cairn.db.engine import Database, Tx
from cairn.network import service as network
from cairn.network.service import groups as network_groups
from cairn.network.wishes import GroupWish
from cairn.wire.report import GuestState
from tests.callers import CALLERS
from tests.compute.world import World, at, tired

ALICE = CALLERS["alice"]


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def test_server_is_created_placed_run_and_deleted(world: World) -> None:
    answer = world.create(metadata={"a": "b"})
    assert answer.status_code == 202
    made = answer.json["server"]
    assert set(made) == {"id", "links", "OS-DCF:diskConfig", "security_groups", "adminPass"}
    shown = world.show(made["id"])
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("BUILD", "scheduling")
    world.place()
    assert world.show(made["id"])["OS-EXT-STS:task_state"] == "spawning"
    world.host.obey()
    shown = world.show(made["id"])
    assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ACTIVE", None)
    assert shown["OS-EXT-STS:power_state"] == 1
    (address,) = shown["addresses"]["net"]
    assert address["addr"].startswith("10.1.")
    assert address["OS-EXT-IPS:type"] == "fixed"
    (spec,) = world.host.specs().values()
    assert spec.metadata is not None and spec.metadata.meta == {"a": "b"}
    assert [d.volume_id for d in spec.disks] == [made["id"]]
    port_id = spec.nics[0].port_id

    assert world.api.delete(f"/compute/v2.1/servers/{made['id']}").status_code == 204
    assert world.show(made["id"])["OS-EXT-STS:task_state"] == "deleting"
    assert not world.host.specs()
    world.host.obey()
    assert world.api.get(f"/compute/v2.1/servers/{made['id']}").status_code == 404
    assert not world.has_port(port_id)


def test_unplaced_server_is_deleted_at_once(world: World) -> None:
    id_ = world.create().json["server"]["id"]
    assert world.api.delete(f"/compute/v2.1/servers/{id_}").status_code == 204
    assert world.api.get(f"/compute/v2.1/servers/{id_}").status_code == 404


def test_deletion_waits_for_a_report_that_knows_of_it(world: World) -> None:
    id_ = world.active()
    known = world.database.read_now(lambda tx: _spec_number(tx, world))
    world.api.delete(f"/compute/v2.1/servers/{id_}")
    world.host.report(spec_number=known)
    assert world.show(id_)["OS-EXT-STS:task_state"] == "deleting"


def _spec_number(tx: Any, world: World) -> int:
    from cairn.fleet import service as fleet

    return fleet.node(tx, world.host.id).spec_number


def test_server_stops_starts_and_reboots(world: World) -> None:
    id_ = world.active()
    assert world.act(id_, "os-start").status_code == 409
    assert world.act(id_, "os-stop").status_code == 202
    assert world.show(id_)["OS-EXT-STS:task_state"] == "powering-off"
    assert world.act(id_, "os-stop").status_code == 409
    world.host.obey()
    shown = world.show(id_)
    assert (shown["status"], shown["OS-EXT-STS:power_state"]) == ("SHUTOFF", 4)
    assert world.act(id_, "reboot", {"type": "SOFT"}).status_code == 409
    assert world.act(id_, "os-start").status_code == 202
    assert world.show(id_)["OS-EXT-STS:task_state"] == "powering-on"
    world.host.obey()
    assert world.show(id_)["status"] == "ACTIVE"
    assert world.act(id_, "reboot", {"type": "SOFT"}).status_code == 202
    assert world.show(id_)["status"] == "REBOOT"
    world.host.say(id_, GuestState.ENDED, boot_number=2)  # The old boot ends: no wish of its owner.
    assert world.show(id_)["status"] == "REBOOT"
    world.host.obey()
    assert world.show(id_)["status"] == "ACTIVE"
    assert world.act(id_, "reboot", {"type": "HARD"}).status_code == 202
    assert world.show(id_)["status"] == "HARD_REBOOT"
    world.host.obey()
    actions = world.api.get(f"/compute/v2.1/servers/{id_}/os-instance-actions").json
    assert [a["action"] for a in actions["instanceActions"]] == [
        "reboot", "reboot", "start", "stop", "create",
    ]  # fmt: skip


def test_guest_that_shuts_itself_down_stays_down(world: World) -> None:
    id_ = world.active()
    world.host.say(id_, GuestState.ENDED)
    assert world.show(id_)["status"] == "SHUTOFF"
    assert world.show(id_)["OS-EXT-STS:task_state"] is None
    assert world.spec(id_).power == "stopped"
    world.host.obey()
    assert world.show(id_)["status"] == "SHUTOFF"


def test_crash_is_noted_and_no_stop(world: World) -> None:
    id_ = world.active()
    world.host.say(id_, GuestState.CRASHED)
    assert world.show(id_)["status"] == "ACTIVE"
    assert world.show(id_)["OS-EXT-STS:power_state"] == 6
    world.host.obey()
    actions = world.api.get(f"/compute/v2.1/servers/{id_}/os-instance-actions").json
    assert actions["instanceActions"][0]["action"] == "crash"


def test_trouble_is_shown_then_becomes_an_error_then_heals(world: World) -> None:
    id_ = world.create().json["server"]["id"]
    world.place()
    world.host.say(id_, GuestState.WAITING, boot_number=0, trouble=tired("The pool is full.", 1))
    shown = world.show(id_)
    assert (shown["status"], shown["fault"]["message"]) == ("BUILD", "The pool is full.")
    world.host.say(id_, GuestState.WAITING, boot_number=0, trouble=tired("The pool is full.", 3))
    shown = world.show(id_)
    assert (shown["status"], shown["fault"]["message"]) == ("ERROR", "The pool is full.")
    assert "details" not in shown["fault"]
    assert world.show(id_, who="admin")["fault"]["details"] == "the operator's half"
    world.host.obey()
    shown = world.show(id_)
    assert shown["status"] == "ACTIVE"
    assert "fault" not in shown


def test_late_reports_and_old_incarnations_change_nothing(world: World) -> None:
    id_ = world.active()
    world.host.guests = {
        i: type(g)(id=g.id, incarnation=g.incarnation, boot_number=1, state=GuestState.STOPPED)
        for i, g in world.host.guests.items()
    }
    world.host.report(number=1)
    assert world.show(id_)["OS-EXT-STS:power_state"] == 1
    world.host.say(id_, GuestState.ENDED, incarnation=0)
    assert world.show(id_)["status"] == "ACTIVE"


def test_server_too_large_for_any_host_says_why(world: World) -> None:
    id_ = world.create(flavorRef="9").json["server"]["id"]
    world.place()
    shown = world.show(id_)
    assert shown["status"] == "ERROR"
    assert "No valid host" in shown["fault"]["message"]
    assert "host host0 lacks 16384 MiB of memory (4096 free)" in shown["fault"]["message"]


def test_hosts_are_filled_and_never_over(world: World) -> None:
    made = [world.create().json["server"]["id"] for _ in range(9)]
    world.settle()
    statuses = sorted(world.show(id_)["status"] for id_ in made)
    assert statuses == ["ACTIVE"] * 8 + ["ERROR"]  # 4096 MiB hold eight of 512.


def test_server_boots_from_volumes(world: World) -> None:
    disk = {
        "boot_index": 0,
        "source_type": "image",
        "destination_type": "volume",
        "uuid": world.image_id,
        "volume_size": 3,
        "delete_on_termination": True,
    }
    kept = world.new_volume()
    data = {"boot_index": -1, "source_type": "volume", "uuid": kept, "destination_type": "volume"}
    id_ = world.active(imageRef="", block_device_mapping_v2=[disk, data])
    shown = world.show(id_)
    assert shown["image"] == ""
    (spec,) = world.host.specs().values()
    assert [(d.device, d.boot) for d in spec.disks] == [("vda", True), ("vdb", False)]
    root = spec.disks[0].volume_id
    assert world.volume(root).state == "in-use"
    assert world.volume(kept).state == "in-use"
    world.api.delete(f"/compute/v2.1/servers/{id_}")
    world.settle()
    assert world.volume(kept).state == "available"
    with pytest.raises(Exception, match="could not be found"):
        world.volume(root)


def test_volume_is_attached_and_detached(world: World) -> None:
    id_, volume_id = world.active(), world.new_volume()
    path = f"/compute/v2.1/servers/{id_}/os-volume_attachments"
    answer = world.api.post(path, {"volumeAttachment": {"volumeId": volume_id}})
    assert answer.status_code == 200
    assert answer.json["volumeAttachment"] == {
        "id": volume_id, "volumeId": volume_id, "serverId": id_, "device": "/dev/vdb",
    }  # fmt: skip
    assert world.volume(volume_id).state == "attaching"
    again = world.api.post(path, {"volumeAttachment": {"volumeId": volume_id}})
    assert again.status_code == 400
    world.host.obey()
    assert world.volume(volume_id).state == "in-use"
    assert world.show(id_)["os-extended-volumes:volumes_attached"] == [{"id": volume_id}]
    shown = world.api.get(f"{path}/{volume_id}", headers=at("2.89")).json["volumeAttachment"]
    assert set(shown) == {
        "serverId", "volumeId", "device", "attachment_id", "bdm_uuid", "tag", "delete_on_termination",
    }  # fmt: skip
    assert world.api.delete(f"{path}/{volume_id}").status_code == 202
    assert world.volume(volume_id).state == "detaching"
    world.host.obey()
    assert world.volume(volume_id).state == "available"
    assert world.api.get(f"{path}/{volume_id}").status_code == 404


def test_volume_joins_a_stopped_server(world: World) -> None:
    id_, volume_id = world.active(), world.new_volume()
    world.act(id_, "os-stop")
    world.host.obey()
    path = f"/compute/v2.1/servers/{id_}/os-volume_attachments"
    assert world.api.post(path, {"volumeAttachment": {"volumeId": volume_id}}).status_code == 200
    world.host.obey()
    assert world.volume(volume_id).state == "in-use"


def test_interface_is_attached_and_detached(world: World) -> None:
    id_ = world.active()
    path = f"/compute/v2.1/servers/{id_}/os-interface"
    answer = world.api.post(path, {"interfaceAttachment": {"net_id": world.network_id}})
    assert answer.status_code == 200, answer.text
    port_id = answer.json["interfaceAttachment"]["port_id"]
    world.host.obey()
    found = world.api.get(path).json["interfaceAttachments"]
    assert [i["port_state"] for i in found] == ["ACTIVE", "ACTIVE"]
    assert len(world.spec(id_).nics) == 2
    assert world.api.delete(f"{path}/{port_id}").status_code == 202
    world.host.obey()
    assert len(world.api.get(path).json["interfaceAttachments"]) == 1
    assert not world.has_port(port_id)


def test_console_log_and_screen(world: World) -> None:
    from cairn.compute import console

    id_ = world.active()
    assert world.act(id_, "os-getConsoleOutput", {}).status_code == 409
    world.console[id_] = b"one\r\ntwo\r\nthree\r\n"
    assert world.act(id_, "os-getConsoleOutput", {"length": 2}).json == {"output": "two\nthree\n"}
    assert world.act(id_, "os-getConsoleOutput").json == {"output": "one\ntwo\nthree\n"}
    answer = world.act(id_, "os-getVNCConsole", {"type": "novnc"})
    url = answer.json["console"]["url"]
    key = url.partition("token=")[2]
    opened = world.database.write_now(lambda tx: console.redeem(tx, key))
    assert opened == (world.host.id, id_)
    with pytest.raises(Exception, match="used before"):
        world.database.write_now(lambda tx: console.redeem(tx, key))
    answer = world.api.post(
        f"/compute/v2.1/servers/{id_}/remote-consoles",
        {"remote_console": {"protocol": "vnc", "type": "novnc"}},
        headers=at("2.6"),
    )
    assert answer.json["remote_console"]["url"].startswith("http")


def test_limits_are_kept_in_the_request(world: World) -> None:
    answer = world.create(min_count=11)
    assert answer.status_code == 403
    assert "instances" in answer.json["forbidden"]["message"]
    assert world.create(min_count=2).status_code == 202
    used = world.api.get("/compute/v2.1/limits").json["limits"]["absolute"]
    assert (used["totalInstancesUsed"], used["totalRAMUsed"]) == (2, 1024)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "x" * 256}, "$.server.name"),
        ({"name": " "}, "name"),
        ({"flavorRef": "nope"}, "Flavor nope could not be found"),
        ({"imageRef": "00000000-0000-0000-0000-000000000000"}, "image"),
        ({"imageRef": ""}, "nothing to boot from"),
        ({"key_name": "nope"}, "Invalid key_name provided"),
        ({"user_data": "%%%"}, "not base64"),
        ({"user_data": "QUFB" * 24000}, "65536 bytes"),
        ({"availability_zone": "mars"}, "availability zone"),
        ({"metadata": {"a": "b" * 256}}, "metadata"),
        ({"networks": [{"uuid": "00000000-0000-0000-0000-000000000000"}]}, "could not be found"),
        ({"networks": [{}]}, "uuid or port"),
        ({"security_groups": [{"name": "nope"}]}, "Security group nope"),
        ({"min_count": 3, "max_count": 2}, "min_count"),
        ({"surprise": 1}, "surprise"),
        ({"description": "early"}, "description"),
    ],
)
def test_bad_wishes_are_refused_with_their_reason(
    world: World, fields: dict[str, Any], message: str
) -> None:
    answer = world.create(**fields)
    assert answer.status_code == 400, answer.text
    assert message in answer.json["badRequest"]["message"]
    assert world.api.get("/compute/v2.1/servers").json == {"servers": []}


def test_image_larger_than_the_flavor_is_refused(world: World) -> None:
    large = world.add_image(virtual_gib=5)
    answer = world.create(imageRef=large)
    assert answer.status_code == 400
    assert "too small" in answer.json["badRequest"]["message"]


def test_others_servers_do_not_exist(world: World) -> None:
    id_ = world.active()
    assert world.api.get(f"/compute/v2.1/servers/{id_}", who="bob").status_code == 404
    assert world.act(id_, "os-stop", who="bob").status_code == 404
    assert world.act(id_, "os-stop", who="rita").status_code == 403
    assert world.api.get("/compute/v2.1/servers", who="bob").json == {"servers": []}
    everywhere = world.api.get("/compute/v2.1/servers?all_tenants=1", who="admin").json
    assert [s["id"] for s in everywhere["servers"]] == [id_]
    assert world.api.get("/compute/v2.1/servers?all_tenants=1").status_code == 403


def test_lists_are_filtered_sorted_and_paged(world: World, clock: Any) -> None:
    made = []
    for name in ("web-1", "web-2", "db-1"):
        made.append(world.create(name=name).json["server"]["id"])
        clock.advance(1)
    path = "/compute/v2.1/servers"

    def names(query: str, **options: Any) -> list[str]:
        answer = world.api.get(f"{path}?{query}", **options)
        assert answer.status_code == 200, answer.text
        return [s["name"] for s in answer.json["servers"]]

    assert names("") == ["db-1", "web-2", "web-1"]
    assert names("name=web") == ["web-2", "web-1"]
    assert names("name=^web-[12]$") == ["web-2", "web-1"]
    assert names("sort_key=display_name&sort_dir=asc") == ["db-1", "web-1", "web-2"]
    assert names("status=ACTIVE") == []
    assert names("status=build&flavor=1") == ["db-1", "web-2", "web-1"]
    assert names(f"marker={made[1]}") == ["web-1"]
    assert names("changes-since=2026-01-01T00:00:01Z") == ["db-1", "web-2"]
    page = world.api.get(f"{path}?limit=2").json
    assert len(page["servers"]) == 2
    assert f"marker={made[1]}" in page["servers_links"][0]["href"]
    assert world.api.get(f"{path}?marker=nope").status_code == 400
    assert world.api.get(f"{path}?limit=-1").status_code == 400
    assert world.api.get(f"{path}?sort_key=nope").status_code == 400
    assert world.api.get(f"{path}?name=(a%2B)%2B$").status_code == 400
    world.api.put(f"{path}/{made[0]}/tags", {"tags": ["a", 'b"c']}, headers=at("2.26"))
    world.api.put(f"{path}/{made[1]}/tags/a", headers=at("2.26"))
    assert names("tags=a", headers=at("2.26")) == ["web-2", "web-1"]
    assert names("tags=a,b%22c", headers=at("2.26")) == ["web-1"]
    assert names("not-tags=a", headers=at("2.26")) == ["db-1"]


def test_metadata_items(world: World) -> None:
    id_ = world.create(metadata={"a": "1"}).json["server"]["id"]
    path = f"/compute/v2.1/servers/{id_}/metadata"
    assert world.api.post(path, {"metadata": {"b": "2"}}).json == {"metadata": {"a": "1", "b": "2"}}
    assert world.api.put(f"{path}/c", {"meta": {"c": "3"}}).json == {"meta": {"c": "3"}}
    assert world.api.put(f"{path}/c", {"meta": {"d": "3"}}).status_code == 400
    assert world.api.delete(f"{path}/a").status_code == 204
    assert world.api.get(path).json == {"metadata": {"b": "2", "c": "3"}}
    assert world.api.get(f"{path}/a").status_code == 404


def test_one_server_costs_few_statements(sqlite: Database) -> None:
    world = World(sqlite)
    id_ = world.active()
    before = sqlite.statements_total
    world.show(id_)
    assert sqlite.statements_total - before <= 4


def test_hints_that_nobody_would_keep_are_refused(world: World) -> None:
    body = {
        "server": {"name": "s", "flavorRef": "1", "imageRef": world.image_id},
        "os:scheduler_hints": {"different_host": ["x"]},
    }
    answer = world.api.post("/compute/v2.1/servers", body)
    assert answer.status_code == 400
    assert "hints" in answer.json["badRequest"]["message"]


def test_placer_takes_all_that_wait(sqlite: Database) -> None:
    world = World(sqlite)
    made = [world.create().json["server"]["id"] for _ in range(9)]
    first = asyncio.run(Placer(sqlite).run_once())
    assert (first.found, first.done) == (9, 8)
    assert "lacks 512 MiB of memory" in first.failed[0]
    again = asyncio.run(Placer(sqlite).run_once())
    assert again.found == 0
    assert len(world.host.specs()) == len(made) - 1


def test_access_addresses_are_shown_in_one_spelling(world: World) -> None:
    spelled = "0000:0000:0000:0000:0000:babe:220.12.22.2"
    id_ = world.create(accessIPv4="1.1.1.1", accessIPv6=spelled).json["server"]["id"]
    shown = world.show(id_)
    assert (shown["accessIPv4"], shown["accessIPv6"]) == ("1.1.1.1", "::babe:dc0c:1602")


def test_servers_are_found_by_address(world: World) -> None:
    here, there = world.active(), world.active()
    ip = world.show(here)["addresses"]["net"][0]["addr"]
    for text in (ip, f"^{ip}$", ip.replace(".", "\\.") + "$"):
        assert _ids_by(world, f"ip={text}") >= {here}
    assert _ids_by(world, f"ip=^{ip}$") == {here}
    assert _ids_by(world, "ip=10.1.") == {here, there}
    assert _ids_by(world, f"ip=^{ip}$&uuid={there}") == set()
    assert _ids_by(world, "ip6=10.1.") == set()
    assert _ids_by(world, f"ip=^{ip}$", who="bob") == set()
    assert world.api.get("/compute/v2.1/servers?ip=(a%2B)%2B").status_code == 400


def test_all_tenants_needs_no_value(world: World) -> None:
    id_ = world.create().json["server"]["id"]
    assert id_ not in _ids_by(world, "", who="admin")
    assert id_ in _ids_by(world, "all_tenants=", who="admin")
    assert world.api.get("/compute/v2.1/servers?all_tenants=").status_code == 403


def _ids_by(world: World, query: str, who: str = "alice") -> set[str]:
    answer = world.api.get(f"/compute/v2.1/servers?{query}", who=who)
    return {server["id"] for server in answer.json["servers"]}


def test_security_groups_are_given_and_taken_on_all_ports(world: World) -> None:
    id_ = ServerId(world.active())
    path = f"/compute/v2.1/servers/{id_}/action"

    def act(action: str, name: object, who: str = "alice") -> int:
        status: int = world.api.post(path, {action: {"name": name}}, who=who).status_code
        return status

    def names() -> list[str]:
        return [g["name"] for g in world.show(id_).get("security_groups", [])]

    def look(tx: Tx) -> set[tuple[str, ...]]:
        ports = network.server_ports(tx, [id_])[id_]
        return {network.get_port(tx, ALICE, port.port_id).group_ids for port in ports}

    def on_ports() -> set[tuple[str, ...]]:
        return world.database.read_now(look)

    wish = GroupWish(name="web")
    web = world.database.write_now(lambda tx: network_groups.create_group(tx, ALICE, wish)).id
    ((default,),) = on_ports()
    assert act("addSecurityGroup", "web") == 202
    assert act("addSecurityGroup", "web") == 202
    assert names() == ["default", "web"]
    assert on_ports() == {tuple(sorted((default, web)))}
    assert act("removeSecurityGroup", "default") == 202
    assert act("removeSecurityGroup", "default") == 404
    assert on_ports() == {(web,)}
    assert act("removeSecurityGroup", web) == 202
    assert on_ports() == {()}
    assert "security_groups" not in world.show(id_)
    assert act("addSecurityGroup", "nothing") == 404
    assert act("addSecurityGroup", 7) == 400
    assert act("addSecurityGroup", "web", who="bob") == 404
    assert act("addSecurityGroup", "web", who="rita") == 403

"""The whole life of one server, with everything that can be given to it; each test goes on after the last."""

import base64
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import BOOT_S, console_of, wait_for_console, wait_until
from tests.clients.rooms import Room

pytestmark = pytest.mark.clients

SCRIPT = b"#!/bin/sh\necho user data was run by $(hostname)\n"
READY = "PROBE: ready"  # the guest image's word for the end of its boot


@pytest.fixture(scope="module")
def ids() -> dict[str, str]:
    """What the tests of this module hand to those after them."""
    return {}


@pytest.fixture
def server(demo: Any, ids: dict[str, str]) -> Any:
    return demo.compute.get_server(ids["server"])


def test_create_with_port_network_key_user_data_config_drive_and_metadata(
    demo: Any, room: Room, ids: dict[str, str]
) -> None:
    private = demo.network.find_network("private", ignore_missing=False)
    port = demo.network.create_port(
        network_id=private.id, fixed_ips=[{"ip_address": "10.20.0.77"}], name="worker"
    )
    # A second network that no router joins: two cards in one network would answer for each other.
    aside = demo.network.create_network(name="aside")
    demo.network.create_subnet(
        network_id=aside.id, ip_version=4, cidr="10.30.0.0/24", gateway_ip=None
    )
    key = (room.settings.credentials_dir / "demo.key.pub").read_text()
    demo.compute.create_keypair(name="worker", public_key=key)
    made = demo.compute.create_server(
        name="worker",
        image_id=demo.image.find_image("probe").id,
        flavor_id=demo.compute.find_flavor("probe").id,
        networks=[{"port": port.id}, {"uuid": aside.id}],
        key_name="worker",
        user_data=base64.b64encode(SCRIPT).decode(),
        has_config_drive=True,
        metadata={"purpose": "test"},
    )
    ids["server"], ids["port"], ids["password"] = made.id, port.id, made.admin_password
    server = demo.compute.wait_for_server(made, wait=120)
    assert server.status == "ACTIVE"
    assert server.metadata == {"purpose": "test"}
    assert server.has_config_drive
    assert [entry["addr"] for entry in server.addresses["private"]] == ["10.20.0.77"]
    (other,) = server.addresses["aside"]
    assert other["addr"].startswith("10.30.0.")


def test_the_guest_has_all_of_it(demo: Any, server: Any) -> None:
    said = wait_for_console(demo, server, "PROBE: done")
    assert f"metadata source=config-drive instance={server.id} hostname=worker keys=1" in said
    assert "PROBE-UD: user data was run by worker" in said
    assert "10.20.0.77/24" in said
    assert "PROBE: nic eth1" in said
    assert "not found" not in said


def test_it_answers_at_a_floating_address_by_key_and_by_password(
    demo: Any, room: Room, ids: dict[str, str], tmp_path: Path
) -> None:
    group = demo.network.find_security_group("demo", ignore_missing=False)
    demo.network.update_port(ids["port"], security_groups=[group.id])
    external = demo.network.find_network("external", ignore_missing=False)
    address = demo.network.create_ip(floating_network_id=external.id, port_id=ids["port"])
    ask = tmp_path / "ask"
    ask.write_text('#!/bin/sh\necho "$PASSWORD"\n')
    ask.chmod(0o700)
    hosts = ("StrictHostKeyChecking=no", f"UserKnownHostsFile={tmp_path / 'hosts'}")
    key = room.settings.credentials_dir / "demo.key"
    with_key = (f"IdentityFile={key}", "BatchMode=yes")
    with_password = ("PubkeyAuthentication=no", "PreferredAuthentications=password")
    variables = {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}

    def says_its_name(*options: str, password: str = "") -> bool:
        words = [w for o in (*hosts, *options, "ConnectTimeout=5") for w in ("-o", o)]
        target = f"root@{address.floating_ip_address}"
        done = room.run(
            *("ssh", "-F", "none", *words, target, "hostname"),
            variables={**variables, "PASSWORD": password},
        )
        return done.stdout.strip() == "worker"

    wait_until(lambda: says_its_name(*with_key), "a login with the key", within_s=BOOT_S)
    assert says_its_name(*with_password, password=ids["password"])
    assert not says_its_name(*with_password, password="something else")
    demo.network.delete_ip(address)


def test_list_show_and_console_by_the_command_line(cli: Callable[..., Any], server: Any) -> None:
    listed = {one["Name"]: one for one in cli("server", "list")}
    assert listed["worker"]["Status"] == "ACTIVE"
    assert listed["worker"]["Image"] == "probe"
    shown = cli("server", "show", "worker")
    assert shown["id"] == server.id
    assert shown["properties"] == {"purpose": "test"}


def test_the_console_url_opens(demo: Any, room: Room, server: Any) -> None:
    console = demo.compute.create_console(server, console_type="novnc")
    context = ssl.create_default_context(cafile=room.settings.certs_dir / "ca.crt")
    with urllib.request.urlopen(console["url"], context=context, timeout=30) as page:
        assert page.status == 200
        assert "html" in page.headers["content-type"]


def test_a_volume_comes_grows_is_photographed_and_goes_while_the_guest_runs(
    demo: Any, server: Any
) -> None:
    storage = demo.block_storage
    volume = storage.create_volume(name="data", size=1)
    storage.wait_for_status(volume, "available", wait=60)
    demo.compute.create_volume_attachment(server, volume_id=volume.id)
    storage.wait_for_status(volume, "in-use", wait=60)
    wait_for_console(demo, server, "PROBE: plugged disk vdb 1048576 KiB")
    snapshot = storage.create_snapshot(volume_id=volume.id, name="moment", is_forced=True)
    storage.wait_for_status(snapshot, "available", wait=60)
    demo.compute.delete_volume_attachment(server, volume)
    storage.wait_for_status(volume, "available", wait=60)
    wait_for_console(demo, server, "PROBE: unplugged disk vdb")
    storage.extend_volume(volume, 2)
    wait_until(lambda: storage.get_volume(volume).status == "available", "the larger volume")
    assert storage.get_volume(volume).size == 2
    storage.delete_snapshot(snapshot)
    storage.wait_for_delete(snapshot, wait=60)
    storage.delete_volume(volume)
    storage.wait_for_delete(volume, wait=60)


def test_stop_and_start(demo: Any, server: Any) -> None:
    demo.compute.stop_server(server)
    demo.compute.wait_for_server(server, status="SHUTOFF", wait=120)
    assert demo.compute.get_server(server.id).power_state == 4
    demo.compute.start_server(server)
    demo.compute.wait_for_server(server, wait=120)
    wait_for_console(demo, server, READY, times=2)


def test_reboot_soft_and_hard(demo: Any, server: Any) -> None:
    for times, kind in ((3, "SOFT"), (4, "HARD")):
        demo.compute.reboot_server(server, kind)
        wait_for_console(demo, server, READY, times=times)
        demo.compute.wait_for_server(server, wait=120)
    # User data is for the first boot.
    assert console_of(demo, server).count("PROBE-UD: user data was run") == 1


def test_every_action_was_written_down(demo: Any, server: Any) -> None:
    actions = [one.action for one in demo.compute.server_actions(server)]
    assert actions == [
        "reboot", "reboot", "start", "stop", "detach_volume", "attach_volume", "create",
    ]  # fmt: skip
    assert all(one.message is None for one in demo.compute.server_actions(server))


def test_delete_leaves_what_is_the_users(demo: Any, server: Any) -> None:
    demo.compute.delete_server(server)
    demo.compute.wait_for_delete(server, wait=120)
    (port,) = demo.network.ports(name="worker")
    assert port.device_id == ""
    demo.network.delete_port(port)
    demo.compute.delete_keypair("worker")
    demo.network.delete_network(demo.network.find_network("aside", ignore_missing=False))
    assert list(demo.network.ports(device_id=server.id)) == []

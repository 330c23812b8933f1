"""What is wrong is refused with its cause, through the whole cloud, and leaves nothing half made."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openstack import exceptions

from tests.clients.conftest import wait_until
from tests.clients.rooms import Room, a_room, inside

pytestmark = pytest.mark.clients

EXTENT_OUTSIDE = """\
# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"

RW 16384 FLAT "/etc/shadow" 0
"""


def _qemu_img(*words: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


def _with_backing(folder: Path) -> Path:
    file = folder / "backed.qcow2"
    _qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", file, "8M")
    return file


def _truncated(folder: Path) -> Path:
    raw, file = folder / "full.raw", folder / "half.qcow2"
    raw.write_bytes(b"\x55" * (4 << 20))
    _qemu_img("convert", "-O", "qcow2", raw, file)
    file.write_bytes(file.read_bytes()[: 2 << 20])
    return file


def _with_extent_outside(folder: Path) -> Path:
    file = folder / "disk.vmdk"
    file.write_text(EXTENT_OUTSIDE)
    return file


@pytest.mark.parametrize(
    ("make", "claimed", "cause"),
    [
        (_truncated, "qcow2", "cut off"),
        (_with_backing, "qcow2", "backing file"),
        (_with_backing, "raw", "qcow2"),
        (_with_extent_outside, "vmdk", "outside the file"),
    ],
)
def test_an_image_that_is_not_what_it_says_is_refused_and_leaves_no_byte(
    demo: Any, room: Room, tmp_path: Path, make: Callable[[Path], Path], claimed: str, cause: str
) -> None:
    kept = room.settings.control_dir / "images"
    before = sorted(kept.rglob("*"))
    image = demo.image.post(
        "/images", json={"name": "bad", "disk_format": claimed, "container_format": "bare"}
    ).json()
    try:
        answer = demo.image.put(
            f"/images/{image['id']}/file",
            data=make(tmp_path).read_bytes(),
            headers={"content-type": "application/octet-stream"},
        )
        assert 400 <= answer.status_code < 500, answer.text
        assert cause in answer.text
        assert demo.image.get(f"/images/{image['id']}").json()["status"] == "queued"
        assert sorted(kept.rglob("*")) == before
    finally:
        demo.image.delete(f"/images/{image['id']}")


def test_a_truncated_image_by_the_command_line(
    cli: Callable[..., Any], demo: Any, tmp_path: Path
) -> None:
    file = str(_truncated(tmp_path))
    said = cli("image", "create", "--disk-format", "qcow2", "--file", file, "half", fails=True)
    assert "400" in said
    assert "cut off" in said
    # The client leaves the record that it made; it holds nothing and can be filled or deleted.
    if left := demo.image.find_image("half"):
        assert (left.status, left.size) == ("queued", None)
        demo.image.delete_image(left)


LONG = "n" * 300


@pytest.mark.parametrize(
    "make",
    [
        lambda c: c.network.create_network(name=LONG),
        lambda c: c.network.create_security_group(name=LONG),
        lambda c: c.block_storage.create_volume(name=LONG, size=1),
        lambda c: c.image.create_image(name=LONG, disk_format="raw", container_format="bare"),
        lambda c: c.identity.create_project(name=LONG),
        lambda c: c.compute.create_keypair(name=LONG),
        lambda c: c.compute.create_flavor(name=LONG, ram=128, vcpus=1, disk=1),
        lambda c: c.compute.create_server(
            name=LONG,
            image_id=c.image.find_image("probe").id,
            flavor_id=c.compute.find_flavor("probe").id,
            networks="none",
        ),
    ],
    ids=["network", "group", "volume", "image", "project", "keypair", "flavor", "server"],
)
def test_a_name_of_300_characters_is_refused_by_name(
    admin: Any, make: Callable[[Any], Any]
) -> None:
    with pytest.raises(exceptions.BadRequestException) as refused:
        make(admin)
    assert "name" in str(refused.value)


def test_overlapping_ranges_are_refused(demo: Any) -> None:
    private = demo.network.find_network("private", ignore_missing=False)
    with pytest.raises(exceptions.BadRequestException, match="overlap"):
        demo.network.create_subnet(network_id=private.id, ip_version=4, cidr="10.20.0.128/25")
    # A network of its own may use the range, but not behind the same router.
    net = demo.network.create_network(name="twin")
    subnet = demo.network.create_subnet(network_id=net.id, ip_version=4, cidr="10.20.0.0/24")
    try:
        router = demo.network.find_router("router", ignore_missing=False)
        with pytest.raises(exceptions.BadRequestException, match="overlap"):
            demo.network.add_interface_to_router(router, subnet_id=subnet.id)
        legs = demo.network.ports(network_id=net.id, device_owner="network:router_interface")
        assert list(legs) == []
    finally:
        demo.network.delete_subnet(subnet)
        demo.network.delete_network(net)


def test_a_flavor_larger_than_the_host_ends_in_a_fault_that_says_so(admin: Any, demo: Any) -> None:
    flavor = admin.compute.create_flavor(name="huge", ram=128, vcpus=1, disk=1 << 20)
    private = demo.network.find_network("private", ignore_missing=False)
    try:
        server = demo.compute.create_server(
            name="huge",
            image_id=demo.image.find_image("probe").id,
            flavor_id=flavor.id,
            networks=[{"uuid": private.id}],
        )
        wait_until(lambda: demo.compute.get_server(server.id).status == "ERROR", "the fault")
        fault = demo.compute.get_server(server.id).fault["message"]
        assert "No valid host" in fault
        assert "disk" in fault.lower()
        demo.compute.delete_server(server)
        demo.compute.wait_for_delete(server, wait=60)
        assert list(demo.network.ports(device_id=server.id)) == []
    finally:
        admin.compute.delete_flavor(flavor)


def test_a_second_up_is_told_of_the_first(room: Room, demo: Any) -> None:
    second = room.cairn("up", "--detach")
    assert second.returncode == 1
    assert f"already runs from {room.state}" in second.stderr
    assert "Traceback" not in second.stderr
    assert demo.compute.find_server("first").status == "ACTIVE"


def test_a_busy_port_is_named_and_nothing_is_left() -> None:
    with a_room() as other:
        with inside(other):
            taken = socket.create_server(("0.0.0.0", 8443))
        up = other.cairn("up", "--detach")
        taken.close()
        assert up.returncode == 1
        assert "8443" in up.stderr
        assert "api_port" in up.stderr
        assert "Traceback" not in up.stderr
        assert not other.state.exists() or not any(other.state.iterdir())
        assert other.left_overs() == []

"""Volumes of every origin, and a server that boots from one."""

from typing import Any

import pytest

from tests.clients.conftest import wait_for_console, wait_until

pytestmark = pytest.mark.clients


def test_a_volume_of_an_image_boots_a_server_and_outlives_it(demo: Any) -> None:
    storage = demo.block_storage
    image = demo.image.find_image("probe", ignore_missing=False)
    volume = storage.create_volume(name="root", size=1, image_id=image.id)
    storage.wait_for_status(volume, "available", wait=60)
    assert storage.get_volume(volume).is_bootable
    disk = {
        "boot_index": 0, "uuid": volume.id, "source_type": "volume",
        "destination_type": "volume", "delete_on_termination": False,
    }  # fmt: skip
    server = demo.compute.create_server(
        name="from-volume",
        flavor_id=demo.compute.find_flavor("probe").id,
        block_device_mapping=[disk],
        networks=[{"uuid": demo.network.find_network("private").id}],
    )
    demo.compute.wait_for_server(server, wait=120)
    assert [a["id"] for a in demo.compute.get_server(server.id).attached_volumes] == [volume.id]
    said = wait_for_console(demo, server, "PROBE: ready")
    assert f"instance={server.id} hostname=from-volume" in said
    assert storage.get_volume(volume).status == "in-use"
    demo.compute.delete_server(server)
    demo.compute.wait_for_delete(server, wait=120)
    wait_until(lambda: storage.get_volume(volume).status == "available", "the volume's freedom")
    storage.delete_volume(volume)
    storage.wait_for_delete(volume, wait=60)


def test_a_snapshot_becomes_a_volume(demo: Any) -> None:
    storage = demo.block_storage
    volume = storage.create_volume(name="origin", size=1)
    storage.wait_for_status(volume, "available", wait=60)
    snapshot = storage.create_snapshot(volume_id=volume.id, name="then")
    storage.wait_for_status(snapshot, "available", wait=60)
    copy = storage.create_volume(name="copy", size=2, snapshot_id=snapshot.id)
    storage.wait_for_status(copy, "available", wait=60)
    assert {v.name for v in storage.volumes()} >= {"origin", "copy"}
    for made in (copy, snapshot, volume):
        kind = "snapshot" if made is snapshot else "volume"
        getattr(storage, f"delete_{kind}")(made)
        storage.wait_for_delete(made, wait=60)


def test_the_command_line_makes_extends_and_deletes(cli: Any, demo: Any) -> None:
    made = cli("volume", "create", "--size", "1", "by-hand")
    wait_until(lambda: demo.block_storage.get_volume(made["id"]).status == "available", "it")
    cli("volume", "set", "--size", "3", made["id"], is_silent=True)
    wait_until(lambda: demo.block_storage.get_volume(made["id"]).size == 3, "the larger volume")
    wait_until(lambda: demo.block_storage.get_volume(made["id"]).status == "available", "it")
    assert cli("volume", "show", "by-hand")["size"] == 3
    cli("volume", "delete", made["id"], is_silent=True)
    wait_until(lambda: demo.block_storage.find_volume("by-hand") is None, "its end")

"""A real virtio card on the driver's tap: what stand-ins cannot show is who finishes the checksums."""

import socket
import threading
from collections.abc import AsyncIterator

import pytest

from cairn.core.ids import ServerId, VolumeId
from cairn.wire.spec import DiskSpec, GuestSpec, NicSpec
from tests.host import ovn_rig
from tests.host.ovn_world import ADDRESSES, World
from tests.host.qemu_rig import GUEST_MEMORY_MIB, QemuRig

pytestmark = pytest.mark.host

DOWNLOAD_BYTES = 1 << 20  # enough for hundreds of full packets, each with a checksum


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with ovn_rig.lab() as lab:
        made = World(lab, lab.options())
        try:
            await made.start()
            yield made
        finally:
            await made.end()


async def test_a_virtual_machine_gets_its_lease_and_a_download(world: World) -> None:
    await world.boot("peer")
    assert (await world.dhcp("peer"))["ip"] == ADDRESSES["peer"]
    tap = await world.plug("web")
    rig = QemuRig()
    try:
        hypervisor = await rig.agent()
        guest_id = ServerId(world.id("server web"))
        spec = GuestSpec(
            id=guest_id,
            incarnation=1,
            name="web",
            vcpus=1,
            memory_mib=GUEST_MEMORY_MIB,
            disks=(DiskSpec(volume_id=VolumeId(guest_id), device="vda", boot=True),),
            nics=(NicSpec(port_id=tap.port_id),),
        )
        disk = rig.disk(VolumeId(guest_id), bootable=True)
        await hypervisor.boot(spec, (disk,), (tap,), None)
        await rig.console_has(guest_id, f"dhcp eth0 {ADDRESSES['web']}/24".encode())
        assert await world.pings("peer", ADDRESSES["web"], within_s=60)
        with serving_bytes(world.guests["peer"].namespace, 7001):
            command = f"timeout 200 nc -w 60 {ADDRESSES['peer']} 7001 | wc -c"
            assert (await rig.shell(guest_id, command)).strip() == str(DOWNLOAD_BYTES)
    finally:
        await rig.close()


def serving_bytes(namespace: str, port: int) -> socket.socket:
    """A server that sends the first who comes all of the download; closes at the end of `with`."""
    listener = ovn_rig.inside(namespace, lambda: socket.create_server(("", port)))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(bytes(DOWNLOAD_BYTES))

    threading.Thread(target=serve, daemon=True).start()
    return listener

"""What only real QEMU can show: isolation, the guest's own view, causes of failure, time and room."""

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import AsyncMock

import msgspec
import pytest

from cairn.agent import config_drive
from cairn.core.errors import CloudError, Conflict, Invalid, NoCapacity, NotFound
from cairn.core.ids import PortId
from cairn.drivers.contracts import BlockNode, Tap
from cairn.drivers.hypervisor import process
from cairn.drivers.hypervisor.qemu import QemuHypervisor, QemuOptions, tear_down
from cairn.wire.spec import GuestSpec, NicSpec
from tests.host.qemu_rig import QemuRig, new_port_id, new_spec, new_volume_id

pytestmark = pytest.mark.host


@pytest.fixture
async def rig() -> AsyncIterator[QemuRig]:
    made = QemuRig()
    yield made
    await made.close()


async def boot_empty(rig: QemuRig, driver: QemuHypervisor) -> GuestSpec:
    spec = new_spec(disks=(new_volume_id(),))
    await driver.boot(spec, (rig.disk(spec.disks[0].volume_id),), (), None)
    return spec


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: line.split()[1:] for line in lines}


async def test_a_guest_runs_as_nobody_in_a_sandbox_and_owns_only_its_disks(rig: QemuRig) -> None:
    driver = await rig.agent()
    spec = new_spec(disks=(new_volume_id(),))
    node = rig.disk(spec.disks[0].volume_id, bootable=True)
    await driver.boot(spec, (node,), (), b"secret")
    uid = str(rig.options.uid_first + 1)
    status = status_of(rig.pid(spec.id))
    assert status["Uid"] == [uid] * 4
    assert status["Gid"] == [uid] * 4
    assert status["Groups"] == [str(rig.options.uid_first)]
    assert status["CapEff"] == ["0000000000000000"]
    assert status["Seccomp"] == ["2"]  # a filter

    own, base = Path(node.owned_paths[0]), Path(node.read_paths[0])
    assert (own.stat().st_uid, stat.S_IMODE(own.stat().st_mode)) == (int(uid), 0o600)
    assert (base.stat().st_uid, stat.S_IMODE(base.stat().st_mode)) == (0, 0o640)
    assert stat.S_IMODE(rig.pool.stat().st_mode) == 0o710

    home = rig.options.guests_dir / spec.id
    assert (home.stat().st_uid, stat.S_IMODE(home.stat().st_mode)) == (0, 0o700)
    as_guest = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    for path in (home, base, rig.pool, home / "qmp.sock", home / "config.iso"):
        tried = subprocess.run([*as_guest, "test", "-r", path], check=False)  # noqa: ASYNC221
        assert tried.returncode == 1, f"the guest's user may read {path}"
    listening = Path(f"/proc/{rig.pid(spec.id)}/net/tcp").read_text()
    sockets = {str(fd.readlink()) for fd in Path(f"/proc/{rig.pid(spec.id)}/fd").iterdir()}
    inodes = {line.split()[9] for line in listening.splitlines()[1:]}
    assert not sockets & {f"socket:[{inode}]" for inode in inodes}

    await driver.cut_off(spec.id)
    assert own.stat().st_uid == 0
    assert not (home / "config.iso").exists()


async def test_two_guests_have_different_users(rig: QemuRig) -> None:
    driver = await rig.agent()
    first, second = [await boot_empty(rig, driver) for _ in range(2)]
    assert status_of(rig.pid(first.id))["Uid"] != status_of(rig.pid(second.id))["Uid"]


async def test_a_guest_sees_its_disks_ports_config_drive_and_cloud(rig: QemuRig) -> None:
    driver = await rig.agent()
    root, data, port = new_volume_id(), new_volume_id(), new_port_id()
    spec = new_spec(disks=(root,), vcpus=2)
    told = f'{{"uuid": "{spec.id}", "hostname": "web-1"}}'
    drive = config_drive.image({"openstack/latest/meta_data.json": told.encode()})
    await driver.boot(spec, (rig.disk(root, bootable=True),), (), drive)
    await rig.up(spec.id)
    said = (await driver.console_log(spec.id, None)).decode(errors="replace")
    assert f"metadata source=config-drive instance={spec.id} hostname=web-1" in said
    assert f"disk vda 262144 KiB serial={root[:20]}" in said
    assert "cpus 2" in said
    assert (await driver.console_log(spec.id, 1)).count(b"\n") <= 1

    await driver.plug_disk(spec, data, rig.disk(data))
    await driver.plug_nic(spec, tap := rig.tap(port))
    dmi = "cat /sys/class/dmi/id/product_name /sys/class/dmi/id/product_uuid"
    assert {"OpenStack Compute", spec.id} <= set((await rig.shell(spec.id, dmi)).split("\n"))
    seen = "until [ -e /sys/block/vdb ] && [ -e /sys/class/net/eth0 ]; do usleep 100000; done"
    disk_and_nic = "cat /sys/block/vdb/serial /sys/class/net/eth0/address; echo"
    plugged = await rig.shell(spec.id, f"{seen}; {disk_and_nic}")
    assert data[:20] in plugged and tap.mac in plugged
    assert (await rig.shell(spec.id, "ip link show eth0")).count("mtu 1442") == 1

    await driver.resize_disk(spec.id, data, 1)
    grown = "until [ $(cat /sys/block/vdb/size) = 2097152 ]; do usleep 100000; done; echo grown"
    assert "grown" in await rig.shell(spec.id, grown)

    await driver.switch_layer(spec.id, data, layer := rig.layer(data))
    written = "echo kept > /dev/vdb; sync; head -c 5 /dev/vdb; cat /sys/block/vdb/size"
    assert {"kept", "2097152"} <= set((await rig.shell(spec.id, written)).split("\n"))
    below, above = (rig.pool / f"{data}.qcow2").stat(), Path(layer.owned_paths[0]).stat()
    assert (below.st_uid, stat.S_IMODE(below.st_mode)) == (0, 0o640)
    assert above.st_uid == rig.options.uid_first + 1
    await driver.unplug_disk(spec.id, data)
    assert Path(layer.owned_paths[0]).stat().st_uid == 0
    await driver.unplug_nic(spec.id, port)
    gone = "until [ ! -e /sys/block/vdb ] && [ ! -e /sys/class/net/eth0 ]; do :; done; echo gone"
    assert "gone" in await rig.shell(spec.id, gone)


def _file(path: Path, content: bytes) -> BlockNode:
    path.write_bytes(content)
    options: dict[str, object] = {
        "driver": "qcow2",
        "file": {"driver": "file", "filename": str(path)},
    }
    return BlockNode(options=options, owned_paths=(str(path),))


async def test_a_failed_boot_says_why_and_leaves_nothing(rig: QemuRig) -> None:
    driver = await rig.agent()
    good = new_spec(disks=(new_volume_id(),))
    volume_id, port = good.disks[0].volume_id, new_port_id()
    there = (rig.disk(volume_id),)
    missing = (rig.broken_disk(new_volume_id()),)
    broken = (_file(rig.pool / "broken.qcow2", b"not a disk" * 1000),)
    huge = msgspec.structs.replace(good, memory_mib=1 << 30)
    many = msgspec.structs.replace(good, vcpus=4000)
    cases: tuple[tuple[GuestSpec, tuple[BlockNode, ...], type[CloudError], str], ...] = (
        (good, missing, NotFound, f"disk vda (volume {volume_id}): a disk of the guest is missing"),
        (good, broken, Invalid, f"disk vda (volume {volume_id}) is damaged"),
        (huge, there, NoCapacity, "memory: the server needs 1073741824 MiB"),
        (many, there, Invalid, "vcpus: 4000 is more"),
    )
    for spec, nodes, kind, words in cases:
        with pytest.raises(kind) as raised:
            await driver.boot(spec, nodes, (), None)
        assert words in raised.value.message and "/" not in raised.value.message
        assert await driver.look() == []
        assert list(rig.options.guests_dir.iterdir()) == []
        assert process.find(rig.options.guests_dir, rig.options.uids) == {}
    assert Path(there[0].owned_paths[0]).stat().st_uid == 0
    with pytest.raises(NotFound, match=f"port {port} is not plugged"):
        tap = Tap(port_id=port, name="cvnone", mac="fa:16:3e:00:00:01", mtu=1500)
        with_port = msgspec.structs.replace(good, nics=(NicSpec(port_id=port),))
        await driver.boot(with_port, there, (tap,), None)
    assert await driver.look() == []
    await driver.boot(good, there, (), None)
    with pytest.raises(Conflict, match="in use"):
        await driver.boot(new_spec(disks=(volume_id,)), there, (), None)
    assert [view.id for view in await driver.look()] == [good.id]
    assert Path(there[0].owned_paths[0]).stat().st_uid == rig.options.uid_first + 1


async def test_a_tap_serves_one_guest(rig: QemuRig) -> None:
    driver = await rig.agent()
    spec, port = await boot_empty(rig, driver), new_port_id()
    tap = rig.tap(port)
    await driver.plug_nic(spec, tap)
    other = new_spec(nics=(port,))
    with pytest.raises(Conflict, match=f"port {port} is in use"):
        await driver.boot(other, (), (tap,), None)
    wrong = msgspec.structs.replace(tap, port_id=PortId("0" * 36), name="cvnone")
    with pytest.raises(NotFound):
        await driver.plug_nic(spec, wrong)
    assert (await driver.look())[0].nics == (port,)


async def test_starting_and_adopting_are_quick(rig: QemuRig) -> None:
    """Bounds are wide, for a busy machine; bench/ has the figures."""
    driver = await rig.agent()
    begun = time.perf_counter()
    spec = await boot_empty(rig, driver)
    assert time.perf_counter() - begun < 3
    await driver.close()
    begun = time.perf_counter()
    await (driver := await rig.agent()).look()
    assert time.perf_counter() - begun < 1
    await driver.remove(spec.id)


async def test_a_guest_in_the_middle_of_its_boot_is_dropped_by_the_next_agent(
    rig: QemuRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent died between starting the process and its first word."""
    driver = await rig.agent()
    spec = new_spec(disks=(new_volume_id(),))
    reached = asyncio.Event()

    async def hang(*_words: object, **_more: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr("cairn.drivers.hypervisor.guest.qmp.connect", hang)
        node = rig.disk(spec.disks[0].volume_id)
        booting = asyncio.create_task(driver.boot(spec, (node,), (), None))
        await reached.wait()
        pid = rig.pid(spec.id)
        driver = await rig.agent_beside()
    assert await driver.look() == []
    assert not Path(f"/proc/{pid}/cwd").exists()
    assert list(rig.options.guests_dir.iterdir()) == []
    booting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await booting


async def test_a_lost_monitor_connection_is_made_again(rig: QemuRig) -> None:
    driver = await rig.agent()
    spec = await boot_empty(rig, driver)
    monitor = driver._guests[spec.id]._monitor
    assert monitor is not None
    await monitor.close()
    await driver.reset(spec.id)
    await driver.resize_disk(spec.id, spec.disks[0].volume_id, 1)


async def test_what_a_killed_agent_had_half_plugged_is_closed(rig: QemuRig) -> None:
    driver = await rig.agent()
    spec = await boot_empty(rig, driver)
    data = new_volume_id()
    disk = rig.disk(data)
    guest = driver._guests[spec.id]
    died = asyncio.CancelledError()
    guest._add = AsyncMock(side_effect=died)  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await driver.plug_disk(spec, data, disk)
    driver = await rig.agent()
    assert Path(disk.owned_paths[0]).stat().st_uid != 0
    assert (await driver.look())[0].disks == (spec.disks[0].volume_id,)
    assert Path(disk.owned_paths[0]).stat().st_uid == 0
    await driver.plug_disk(spec, data, disk)
    assert (await driver.look())[0].disks == (spec.disks[0].volume_id, data)


async def test_a_process_that_hangs_is_adopted_and_ended_all_the_same(rig: QemuRig) -> None:
    driver = await rig.agent()
    spec = await boot_empty(rig, driver)
    before = await driver.look()
    os.kill(rig.pid(spec.id), signal.SIGSTOP)
    driver = await rig.agent()
    assert await driver.look() == before
    begun = time.perf_counter()
    await driver.cut_off(spec.id)
    assert time.perf_counter() - begun < 10
    assert not (await driver.look())[0].running


async def test_the_console_log_keeps_one_mebibyte(rig: QemuRig) -> None:
    driver = await rig.agent()
    spec = await boot_empty(rig, driver)
    log = rig.options.guests_dir / spec.id / "console.log"
    with log.open("ab") as file:
        for n in range(3 << 10):
            file.write(f"{n:01023}\n".encode())
    await driver.look()
    assert log.stat().st_blocks * 512 <= 2 << 20
    kept = await driver.console_log(spec.id, None)
    assert len(kept) <= 1 << 20
    assert kept.endswith(f"{3 * 1024 - 1:01023}\n".encode())
    assert await driver.console_log(spec.id, 2) == b"".join(kept.splitlines(keepends=True)[-2:])


async def test_tear_down_ends_what_no_agent_watches(rig: QemuRig) -> None:
    driver = await rig.agent()
    spec = await boot_empty(rig, driver)
    disk = rig.pool / f"{spec.disks[0].volume_id}.qcow2"
    await driver.close()
    for _ in range(2):
        await tear_down(rig.options)
    assert process.find(rig.options.guests_dir, rig.options.uids) == {}
    assert not rig.options.guests_dir.exists()
    assert disk.stat().st_uid == 0


async def test_a_state_directory_with_too_long_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="too long"):
        await QemuHypervisor(QemuOptions(state_dir=tmp_path / ("x" * 80))).start(lambda: None)

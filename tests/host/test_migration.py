"""Real guests between two hosts: no write is lost, and whatever fails, the guest runs on."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from cairn.core.errors import Conflict
from cairn.drivers.contracts import GuestView
from cairn.drivers.hypervisor.sender import Sender
from cairn.wire.spec import DiskSpec, NicSpec, Power
from tests.host.migration_rig import SECRET, TwoHosts, new_home
from tests.host.qemu_rig import new_port_id, new_volume_id

pytestmark = pytest.mark.host

SLOW_MIB_S = 4
XFS_MIB = 6144


@pytest.fixture(params=["qcow2"])
async def hosts(request: pytest.FixtureRequest) -> AsyncIterator[TwoHosts]:
    home = new_home()
    if request.param == "reflink":
        _mount_xfs(home)
    made = TwoHosts(home)
    await made.start()
    engine = made.a.volumes.facts().engine
    assert engine == request.param
    yield made
    await made.close()
    if request.param == "reflink":
        subprocess.run(["umount", str(home)], check=True)  # noqa: ASYNC221
        Path(f"{home}.xfs").unlink()
    shutil.rmtree(home)


def _mount_xfs(home: Path) -> None:
    image = Path(f"{home}.xfs")
    subprocess.run(["truncate", "-s", f"{XFS_MIB}M", str(image)], check=True)
    subprocess.run(["mkfs.xfs", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(home)], check=True)
    home.chmod(0o711)


def has_trouble(view: GuestView) -> bool:
    return view.sending is not None and bool(view.sending.trouble)


@pytest.mark.live
@pytest.mark.parametrize("hosts", ["qcow2", "reflink"], indirect=True)
async def test_a_guest_goes_there_and_back_with_what_was_plugged_and_no_write_is_lost(
    hosts: TwoHosts,
) -> None:
    a, b = hosts.a, hosts.b
    spec = await hosts.guest()
    await hosts.boot(spec)
    extra, port = new_volume_id(), new_port_id()
    await a.make(extra)
    disk = DiskSpec(volume_id=extra, device="vdd")  # "vdc" was unplugged once
    spec = msgspec.structs.replace(
        spec,
        disks=(*spec.disks, disk),
        nics=(*spec.nics, NicSpec(port_id=port, position=4)),
    )
    await a.here(a.driver.plug_disk(spec, extra, await a.here(a.volumes.open(extra))))
    await a.here(a.driver.plug_nic(spec, a.tap(port)))
    seen = "until [ -e /sys/block/vdc ] && [ -e /sys/class/net/eth2 ]; do usleep 100000; done"
    serials = f"{seen}; cat /sys/block/vd?/serial /sys/class/net/eth?/address; echo"
    plugged = [d.volume_id[:20] for d in spec.disks] + [a.tap(n.port_id).mac for n in spec.nics]
    answer = await a.shell(spec.id, serials)
    assert all(one in answer for one in plugged)
    await hosts.write(spec)

    there, went = await hosts.move(spec, b)
    await hosts.writes_on(spec, b)
    assert went.pause_ms > 0
    back, _ = await hosts.move(there, a)
    await hosts.writes_on(spec, a)

    last = await hosts.stop_writing(spec, a)
    answer = await a.shell(spec.id, serials)
    assert all(one in answer for one in plugged)
    await a.here(a.driver.unplug_disk(spec.id, extra))
    gone = "until [ ! -e /sys/block/vdc ]; do usleep 100000; done; echo gone"
    assert "gone" in await a.shell(spec.id, gone)
    assert (await a.until(spec.id, lambda v: v.running)).incarnation == back.incarnation == 3
    await a.here(a.driver.cut_off(spec.id))
    await hosts.assert_written(spec.disks[1].volume_id, a, last)


async def test_a_receiver_that_dies_costs_nothing(hosts: TwoHosts) -> None:
    a, b = hosts.a, hosts.b
    spec = await hosts.guest(nics=1)
    await hosts.boot(spec)
    await hosts.write(spec)
    await hosts.awaited(spec, b)
    await hosts.send(spec, b, bandwidth_mib_s=SLOW_MIB_S)
    await a.until(spec.id, lambda v: bool(v.sending and v.sending.total_bytes))
    os.kill(b.pid(spec.id), signal.SIGKILL)
    view = await a.until(spec.id, has_trouble)
    assert view.running
    await hosts.writes_on(spec, a)
    waits = await b.until(spec.id, lambda v: bool(v.reception and v.reception.trouble))
    assert not waits.running

    await b.here(b.driver.remove(spec.id))
    await hosts.move(spec, b)
    await hosts.writes_on(spec, b)
    last = await hosts.stop_writing(spec, b)
    await b.here(b.driver.cut_off(spec.id))
    await hosts.assert_written(spec.disks[1].volume_id, b, last)


async def test_a_cut_cable_costs_nothing(hosts: TwoHosts) -> None:
    a, b = hosts.a, hosts.b
    spec = await hosts.guest(nics=0)
    await hosts.boot(spec)
    await hosts.write(spec)
    await hosts.awaited(spec, b)
    await hosts.send(spec, b, bandwidth_mib_s=SLOW_MIB_S)
    await a.until(spec.id, lambda v: bool(v.sending and v.sending.total_bytes))
    hosts.pull_the_cable()
    view = await a.until(spec.id, has_trouble)
    assert view.running
    await hosts.writes_on(spec, a)
    hosts.plug_the_cable()
    await b.here(b.driver.remove(spec.id))
    await hosts.move(spec, b)
    await hosts.writes_on(spec, b)
    last = await hosts.stop_writing(spec, b)
    await b.here(b.driver.cut_off(spec.id))
    await hosts.assert_written(spec.disks[1].volume_id, b, last)


@pytest.mark.live
async def test_agents_that_are_killed_meanwhile_are_followed_by_others(hosts: TwoHosts) -> None:
    a, b = hosts.a, hosts.b
    spec = await hosts.guest(nics=1)
    await hosts.boot(spec)
    await hosts.write(spec)
    await hosts.awaited(spec, b)
    await hosts.send(spec, b, bandwidth_mib_s=SLOW_MIB_S * 4)
    for _ in range(4):
        await a.agent()
        await b.agent()
    await b.until(spec.id, lambda v: v.running)
    await a.until(spec.id, lambda v: bool(v.sending and v.sending.done))
    await hosts.writes_on(spec, b)


async def test_a_stopped_guests_disks_are_the_same_there(hosts: TwoHosts) -> None:
    a, b = hosts.a, hosts.b
    spec = await hosts.guest(nics=0)
    await hosts.boot(spec)
    await a.shell(spec.id, "dd if=/dev/urandom of=/dev/vdb bs=64k count=64 2>/dev/null; sync")
    await a.here(a.driver.cut_off(spec.id))
    stopped = msgspec.structs.replace(spec, power=Power.STOPPED)
    there, _ = await hosts.move(stopped, b)
    for disk in spec.disks:
        digests = set()
        for site in hosts.sites:
            copy = await site.content(disk.volume_id)
            digests.add(hashlib.sha256(copy.read_bytes()).hexdigest())
            copy.unlink()
        assert len(digests) == 1
    booted = msgspec.structs.replace(there, power=Power.RUNNING, boot_number=2)
    await b.here(b.driver.boot(booted, await b.opened(booted), (), None))
    await b.console_has(spec.id, b"PROBE: done")


async def test_who_does_not_know_the_key_gets_in_nowhere(hosts: TwoHosts) -> None:
    a, b = hosts.a, hosts.b
    spec = await hosts.guest(nics=0)
    await a.here(a.driver.boot(spec, await a.opened(spec), (), None))
    await hosts.awaited(spec, b)
    view = await b.see(spec.id)
    assert view is not None and view.reception is not None
    door = view.reception.disks[0]
    url = f"nbd://{b.address}:{door.port}/{door.export}"
    asked = subprocess.run(  # noqa: ASYNC221
        ["nsenter", f"--net=/run/netns/{a.name}", "qemu-img", "info", url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode != 0 and "TLS" in asked.stderr
    await hosts.send(spec, b, secret=SECRET[::-1])
    gone = await a.until(spec.id, has_trouble)
    assert gone.running
    for site in hosts.sites:
        kept = site.options.guests_dir.rglob("*")
        assert not any(SECRET.encode() in p.read_bytes() for p in kept if p.is_file())
    assert [p for p in b.options.keys_dir.rglob("*") if p.is_file()]
    await b.here(b.driver.remove(spec.id))
    for site in hosts.sites:
        assert not [p for p in site.options.keys_dir.rglob("*") if p.is_file()]
    hosts_words = " ".join(Path(f"/proc/{a.pid(spec.id)}/cmdline").read_text().split("\0"))
    assert SECRET not in hosts_words


async def test_a_guest_does_not_go_where_its_cards_would_be_others(hosts: TwoHosts) -> None:
    a, b = hosts.a, hosts.b
    spec = await hosts.guest(nics=1)
    await hosts.boot(spec, checksum_offload=True)
    await hosts.awaited(spec, b)
    await hosts.send(spec, b)
    there = await b.until(spec.id, lambda v: bool(v.reception and v.reception.trouble))
    assert there.reception is not None
    assert "the hosts have different datapaths" in there.reception.trouble
    view = await a.until(spec.id, has_trouble)
    assert view.running
    await a.shell(spec.id, "echo alive")


async def test_a_guest_lost_in_its_last_moment_runs_nowhere_until_somebody_knows(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender stands still and its host is cut off before it heard of the other."""
    a, b = hosts.a, hosts.b
    spec = await hosts.guest(nics=0)
    await a.here(a.driver.boot(spec, await a.opened(spec), (), None))
    await hosts.awaited(spec, b)
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hear_nothing(*_: object) -> None:
        loop.call_soon_threadsafe(reached.set)
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(Sender, "_await_word", hear_nothing)
        await hosts.send(spec, b)
        await reached.wait()
        os.kill(a.pid(spec.id), signal.SIGKILL)
        await a.agent()
    view = await a.until(spec.id, lambda v: not v.running)
    assert view.sending is not None and not view.sending.done and not view.sending.trouble
    assert not view.crashed
    again = msgspec.structs.replace(spec, boot_number=2)
    with pytest.raises(Conflict):
        await a.here(a.driver.boot(again, await a.opened(again), (), None))
    await b.until(spec.id, lambda v: v.running)
    # Had the control plane found that it does not run there, it would say so like this.
    await a.here(a.driver.cancel_send(spec.id))
    known = await a.see(spec.id)
    assert known is not None and known.crashed
    with contextlib.suppress(Conflict):
        await a.here(a.driver.boot(again, await a.opened(again), (), None))

"""What every hypervisor promises, held against the fake and against real QEMU.

The real one boots the probe image; tests that need the guest's own system to act (to power off, to let
go of a disk) wait until it is up.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
import pytest
from tests.host.qemu_rig import QemuRig, new_port_id, new_spec, new_volume_id

from cairn.core.errors import CloudError, Conflict, NoCapacity, NotFound
from cairn.core.ids import PortId, ServerId, VolumeId
from cairn.drivers.contracts import BlockNode, Changed, GuestView, Hypervisor, Tap
from cairn.drivers.hypervisor.fake import FakeHypervisor
from cairn.wire.spec import GuestSpec

WAIT_S_MAX = 30.0


class Rig(Protocol):
    """A host: what a test may do to it beside what the driver does."""

    async def agent(self, changed: Changed = ...) -> Hypervisor: ...
    async def close(self) -> None: ...
    def disk(self, volume_id: VolumeId, *, bootable: bool = False) -> BlockNode: ...
    def layer(self, below: VolumeId) -> BlockNode: ...
    def tap(self, port_id: PortId) -> Tap: ...
    async def up(self, guest_id: ServerId) -> None: ...
    async def end(self, guest_id: ServerId) -> None: ...
    async def crash(self, guest_id: ServerId) -> None: ...
    async def power_cut(self) -> None: ...


class FakeRig:
    """The fake object is the host, so a new agent gets the same one."""

    def __init__(self) -> None:
        self.fake = FakeHypervisor()

    async def agent(self, changed: Changed = lambda: None) -> Hypervisor:
        await self.fake.close()
        await self.fake.start(changed)
        return self.fake

    async def close(self) -> None:
        await self.fake.close()

    def disk(self, volume_id: VolumeId, *, bootable: bool = False) -> BlockNode:
        return BlockNode(options={"driver": "null-co"}, owned_paths=(volume_id,))

    def layer(self, below: VolumeId) -> BlockNode:
        return BlockNode(options={"driver": "null-co"}, owned_paths=(str(uuid.uuid4()),))

    def tap(self, port_id: PortId) -> Tap:
        return Tap(port_id=port_id, name="tap", mac="fa:16:3e:00:00:01", mtu=1442)

    async def up(self, guest_id: ServerId) -> None:
        pass

    async def end(self, guest_id: ServerId) -> None:
        self.fake.end(guest_id)

    async def crash(self, guest_id: ServerId) -> None:
        self.fake.crash(guest_id)

    async def power_cut(self) -> None:
        self.fake.power_cut()


@pytest.fixture(params=["fake", pytest.param("qemu", marks=pytest.mark.host)])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    made: Rig = FakeRig() if request.param == "fake" else QemuRig()
    yield made
    await made.close()


class Watcher:
    """Counts calls of `changed`, and waits for a view that something becomes true of."""

    def __init__(self) -> None:
        self.calls = 0
        self._called = asyncio.Event()

    def __call__(self) -> None:
        self.calls += 1
        self._called.set()

    async def until_stopped(self, driver: Hypervisor, guest_id: ServerId) -> GuestView:
        """Looks only when told to, so a death that nobody tells of ends in a timeout."""
        async with asyncio.timeout(WAIT_S_MAX):
            while (view := await see(driver, guest_id)).running:
                self._called.clear()
                await self._called.wait()
        return view


async def see(driver: Hypervisor, guest_id: ServerId) -> GuestView:
    return next(view for view in await driver.look() if view.id == guest_id)


async def boot(rig: Rig, driver: Hypervisor, spec: GuestSpec | None = None) -> GuestSpec:
    """Boot a guest that needs no system of its own: one empty disk."""
    spec = spec or new_spec(disks=(new_volume_id(),))
    await driver.boot(spec, tuple(rig.disk(d.volume_id) for d in spec.disks), (), None)
    return spec


async def boot_system(rig: Rig, driver: Hypervisor) -> GuestSpec:
    """Boot a guest whose system answers to buttons and plugs."""
    spec = new_spec(disks=(new_volume_id(),))
    disks = tuple(rig.disk(d.volume_id, bootable=True) for d in spec.disks)
    await driver.boot(spec, disks, (), None)
    await rig.up(spec.id)
    return spec


def next_boot(spec: GuestSpec) -> GuestSpec:
    return msgspec.structs.replace(spec, boot_number=spec.boot_number + 1)


async def test_a_booted_guest_is_seen_with_all_it_has(rig: Rig) -> None:
    driver = await rig.agent()
    assert await driver.look() == []
    root, data, port = new_volume_id(), new_volume_id(), new_port_id()
    spec = new_spec(disks=(root, data), nics=(port,))
    await driver.boot(spec, (rig.disk(root), rig.disk(data)), (rig.tap(port),), b"\0" * 2048)
    assert await driver.look() == [
        GuestView(
            id=spec.id,
            incarnation=1,
            boot_number=1,
            running=True,
            disks=(root, data),
            nics=(port,),
        )
    ]
    assert driver.vnc_socket(spec.id).name == "vnc.sock"
    assert isinstance(await driver.console_log(spec.id, 10), bytes)
    assert driver.facts().accelerator in ("kvm", "tcg")


async def test_booting_twice_is_booting_once(rig: Rig) -> None:
    driver = await rig.agent()
    spec = new_spec(disks=(new_volume_id(),))
    disk = rig.disk(spec.disks[0].volume_id)
    await asyncio.gather(*(driver.boot(spec, (disk,), (), None) for _ in range(2)))
    await driver.boot(spec, (disk,), (), None)
    assert [view.running for view in await driver.look()] == [True]


async def test_another_boot_of_a_running_guest_is_refused(rig: Rig) -> None:
    driver = await rig.agent()
    spec = await boot(rig, driver)
    disk = rig.disk(new_volume_id())
    with pytest.raises(Conflict):
        await driver.boot(next_boot(spec), (disk,), (), None)
    assert (await see(driver, spec.id)).boot_number == 1


async def test_an_earlier_incarnation_does_not_boot_again(rig: Rig) -> None:
    driver = await rig.agent()
    spec = await boot(rig, driver, msgspec.structs.replace(new_spec(), incarnation=2))
    await driver.cut_off(spec.id)
    with pytest.raises(Conflict):
        await driver.boot(msgspec.structs.replace(spec, incarnation=1), (), (), None)


async def test_a_guest_cut_off_is_stopped_as_asked_and_boots_again(rig: Rig) -> None:
    driver = await rig.agent()
    spec = await boot(rig, driver)
    for _ in range(2):
        await driver.cut_off(spec.id)
    view = await see(driver, spec.id)
    assert (view.running, view.crashed, view.ended, view.disks) == (False, False, False, ())
    with pytest.raises(NotFound):
        driver.vnc_socket(spec.id)
    await boot(rig, driver, msgspec.structs.replace(next_boot(spec), disks=()))
    view = await see(driver, spec.id)
    assert (view.running, view.boot_number) == (True, 2)


async def test_a_killed_guest_is_told_at_once_and_known_as_crashed(rig: Rig) -> None:
    watcher = Watcher()
    driver = await rig.agent(watcher)
    spec = await boot(rig, driver)
    await rig.crash(spec.id)
    view = await watcher.until_stopped(driver, spec.id)
    assert view.crashed and not view.ended
    assert await see(await rig.agent(), spec.id) == view
    await (driver := await rig.agent()).cut_off(spec.id)
    assert not (await see(driver, spec.id)).crashed


async def test_a_guest_that_powers_itself_off_has_ended(rig: Rig) -> None:
    watcher = Watcher()
    driver = await rig.agent(watcher)
    spec = await boot_system(rig, driver)
    await rig.end(spec.id)
    view = await watcher.until_stopped(driver, spec.id)
    assert view.ended and not view.crashed
    assert await see(await rig.agent(), spec.id) == view


async def test_a_guest_that_ended_while_no_agent_was_there_has_not_crashed(rig: Rig) -> None:
    driver = await rig.agent()
    spec = await boot_system(rig, driver)
    await driver.close()
    await rig.end(spec.id)
    watcher = Watcher()
    # The guest may need a moment; the new agent is told of it either way.
    view = await watcher.until_stopped(await rig.agent(watcher), spec.id)
    assert view.ended and not view.crashed


async def test_a_guest_asked_to_shut_down_is_stopped_as_asked(rig: Rig) -> None:
    watcher = Watcher()
    driver = await rig.agent(watcher)
    spec = await boot_system(rig, driver)
    await driver.shut_down(spec.id)
    assert (await see(driver, spec.id)).stopping
    view = await watcher.until_stopped(driver, spec.id)
    assert (view.crashed, view.ended, view.stopping) == (False, False, False)


async def test_a_new_agent_adopts_what_runs(rig: Rig) -> None:
    driver = await rig.agent()
    spec = await boot(rig, driver)
    data = new_volume_id()
    await driver.plug_disk(spec, data, rig.disk(data))
    before = await driver.look()
    watcher = Watcher()
    driver = await rig.agent(watcher)
    assert await driver.look() == before
    await rig.crash(spec.id)
    assert (await watcher.until_stopped(driver, spec.id)).crashed


async def test_after_a_power_cut_only_what_ran_has_crashed(rig: Rig) -> None:
    driver = await rig.agent()
    ran, stopped, stopping = [await boot(rig, driver) for _ in range(3)]
    await driver.cut_off(stopped.id)
    await driver.shut_down(stopping.id)  # Its disk is empty: nobody there heeds the button.
    await rig.power_cut()
    driver = await rig.agent()
    views = {view.id: view for view in await driver.look()}
    assert not any(view.running or view.ended for view in views.values())
    assert views[ran.id].crashed
    assert not views[stopped.id].crashed and not views[stopping.id].crashed
    await boot(rig, driver, next_boot(msgspec.structs.replace(ran, disks=())))


async def test_disks_come_and_go_while_the_guest_runs(rig: Rig) -> None:
    driver = await rig.agent()
    spec = await boot_system(rig, driver)
    root, data = spec.disks[0].volume_id, new_volume_id()
    disk = rig.disk(data)
    for _ in range(2):
        await driver.plug_disk(spec, data, disk)
    assert (await see(driver, spec.id)).disks == (root, data)
    for _ in range(2):
        await driver.unplug_disk(spec.id, data)
    assert (await see(driver, spec.id)).disks == (root,)
    await driver.plug_disk(spec, data, disk)
    assert (await see(driver, spec.id)).disks == (root, data)


async def test_ports_come_and_go_while_the_guest_runs(rig: Rig) -> None:
    driver = await rig.agent()
    spec = await boot_system(rig, driver)
    port = new_port_id()
    tap = rig.tap(port)
    for _ in range(2):
        await driver.plug_nic(spec, tap)
    assert (await see(driver, spec.id)).nics == (port,)
    for _ in range(2):
        await driver.unplug_nic(spec.id, port)
    assert (await see(driver, spec.id)).nics == ()
    await driver.plug_nic(spec, tap)
    assert (await see(driver, spec.id)).nics == (port,)


async def test_a_running_disk_gets_a_new_layer_and_grows(rig: Rig) -> None:
    driver = await rig.agent()
    spec = await boot(rig, driver)
    volume_id = spec.disks[0].volume_id
    layer = rig.layer(volume_id)
    for _ in range(2):
        await driver.switch_layer(spec.id, volume_id, layer)
        await driver.resize_disk(spec.id, volume_id, 2)
    driver = await rig.agent()
    await driver.switch_layer(spec.id, volume_id, layer)
    assert (await see(driver, spec.id)).disks == (volume_id,)
    with pytest.raises(NotFound):
        await driver.resize_disk(spec.id, new_volume_id(), 2)


async def test_a_removed_guest_leaves_no_trace(rig: Rig) -> None:
    driver = await rig.agent()
    spec = await boot(rig, driver)
    for _ in range(2):
        await driver.remove(spec.id)
    assert await driver.look() == []
    assert await (await rig.agent()).look() == []
    with pytest.raises(NotFound):
        await driver.console_log(spec.id, None)


async def test_verbs_on_what_is_absent_say_so_or_are_done(rig: Rig) -> None:
    driver = await rig.agent()
    spec = new_spec()
    await driver.cut_off(spec.id)
    await driver.shut_down(spec.id)
    await driver.remove(spec.id)
    await driver.unplug_disk(spec.id, new_volume_id())
    await driver.unplug_nic(spec.id, new_port_id())
    with pytest.raises(NotFound):
        await driver.reset(spec.id)
    with pytest.raises(NotFound):
        await driver.plug_disk(spec, new_volume_id(), BlockNode(options={}))
    with pytest.raises(NotFound):
        await driver.plug_nic(
            spec, Tap(port_id=new_port_id(), name="cvnone", mac="fa:16:3e:00:00:02", mtu=1442)
        )
    with pytest.raises(NotFound):
        await driver.resize_disk(spec.id, new_volume_id(), 1)


async def test_plugging_into_a_stopped_guest_is_refused(rig: Rig) -> None:
    driver = await rig.agent()
    spec = await boot(rig, driver)
    await driver.cut_off(spec.id)
    with pytest.raises(Conflict):
        await driver.plug_disk(spec, new_volume_id(), rig.disk(new_volume_id()))
    with pytest.raises(Conflict):
        await driver.reset(spec.id)


async def test_reset_keeps_the_boot(rig: Rig) -> None:
    driver = await rig.agent()
    spec = await boot(rig, driver)
    before = await driver.look()
    await driver.reset(spec.id)
    assert await driver.look() == before


# --- what only the fake can be ordered to do -----------------------------------------------------------


async def test_a_failure_that_was_ordered_leaves_nothing() -> None:
    fake = FakeHypervisor()
    fake.fail_next("boot", NoCapacity("no memory"), times=2)
    spec = new_spec()
    for _ in range(2):
        with pytest.raises(NoCapacity):
            await fake.boot(spec, (), (), None)
    assert await fake.look() == []
    await fake.boot(spec, (), (), None)
    assert fake.boots == {spec.id: 1}


async def test_the_fake_writes_down_what_must_never_be() -> None:
    fake = FakeHypervisor()
    volume_id = new_volume_id()
    node = BlockNode(options={})
    first, second = new_spec(disks=(volume_id,)), new_spec(disks=(volume_id,))
    await fake.boot(first, (node,), (), None)
    assert fake.violations == []
    await fake.boot(second, (node,), (), None)
    with pytest.raises(Conflict):
        await fake.boot(next_boot(first), (node,), (), None)
    assert len(fake.violations) == 2


async def test_deaf_and_clinging_guests_need_force() -> None:
    fake = FakeHypervisor()
    spec = new_spec(disks=(new_volume_id(),))
    await fake.boot(spec, (BlockNode(options={}),), (), None)
    fake.deaf.add(spec.id)
    fake.clinging.add(spec.id)
    await fake.shut_down(spec.id)
    with pytest.raises(CloudError):
        await fake.unplug_disk(spec.id, spec.disks[0].volume_id)
    assert (await see(fake, spec.id)).stopping
    await fake.cut_off(spec.id)
    assert not (await see(fake, spec.id)).running


async def test_latency_is_taken_by_the_sleep_that_was_handed_in() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    fake = FakeHypervisor(latency_s=0.2, sleep=sleep)
    await fake.boot(new_spec(), (), (), None)
    await fake.look()
    assert slept == [0.2, 0.2]

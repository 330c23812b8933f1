"""What every hypervisor promises of a guest that moves, held against two hosts of a kind."""

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from tests.contract.test_hypervisor import FakeRig, Rig
from tests.host.qemu_rig import QemuRig, new_port_id, new_spec, new_volume_id

from cairn.core.errors import CloudError, Conflict
from cairn.core.ids import NodeId, ServerId, VolumeId
from cairn.drivers.contracts import BlockNode, GuestView, Hypervisor
from cairn.drivers.hypervisor.ether import Ether
from cairn.wire.spec import GuestSpec, Incoming, Outgoing, Power

WAIT_S_MAX = 60.0
SLOW_MIB_S = 1  # so slow that a test can step in between
SECRET = "5e" * 32


class Pair:
    """Two hosts that reach each other at `address`."""

    def __init__(self, old: Rig, new: Rig, *, address: str) -> None:
        self.old, self.new, self.address = old, new, address
        self.shared: set[VolumeId] = set()

    async def agents(self) -> tuple[Hypervisor, Hypervisor]:
        """A fresh agent's driver on both."""
        return await self.old.agent(), await self.new.agent()

    async def close(self) -> None:
        await self.old.close()
        await self.new.close()


@pytest.fixture(params=["fake", pytest.param("qemu", marks=pytest.mark.host)])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    if request.param == "qemu":
        made = Pair(QemuRig(), QemuRig(), address="127.0.0.1")
    else:
        old, new = FakeRig(), FakeRig()
        old.fake.ether = new.fake.ether = Ether(copy_s=0.2, pause_s=0.01)
        made = Pair(old, new, address="127.0.0.1")
    yield made
    await made.close()


def coming(spec: GuestSpec, migration_id: str = "m1") -> GuestSpec:
    incoming = Incoming(
        migration_id=migration_id,
        from_node=NodeId("old"),
        from_address="127.0.0.1",
        secret=SECRET,
    )
    return msgspec.structs.replace(spec, incarnation=spec.incarnation + 1, incoming=incoming)


def going(pair: Pair, spec: GuestSpec, view: GuestView, *, bandwidth_mib_s: int = 0) -> GuestSpec:
    waits = view.reception
    assert waits is not None
    outgoing = Outgoing(
        migration_id=waits.migration_id,
        to_node=NodeId("new"),
        address=pair.address,
        memory_port=waits.memory_port,
        disks=waits.disks,
        bandwidth_mib_s=bandwidth_mib_s,
        secret=SECRET,
    )
    return msgspec.structs.replace(spec, outgoing=outgoing)


def disks(rig: Rig, spec: GuestSpec) -> tuple[BlockNode, ...]:
    return tuple(rig.disk(d.volume_id) for d in spec.disks)


async def see(driver: Hypervisor, guest_id: ServerId) -> GuestView | None:
    return next((view for view in await driver.look() if view.id == guest_id), None)


async def until(
    driver: Hypervisor, guest_id: ServerId, is_so: Callable[[GuestView], bool]
) -> GuestView:
    view = None
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            while (view := await see(driver, guest_id)) is None or not is_so(view):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"it stays {view}")
    return view


def has_trouble(view: GuestView) -> bool:
    return view.sending is not None and bool(view.sending.trouble)


def reception_failed(view: GuestView) -> bool:
    return view.reception is not None and bool(view.reception.trouble)


def is_sent(view: GuestView) -> bool:
    return view.sending is not None and view.sending.done


def runs_on(view: GuestView) -> bool:
    return view.running and (has_trouble(view) or view.sending is None)


async def booted(pair: Pair, old: Hypervisor) -> GuestSpec:
    spec = new_spec(disks=(new_volume_id(),))
    await old.boot(spec, disks(pair.old, spec), (), None)
    return spec


async def awaited(
    pair: Pair, new: Hypervisor, spec: GuestSpec, migration_id: str = "m1"
) -> GuestView:
    """The new host waits for the guest."""
    there = coming(spec, migration_id)
    await new.receive(there, disks(pair.new, there), (), None)
    view = await see(new, spec.id)
    assert view is not None
    return view


async def under_way(
    pair: Pair, old: Hypervisor, new: Hypervisor, migration_id: str = "m1"
) -> GuestSpec:
    """A guest that is being sent, slowly."""
    spec = await booted(pair, old)
    view = await awaited(pair, new, spec, migration_id)
    sent = going(pair, spec, view, bandwidth_mib_s=SLOW_MIB_S)
    await old.send(sent, disks(pair.old, spec))
    return sent


async def test_a_host_that_waits_for_a_guest_says_where(pair: Pair) -> None:
    old, new = await pair.agents()
    spec = await booted(pair, old)
    view = await awaited(pair, new, spec)
    assert not view.running and view.incarnation == 2
    waits = view.reception
    assert waits is not None and waits.migration_id == "m1" and not waits.trouble
    assert waits.memory_port > 0
    assert [door.volume_id for door in waits.disks] == [d.volume_id for d in spec.disks]
    await awaited(pair, new, spec)
    again = await see(new, spec.id)
    assert again is not None and again.reception == waits, "waiting twice is waiting once"


async def test_a_running_guest_moves(pair: Pair) -> None:
    old, new = await pair.agents()
    spec = await booted(pair, old)
    view = await awaited(pair, new, spec)
    sent = going(pair, spec, view)
    for _ in range(2):
        await old.send(sent, disks(pair.old, spec))
    here = await until(new, spec.id, lambda v: v.running)
    assert here.reception is None
    assert (here.incarnation, here.boot_number) == (2, 1)
    assert here.disks == tuple(d.volume_id for d in spec.disks)
    gone = await until(old, spec.id, is_sent)
    assert not gone.running
    assert gone.sending is not None and not gone.sending.trouble
    assert gone.sending.migration_id == "m1" and gone.sending.left_bytes == 0


async def test_a_guest_takes_its_nics_along(pair: Pair) -> None:
    old, new = await pair.agents()
    port = new_port_id()
    spec = new_spec(disks=(new_volume_id(),), nics=(port,))
    await old.boot(spec, disks(pair.old, spec), (pair.old.tap(port),), None)
    there = coming(spec)
    await new.receive(there, disks(pair.new, there), (pair.new.tap(port),), None)
    view = await see(new, spec.id)
    assert view is not None
    await old.send(going(pair, spec, view), disks(pair.old, spec))
    assert (await until(new, spec.id, lambda v: v.running)).nics == (port,)


async def test_a_guest_that_was_sent_never_boots_here_again(pair: Pair) -> None:
    old, new = await pair.agents()
    spec = await booted(pair, old)
    view = await awaited(pair, new, spec)
    await old.send(going(pair, spec, view), disks(pair.old, spec))
    await until(old, spec.id, is_sent)
    await until(new, spec.id, lambda v: v.running)
    again = msgspec.structs.replace(spec, boot_number=2)
    for cut in (False, True):
        if cut:
            await pair.old.power_cut()
        old = await pair.old.agent()
        gone = await see(old, spec.id)
        assert gone is not None and is_sent(gone) and not gone.running
        with pytest.raises(Conflict):
            await old.boot(again, disks(pair.old, spec), (), None)
    await old.remove(spec.id)
    assert await see(old, spec.id) is None


async def test_a_cancelled_guest_runs_on_and_can_be_sent_later(pair: Pair) -> None:
    old, new = await pair.agents()
    spec = await under_way(pair, old, new)
    for _ in range(2):
        await old.cancel_send(spec.id)
    await until(old, spec.id, runs_on)
    await new.remove(spec.id)
    assert await see(new, spec.id) is None
    view = await awaited(pair, new, spec, "m2")
    await old.send(going(pair, spec, view), disks(pair.old, spec))
    assert (await until(new, spec.id, lambda v: v.running)).incarnation == 2
    await until(old, spec.id, is_sent)


async def test_cancelling_what_is_not_under_way_is_no_error(pair: Pair) -> None:
    old, _ = await pair.agents()
    spec = await booted(pair, old)
    await old.cancel_send(spec.id)
    await old.cancel_send(ServerId("00000000-0000-4000-8000-000000000000"))
    view = await see(old, spec.id)
    assert view is not None and view.running


async def test_a_guest_whose_receiver_goes_away_runs_on_and_says_why(pair: Pair) -> None:
    old, new = await pair.agents()
    spec = await under_way(pair, old, new)
    await new.remove(spec.id)
    view = await until(old, spec.id, has_trouble)
    assert view.running
    old = await pair.old.agent()
    again = await see(old, spec.id)
    assert again is not None and again.running and has_trouble(again), "the next agent knows it too"
    await old.send(spec, disks(pair.old, spec))
    again = await see(old, spec.id)
    assert again is not None and has_trouble(again), "the same migration is not begun again"


async def test_a_receiver_that_lost_its_power_says_so_and_the_guest_runs_on(pair: Pair) -> None:
    old, new = await pair.agents()
    spec = await under_way(pair, old, new)
    await pair.new.power_cut()
    new = await pair.new.agent()
    await until(new, spec.id, reception_failed)
    assert (await until(old, spec.id, has_trouble)).running
    await new.remove(spec.id)
    view = await awaited(pair, new, spec, "m2")
    await old.send(going(pair, spec, view), disks(pair.old, spec))
    await until(new, spec.id, lambda v: v.running)


async def test_a_sender_that_lost_its_power_says_nothing_of_which_it_is_not_sure(
    pair: Pair,
) -> None:
    old, new = await pair.agents()
    spec = await under_way(pair, old, new)
    await pair.old.power_cut()
    old = await pair.old.agent()
    view = await see(old, spec.id)
    assert view is not None and not view.running and view.crashed
    assert view.sending is not None and not view.sending.done
    await until(new, spec.id, lambda v: v.running or reception_failed(v))


async def test_both_agents_may_die_meanwhile(pair: Pair) -> None:
    old, new = await pair.agents()
    spec = await booted(pair, old)
    view = await awaited(pair, new, spec)
    new = await pair.new.agent()
    again = await see(new, spec.id)
    assert again is not None and again.reception == view.reception
    await old.send(going(pair, spec, view), disks(pair.old, spec))
    old, new = await pair.agents()
    await until(new, spec.id, lambda v: v.running)
    await until(old, spec.id, is_sent)


async def test_a_stopped_guest_moves_with_its_disks_and_boots_there(pair: Pair) -> None:
    old, new = await pair.agents()
    spec = await booted(pair, old)
    await old.cut_off(spec.id)
    stopped = msgspec.structs.replace(spec, power=Power.STOPPED)
    view = await awaited(pair, new, stopped)
    assert not view.running and view.reception is not None
    await old.send(going(pair, stopped, view), disks(pair.old, spec))
    await until(old, spec.id, is_sent)
    there = await until(new, spec.id, lambda v: v.reception is None)
    assert (there.running, there.crashed, there.incarnation) == (False, False, 2)
    await new.boot(
        msgspec.structs.replace(spec, incarnation=2, boot_number=2),
        disks(pair.new, spec),
        (),
        None,
    )
    assert (await until(new, spec.id, lambda v: v.running)).boot_number == 2


async def test_a_guest_that_never_ran_moves_too(pair: Pair) -> None:
    old, new = await pair.agents()
    spec = msgspec.structs.replace(new_spec(disks=(new_volume_id(),)), power=Power.STOPPED)
    view = await awaited(pair, new, spec)
    await old.send(going(pair, spec, view), disks(pair.old, spec))
    await until(old, spec.id, is_sent)


async def test_a_removed_guest_is_sent_nowhere(pair: Pair) -> None:
    old, new = await pair.agents()
    spec = await under_way(pair, old, new)
    await old.remove(spec.id)
    assert await see(old, spec.id) is None
    view = await until(new, spec.id, reception_failed)
    assert not view.running


async def test_nobody_is_sent_where_nobody_waits(pair: Pair) -> None:
    old, new = await pair.agents()
    spec = await booted(pair, old)
    view = await awaited(pair, new, spec)
    await new.remove(spec.id)
    try:
        await old.send(going(pair, spec, view), disks(pair.old, spec))
    except CloudError:
        still = await see(old, spec.id)
        assert still is not None and still.running
    else:
        assert (await until(old, spec.id, has_trouble)).running


async def test_disks_that_both_can_open_need_no_door(pair: Pair) -> None:
    _, new = await pair.agents()
    spec = coming(new_spec(disks=(new_volume_id(),)))
    nodes = tuple(msgspec.structs.replace(n, is_shared=True) for n in disks(pair.new, spec))
    await new.receive(spec, nodes, (), None)
    view = await see(new, spec.id)
    assert view is not None and view.reception is not None and view.reception.disks == ()

"""Guests that may have been started elsewhere wait for the control plane's word after a boot of the host;
and wishes about other hosts are carried out once, and only when they are news."""

import asyncio
import random
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.agent_specs import GUEST, GUEST_SPEC, NODE, NODE_SPEC

from cairn.agent.ledger import Ledger
from cairn.core.errors import Unavailable
from cairn.core.ids import NodeId, VolumeId
from cairn.drivers.power.fake import Rack
from cairn.drivers.volumes.fake import SharedPool
from cairn.sim.loop import LoopClock, VirtualLoop
from cairn.sim.node import SimNode
from cairn.wire.report import GuestState, NodeReport
from cairn.wire.spec import DoorSpec, MachineSpec, NodeSpec, VolumeSpec

MARKED = replace(NODE_SPEC, guests=(replace(GUEST_SPEC, needs_confirmation=True),))
OTHER = NodeId("other")


class Host:
    def __init__(self, *, is_shared: bool = False) -> None:
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.turned: list[bool] = []
        self.rack = Rack()
        self.rack.add("bmc", self._turn)
        self.pool = SharedPool() if is_shared else None
        self.node = SimNode(
            NodeId(NODE),
            clock=LoopClock(self.loop),
            dice=random.Random(1),
            dial=lambda node: None,
            network=True,
            rack=self.rack,
            shared=self.pool,
        )

    async def _turn(self, on: bool) -> None:
        self.turned.append(on)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def start(self) -> None:
        async def begin() -> None:
            self.node.start_agent()

        self.do(begin())
        self.wait(5)

    def tell(self, spec: NodeSpec, *, confirm: bool = True) -> None:
        assert self.node.agent is not None
        self.node.agent.accept(spec)
        if confirm:
            self.node.agent.confirm(spec.number)
        self.wait(5)

    def wait(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    def report(self) -> NodeReport:
        assert self.node.agent is not None
        return self.node.agent.report(1)

    def state(self) -> GuestState:
        return next(g.state for g in self.report().guests if g.id == GUEST)


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.do(made.node.close())
    made.loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def shared() -> Iterator[Host]:
    made = Host(is_shared=True)
    yield made
    made.do(made.node.close())
    made.loop.close()
    asyncio.set_event_loop(None)


# --- confirmation ------------------------------------------------------------------------------------


def test_a_marked_guest_waits_for_confirmation_after_a_reboot(host: Host) -> None:
    host.start()
    host.tell(MARKED)
    assert host.state() is GuestState.RUNNING
    host.do(host.node.cut_power())
    host.start()
    host.wait(60)
    assert host.node.hypervisor.boots[GUEST] == 1
    host.tell(MARKED)  # The same spec again, as `Confirmed` says it.
    assert host.state() is GuestState.RUNNING
    assert host.node.hypervisor.boots[GUEST] == 2


def test_a_guest_without_a_mark_comes_back_alone(host: Host) -> None:
    host.start()
    host.tell(NODE_SPEC)
    host.do(host.node.cut_power())
    host.start()
    assert host.state() is GuestState.RUNNING


def test_an_agent_that_starts_again_keeps_the_confirmation(host: Host) -> None:
    host.start()
    host.tell(MARKED)
    host.do(host.node.kill_agent())
    host.start()
    host.node.hypervisor.crash(GUEST)
    host.wait(10)
    assert host.state() is GuestState.RUNNING


def test_a_word_about_another_spec_confirms_nothing(host: Host) -> None:
    host.start()
    host.tell(MARKED, confirm=False)
    assert host.node.agent is not None
    host.node.agent.confirm(MARKED.number - 1)
    host.node.agent.confirm(MARKED.number + 1)
    host.wait(10)
    assert GUEST not in host.node.hypervisor.boots


def test_the_confirmation_on_disk_is_of_one_boot(tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("first\n")
    path = tmp_path / "ledger" / "spec.msgpack"
    ledger = Ledger(path, boot_id=boot)
    assert not ledger.is_confirmed()
    ledger.confirm()
    assert Ledger(path, boot_id=boot).is_confirmed()
    boot.write_text("second\n")
    assert not Ledger(path, boot_id=boot).is_confirmed()
    boot.unlink()
    ledger.confirm()
    assert not ledger.is_confirmed(), "where no boot can be told, none is confirmed"


# --- other hosts -------------------------------------------------------------------------------------


def power_off(number: int, *, spec_number: int = 2) -> NodeSpec:
    machine = MachineSpec(
        node_id=OTHER, driver="fake", address="bmc", password="", on=False, number=number
    )
    return NodeSpec(node_id=NODE, number=spec_number, machines=(machine,))


def test_a_wish_about_power_is_done_once(host: Host) -> None:
    host.start()
    host.tell(power_off(4))
    (seen,) = host.report().machines
    assert (seen.node_id, seen.number, seen.is_on) == (OTHER, 4, False)
    host.rack.switches["bmc"].is_on = True  # Somebody switched it on again, with a reason.
    host.wait(120)
    assert host.turned == [False]
    host.tell(power_off(5, spec_number=3))
    assert host.turned == [False, False]


def test_a_wish_of_the_ledger_is_not_done_before_it_is_confirmed(host: Host) -> None:
    host.start()
    host.tell(power_off(4), confirm=False)
    host.wait(60)
    assert host.turned == []
    host.tell(power_off(4))
    assert host.turned == [False]
    host.do(host.node.kill_agent())
    host.rack.switches["bmc"].is_on = True
    host.start()
    host.wait(60)
    assert host.turned == [False], "an agent that starts again waits for the newest word"


def test_a_controller_that_fails_is_told_and_tried_again(host: Host) -> None:
    host.start()
    driver = host.node.power._kinds["fake"]
    driver.fail_next("turn", Unavailable("The controller is busy."))  # type: ignore[attr-defined]
    host.tell(replace(power_off(4), number=2))
    host.wait(0.1)
    (seen,) = host.report().machines
    if seen.is_on:
        assert seen.trouble is not None and "busy" in seen.trouble.message
    host.wait(30)
    (seen,) = host.report().machines
    assert not seen.is_on and seen.trouble is None


def test_doors_are_shut_and_opened(shared: Host) -> None:
    assert shared.pool is not None
    shared.start()
    shut = DoorSpec(node_id=OTHER, is_open=False, number=1)
    shared.tell(NodeSpec(node_id=NODE, number=2, doors=(shut,)))
    assert shared.pool.shut_out == {OTHER}
    (seen,) = shared.report().doors
    assert (seen.node_id, seen.number, seen.is_open) == (OTHER, 1, False)
    opened = DoorSpec(node_id=OTHER, is_open=True, number=2)
    shared.tell(NodeSpec(node_id=NODE, number=3, doors=(opened,)))
    assert shared.pool.shut_out == frozenset()
    (seen,) = shared.report().doors
    assert seen.is_open


# --- what lies in a shared pool ----------------------------------------------------------------------


def test_volumes_of_others_in_a_shared_pool_are_left_alone(shared: Host) -> None:
    stranger = VolumeSpec(id=VolumeId("20000000-0000-4000-8000-000000000002"), size_gib=1)
    shared.do(shared.node.volumes.create(stranger))
    shared.start()
    shared.tell(NODE_SPEC)
    shared.tell(NodeSpec(node_id=NODE, number=NODE_SPEC.number + 1))
    shared.wait(60)
    assert stranger.id in shared.node.volumes.volumes
    assert GUEST_SPEC.disks[0].volume_id in shared.node.volumes.volumes, "it may be another's now"
    assert shared.report().volumes == ()
    doomed = replace(stranger, is_doomed=True)
    shared.tell(NodeSpec(node_id=NODE, number=NODE_SPEC.number + 2, volumes=(doomed,)))
    assert stranger.id not in shared.node.volumes.volumes


def test_a_host_is_clean_when_only_its_own_guests_are_left(host: Host) -> None:
    host.start()
    host.tell(NODE_SPEC)
    assert host.report().is_clean
    assert host.node.agent is not None
    host.node.agent.accept(NodeSpec(node_id=NODE, number=NODE_SPEC.number + 1))
    assert not host.report().is_clean
    host.wait(10)
    assert host.report().is_clean

"""The agent on fake engines, in virtual time: it converges, survives, and says why when it cannot."""

import asyncio
import random
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from tests.agent_specs import GUEST, GUEST_SPEC, NODE, NODE_SPEC

from cairn.core.errors import NoCapacity
from cairn.core.ids import NodeId, PortId
from cairn.sim.loop import LoopClock, VirtualLoop
from cairn.sim.node import SimNode
from cairn.wire.report import GuestState, NodeReport
from cairn.wire.spec import NodeSpec, Power


class Host:
    """One simulated host without a control plane; wishes are handed to it directly."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.node = SimNode(
            NodeId(NODE),
            clock=LoopClock(loop),
            dice=random.Random(1),
            dial=lambda node: None,
            network=True,
        )

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def start(self, want: NodeSpec | None = NODE_SPEC) -> None:
        async def begin() -> None:
            self.node.start_agent()
            if want is not None:
                self.accept(want)

        self.do(begin())
        self.wait(5)

    def accept(self, want: NodeSpec) -> None:
        assert self.node.agent is not None
        self.node.agent.accept(want)

    def wait(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    def report(self) -> NodeReport:
        assert self.node.agent is not None
        return self.node.agent.report(1)

    def state(self) -> GuestState:
        return next(g.state for g in self.report().guests if g.id == GUEST)


@pytest.fixture
def host() -> Iterator[Host]:
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    made = Host(loop)
    yield made
    made.do(made.node.close())
    loop.close()
    asyncio.set_event_loop(None)


def guest(number: int = 2, **changes: Any) -> NodeSpec:
    return replace(NODE_SPEC, number=number, guests=(replace(GUEST_SPEC, **changes),))


def test_an_empty_host_becomes_what_is_wished(host: Host) -> None:
    host.start()
    assert host.state() is GuestState.RUNNING
    assert host.node.hypervisor.violations == []


def test_a_host_that_reboots_alone_brings_its_guests_back(host: Host) -> None:
    host.start()
    host.do(host.node.cut_power())
    host.start(want=None)  # No control plane: the ledger is all there is.
    assert host.state() is GuestState.RUNNING
    assert host.node.hypervisor.boots[GUEST] == 2


def test_a_killed_agent_leaves_its_guests_untouched(host: Host) -> None:
    host.start()
    host.do(host.node.kill_agent())
    host.start(want=None)
    assert host.state() is GuestState.RUNNING
    assert host.node.hypervisor.boots[GUEST] == 1


def test_a_stopped_guest_stays_stopped_after_a_reboot(host: Host) -> None:
    host.start()
    host.accept(guest(power=Power.STOPPED))
    host.wait(90)
    assert host.state() is GuestState.STOPPED
    host.do(host.node.cut_power())
    host.start(want=None)
    assert host.state() is GuestState.STOPPED
    assert host.node.hypervisor.boots[GUEST] == 1


def test_a_guest_that_died_with_its_host_and_should_be_off_is_stopped(host: Host) -> None:
    host.start()
    host.do(host.node.cut_power())
    host.start(want=guest(power=Power.STOPPED))
    assert host.state() is GuestState.STOPPED
    assert host.node.hypervisor.boots[GUEST] == 1


def test_a_deaf_guest_is_cut_off_after_its_grace(host: Host) -> None:
    host.start()
    host.node.hypervisor.deaf.add(GUEST)
    host.accept(guest(power=Power.STOPPED, stop_grace_s=30))
    host.wait(29)
    assert host.state() is GuestState.STOPPING
    host.wait(3)
    assert host.state() is GuestState.STOPPED


def test_a_crashed_guest_is_booted_again_and_an_ended_one_is_not(host: Host) -> None:
    host.start()
    host.node.hypervisor.crash(GUEST)
    host.wait(5)
    assert host.state() is GuestState.RUNNING
    host.node.hypervisor.end(GUEST)
    host.wait(5)
    assert host.state() is GuestState.ENDED
    host.accept(guest(boot_number=2))
    host.wait(5)
    assert host.state() is GuestState.RUNNING


def test_failure_is_told_with_its_cause_and_tried_again(host: Host) -> None:
    full = NoCapacity("The pool is full.", because="ENOSPC")
    for _ in range(6):
        host.node.volumes.fail_next("create", full)
    host.start()
    host.wait(0.1)
    trouble = host.report().guests[0].trouble
    assert trouble is not None
    assert "The pool is full." in trouble.message
    assert trouble.because == "ENOSPC"
    host.wait(30)
    assert host.state() is GuestState.RUNNING
    assert host.report().guests[0].trouble is None


def test_older_wishes_are_ignored(host: Host) -> None:
    host.start(want=guest(number=5))
    host.accept(replace(NODE_SPEC, number=4, guests=()))
    host.wait(5)
    assert host.state() is GuestState.RUNNING


def test_unwished_things_go_in_order(host: Host) -> None:
    host.start()
    host.accept(NodeSpec(node_id=NODE, number=2))
    host.wait(10)
    report = host.report()
    assert report.guests == ()
    assert report.volumes == ()
    ports, images = host.do(_leftovers(host))
    assert ports == []
    assert images == []


async def _leftovers(host: Host) -> tuple[list[PortId], list[Any]]:
    view = await host.node.networks.look()
    _, images = await host.node.volumes.look()
    return [p.id for p in view.ports], images


def test_a_guest_that_dies_at_once_is_not_booted_without_pause(host: Host) -> None:
    host.start()
    for _ in range(5):
        host.wait(0.2)
        if host.state() is GuestState.RUNNING:
            host.node.hypervisor.crash(GUEST)
    assert host.node.hypervisor.boots[GUEST] <= 3
    host.wait(5)
    assert host.state() is GuestState.RUNNING

"""One simulated host: engines that survive its agent, a ledger that survives a reboot, the real agent."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from cairn.agent.act import Actor
from cairn.agent.agent import Agent
from cairn.agent.ledger import MemoryLedger
from cairn.agent.link import ControlLink
from cairn.agent.look import Drivers
from cairn.core.clock import Clock
from cairn.core.errors import Unavailable
from cairn.core.ids import NetworkId, NodeId
from cairn.drivers.contracts import MetadataSocket
from cairn.drivers.hypervisor.ether import Ether
from cairn.drivers.hypervisor.fake import FakeHypervisor
from cairn.drivers.networks.fake import Fabric, FakeNetworks
from cairn.drivers.power import PowerKinds
from cairn.drivers.power.fake import FakePower, Rack
from cairn.drivers.volumes.fake import FakeVolumes, SharedPool
from cairn.sim.link import Wire
from cairn.wire.link import Link
from cairn.wire.report import HostFacts
from cairn.wire.spec import ImageSpec

Dial = Callable[["SimNode"], Wire | None]
"""A new connection to the control plane; None while it is down or the host is cut off."""

Connect = Callable[["SimNode"], Awaitable[Link]]
"""The same over real sockets."""


class _Metadata:
    """Nobody asks for metadata in the simulator; which networks are served still counts."""

    def __init__(self) -> None:
        self._served: set[NetworkId] = set()

    @property
    def served(self) -> frozenset[NetworkId]:
        return frozenset(self._served)

    async def serve(self, network_id: NetworkId, socket: MetadataSocket) -> None:
        self._served.add(network_id)

    async def stop(self, network_id: NetworkId) -> None:
        self._served.discard(network_id)


class SimNode:
    def __init__(
        self,
        node_id: NodeId,
        *,
        clock: Clock,
        dice: random.Random,
        dial: Dial | None = None,
        connect: Connect | None = None,
        network: bool,
        fabric: Fabric | None = None,
        latency_s: float = 0.05,
        shared: SharedPool | None = None,
        rack: Rack | None = None,
        ether: Ether | None = None,
    ) -> None:
        self.id = node_id
        self._clock = clock
        self._dice = dice
        self._dial = dial
        self._dial_for_real = connect
        self.roles = ("compute", "network", "storage") if network else ("compute", "storage")
        self.hypervisor = FakeHypervisor(latency_s=latency_s, ether=ether)
        self.volumes = FakeVolumes(
            latency=(lambda verb: 0.0 if verb == "look" else 0.02) if latency_s else None,
            shared=shared,
            node_id=node_id,
        )
        self.switch = rack.add(node_id, self._turn_power) if rack is not None else None
        self.power = PowerKinds({"fake": FakePower(rack, latency_s=1.0)} if rack else {})
        self.hypervisor.on_resize = self.volumes.grow
        self.hypervisor.read_disk = self.volumes.content
        self.hypervisor.fill_disk = self.volumes.fill
        self.networks = FakeNetworks(fabric=fabric, has_network_role=network)
        self.ledger = MemoryLedger()
        self.agent: Agent | None = None
        self.link: ControlLink | None = None
        self.wire: Wire | None = None
        self.is_cut_off = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_running(self) -> bool:
        return bool(self._tasks)

    def start_agent(self) -> None:
        """Start the agent's process."""
        assert not self._tasks
        if self.switch is not None:
            self.switch.is_on = True
        drivers = Drivers(
            hypervisor=self.hypervisor,
            volumes=self.volumes,
            networks=self.networks,
            power=self.power,
        )
        metadata = _Metadata()
        self.agent = Agent(
            node_id=self.id,
            drivers=drivers,
            actor=Actor(drivers, fetch_image=_fetch, metadata_server=metadata),
            served_metadata=lambda: metadata.served,
            ledger=self.ledger,
            clock=self._clock,
            facts=self._facts,
        )
        link = ControlLink(agent=self.agent, connect=self._connect, jitter=self._dice.random)
        self.link = link
        self._tasks = [
            asyncio.create_task(self.agent.run(), name=f"agent {self.id}"),
            asyncio.create_task(link.run(), name=f"link {self.id}"),
        ]

    async def kill_agent(self) -> None:
        """kill -9: nothing is closed or saved on the way out; engines and guests live on."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.agent = None

    async def cut_power(self) -> None:
        """Every process of the host dies; disks and the ledger stay."""
        await self.kill_agent()
        if self.wire is not None:
            self.wire.cut()
        self.hypervisor.power_cut()
        self.networks.power_cut()
        self.ledger.power_cut()

    def cut_off(self) -> None:
        """The cable is pulled: the host lives on, unseen."""
        self.is_cut_off = True
        if self.wire is not None:
            self.wire.is_silent = True

    def join_again(self) -> None:
        self.is_cut_off = False

    async def _turn_power(self, on: bool) -> None:
        """What another host orders this one's controller to do."""
        if not on:
            await self.cut_power()
        elif not self.is_running:
            self.start_agent()

    async def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self.kill_agent()

    async def _connect(self) -> Link:
        if self._dial_for_real is not None:
            return await self._dial_for_real(self)
        assert self._dial is not None
        wire = self._dial(self)
        if wire is None:
            raise Unavailable("The control plane cannot be reached.", because="simulated")
        self.wire = wire
        return wire.agent_end

    def _physical_networks(self) -> tuple[str, ...]:
        """In a measured cloud only some hosts reach the outside, as in any large one."""
        is_measured = self._dial_for_real is not None
        return () if is_measured and "network" not in self.roles else ("external",)

    def _facts(self) -> HostFacts:
        return HostFacts(
            hostname=self.id,
            vcpus=8,
            memory_mib=16384,
            disk_gib=500,
            disk_free_gib=500,
            accelerator="fake",
            address="10.0.0.1",
            physical_networks=self._physical_networks(),
            roles=self.roles,
            has_shared_pool=self.volumes.shared is not None,
            features=("live-migration",),
            southbound="ssl:10.0.0.1:6642" if "network" in self.roles else "",
        )


async def _fetch(spec: ImageSpec) -> Path:
    return Path("/nonexistent")

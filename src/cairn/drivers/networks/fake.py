"""A network without packets: the same promises as OVN's driver, in memory.

One object is one host's engine and outlives the agent, as daemons do: a new agent calls `start` on it
again. `Fabric` stands for what hosts share, the zone's database: with one, a port is up once the zone
has it, as in OVN; without, once it is plugged. No thread, file or task; thousands fit in one process.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from cairn.core.errors import CloudError, NotFound, Unavailable
from cairn.core.ids import NetworkId, PortId
from cairn.drivers.contracts import Changed, NetworksFacts, NetworksView, PortView, Tap
from cairn.drivers.networks.layout import tap_name
from cairn.wire.report import EngineSeen
from cairn.wire.spec import MetadataNetworkSpec, PortSpec, ZoneSpec

FACTS = NetworksFacts(
    datapath="system", underlay_mtu=1500, address="127.0.0.1", physical_networks=("external",)
)
_ENGINES = ("ovs-vswitchd", "ovn-controller")


class Fabric:
    """The logical network that several hosts share."""

    def __init__(self) -> None:
        self.zone = ZoneSpec()
        self._ports: frozenset[PortId] = frozenset()
        self._hosts: list[FakeNetworks] = []

    def join(self, host: "FakeNetworks") -> None:
        self._hosts.append(host)

    def knows(self, port_id: PortId) -> bool:
        return port_id in self._ports

    def write(self, zone: ZoneSpec) -> None:
        self.zone = zone
        before, self._ports = self._ports, frozenset(port.id for port in zone.ports)
        for host in self._hosts:
            host.tell(before ^ self._ports)


class FakeSocket:
    """Nobody can connect to it."""

    def __init__(self) -> None:
        self.is_open = True

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.is_open = False


class FakeNetworks:
    """`latency_s` is how long each verb takes, by the loop's clock or by another `sleep`."""

    def __init__(
        self,
        *,
        fabric: Fabric | None = None,
        has_network_role: bool = True,
        latency_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        facts: NetworksFacts = FACTS,
    ) -> None:
        self.latency_s = latency_s
        self.zone: ZoneSpec | None = None  # the last that was applied here
        self._fabric = fabric
        self._has_network_role = has_network_role
        self._sleep = sleep
        self._facts = facts
        self._changed: Changed | None = None
        self._ports: dict[PortId, PortSpec] = {}
        self._metadata: dict[NetworkId, MetadataNetworkSpec] = {}
        self._southbound: tuple[str, ...] = ()
        self._restarts = dict.fromkeys(_ENGINES, 0)
        self._failures: dict[str, deque[CloudError]] = {}
        if fabric is not None:
            fabric.join(self)

    # --- orders from the test ------------------------------------------------------------------------

    def fail_next(self, verb: str, error: CloudError, *, times: int = 1) -> None:
        """The next `times` calls of the verb ("plug", "apply_zone", ...) raise `error`."""
        self._failures.setdefault(verb, deque()).extend([error] * times)

    def kill(self, engine: str) -> None:
        """One daemon dies and is started again; nothing that was plugged is lost."""
        self._restarts[engine] += 1
        if self._changed is not None:
            self._changed()

    def power_cut(self) -> None:
        """The host dies: taps, namespaces and the agent are gone; databases are not."""
        self._changed = None
        self._ports.clear()
        self._metadata.clear()

    def tell(self, ports: frozenset[PortId]) -> None:
        """The fabric changed for these ports."""
        if self._changed is not None and not ports.isdisjoint(self._ports):
            self._changed()

    # --- the contract --------------------------------------------------------------------------------

    async def start(self, changed: Changed) -> None:
        await self._enter("start", needs_start=False)
        self._changed = changed

    async def close(self) -> None:
        self._changed = None

    def facts(self) -> NetworksFacts:
        return self._facts

    async def look(self) -> NetworksView:
        await self._enter("look")
        return NetworksView(
            ports=tuple(PortView(id=i, up=self._is_up(i)) for i in sorted(self._ports)),
            metadata_networks=tuple(sorted(self._metadata)),
            engines=tuple(
                EngineSeen(name=name, pid=1, up=True, restarts=restarts)
                for name, restarts in self._restarts.items()
            ),
            southbound=self._southbound,
        )

    async def join(self, southbound: tuple[str, ...]) -> None:
        await self._enter("join")
        self._southbound = southbound
        if self._changed is not None:
            self._changed()

    async def apply_zone(self, zone: ZoneSpec) -> None:
        await self._enter("apply_zone")
        if not self._has_network_role:
            raise Unavailable("this host does not hold the zone's network database")
        self.zone = zone
        if self._fabric is not None:
            self._fabric.write(zone)

    async def plug(self, port: PortSpec) -> Tap:
        await self._enter("plug")
        if not (self._has_network_role or self._southbound):
            raise Unavailable("waits for the zone's network database")
        self._ports[port.id] = port
        return Tap(port_id=port.id, name=tap_name(port.id), mac=port.mac, mtu=port.mtu)

    async def unplug(self, port_id: PortId) -> None:
        await self._enter("unplug")
        self._ports.pop(port_id, None)

    async def open_metadata(self, network: MetadataNetworkSpec) -> None:
        await self._enter("open_metadata")
        self._metadata[network.network_id] = network

    def metadata_socket(self, network_id: NetworkId) -> FakeSocket:
        if network_id not in self._metadata:
            raise NotFound("the network's metadata service is not open")
        return FakeSocket()

    async def close_metadata(self, network_id: NetworkId) -> None:
        await self._enter("close_metadata")
        self._metadata.pop(network_id, None)

    def _is_up(self, port_id: PortId) -> bool:
        return self._fabric is None or self._fabric.knows(port_id)

    async def _enter(self, verb: str, *, needs_start: bool = True) -> None:
        if self.latency_s:
            await self._sleep(self.latency_s)
        if failures := self._failures.get(verb):
            raise failures.popleft()
        if needs_start and self._changed is None:
            raise Unavailable("the network engine is not started")

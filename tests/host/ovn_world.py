"""One cloud's worth of network for the OVN tests: two networks, a router, a way outside, five guests.

outside 203.0.113.1 ── external ── router 203.0.113.10 ─┬─ front 10.1.0.0/24, fd00:1::/64   web, peer, open
                                                        └─ back  10.2.0.0/24                far, shut
web has the floating address 203.0.113.21. Group "web" admits ICMP and TCP 7000 to 7002; "inner" admits
TCP 7100 from members of "web"; "quiet" only sends; "shut" has no rule at all.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from cairn.core.ids import (
    NetworkId,
    PortId,
    RouterId,
    SecurityGroupId,
    ServerId,
    SubnetId,
)
from cairn.drivers.contracts import NetworksView, Tap
from cairn.drivers.networks.layout import OvnOptions
from cairn.drivers.networks.ovn import OvnNetworks, tear_down
from cairn.wire.report import EngineSeen
from cairn.wire.spec import (
    FloatingSpec,
    GatewaySpec,
    GroupRuleSpec,
    GroupSpec,
    MetadataNetworkSpec,
    PortSpec,
    ProviderSpec,
    RouterPortSpec,
    RouterSpec,
    SubnetSpec,
    SwitchPortSpec,
    SwitchSpec,
    ZoneSpec,
)
from tests.host import ovn_rig
from tests.host.ovn_rig import NODE, OUTSIDE_IP, Guest, Lab

MTU = 1442
FLOATING_IP = "203.0.113.21"
ROUTER_IP = "203.0.113.10"
ADDRESSES = {
    "web": "10.1.0.11", "peer": "10.1.0.12", "open": "10.1.0.13",
    "far": "10.2.0.11", "shut": "10.2.0.12", "direct": "203.0.113.50",
}  # fmt: skip
WAIT_S = 40


class World:
    """The zone as it should be, the driver that makes it so, and the guests in it."""

    def __init__(self, lab: Lab, options: OvnOptions) -> None:
        self.lab = lab
        self.options = options
        self.engine = OvnNetworks(options)
        self.changed = asyncio.Event()
        self.guests: dict[str, Guest] = {}
        self._seed = (
            uuid.uuid4()
        )  # namespaces are named after network ids, and shared by the machine
        self.front, self.back = (self._network(name) for name in ("front", "back"))
        self.external = self._external()
        self.zone = self._zone()

    def be_part_of(self, other: "World") -> None:
        """This host belongs to the other one's zone, which has one name for each thing."""
        self._seed, self.zone = other._seed, other.zone
        self.front, self.back, self.external = other.front, other.back, other.external

    def id(self, name: str) -> str:
        return str(uuid.uuid5(self._seed, name))

    def mac(self, name: str) -> str:
        return "fa:16:3e:" + ":".join(f"{b:02x}" for b in uuid.uuid5(self._seed, name).bytes[:3])

    def ipv6(self, name: str, network: SwitchSpec | None = None) -> str:
        """The address that a guest makes of its MAC (RFC 4291, appendix A), in `front` or `network`."""
        prefix = (network or self.front).subnets[1].cidr.removesuffix("/64")
        b = [int(part, 16) for part in self.mac(name).split(":")]
        b[0] ^= 2
        return f"{prefix}{b[0]:02x}{b[1]:02x}:{b[2]:02x}ff:fe{b[3]:02x}:{b[4]:02x}{b[5]:02x}"

    async def start(self) -> None:
        await self.engine.start(self.changed.set)
        await self.engine.apply_zone(self.zone)

    async def end(self) -> None:
        """Close first: a driver that lives starts its daemons again."""
        await self.engine.close()
        await tear_down(self.options)

    async def boot(self, *names: str) -> None:
        """Plug the ports and put a guest with a lease behind each (no lease is fine for the test to see)."""
        taps = {name: await self.plug(name) for name in names}
        await self.until_up(*names)
        for name, tap in taps.items():
            self.guests[name] = await asyncio.to_thread(self.lab.guest, tap)

    async def plug(self, name: str) -> Tap:
        switch_port = next(port for port in self.zone.ports if port.id == self.id(name))
        port = PortSpec(
            id=switch_port.id,
            network_id=switch_port.network_id,
            server_id=ServerId(self.id(f"server {name}")),
            mac=switch_port.mac,
            mtu=MTU,
        )
        return await self.engine.plug(port)

    async def until(self, holds: Callable[[NetworksView], bool]) -> NetworksView:
        async with asyncio.timeout(WAIT_S):
            while True:
                self.changed.clear()
                if holds(view := await self.engine.look()):
                    return view
                await self.changed.wait()

    async def until_up(self, *names: str) -> None:
        wanted = {self.id(name) for name in names}
        await self.until(lambda view: wanted <= {p.id for p in view.ports if p.up})

    async def engine_seen(self, name: str) -> EngineSeen:
        return next(e for e in (await self.engine.look()).engines if e.name == name)

    async def change_port(self, name: str, **changes: object) -> None:
        """Apply the zone with one port changed."""
        ports = tuple(
            replace(port, **changes) if port.id == self.id(name) else port
            for port in self.zone.ports
        )
        self.zone = replace(self.zone, ports=ports)
        await self.engine.apply_zone(self.zone)

    async def change_router(self, **changes: object) -> None:
        self.zone = replace(self.zone, routers=(replace(self.zone.routers[0], **changes),))
        await self.engine.apply_zone(self.zone)

    async def change_rules(self, group: str, rules: tuple[GroupRuleSpec, ...]) -> None:
        groups = tuple(
            replace(g, rules=rules) if g.id == self.id(f"group {group}") else g
            for g in self.zone.groups
        )
        self.zone = replace(self.zone, groups=groups)
        await self.engine.apply_zone(self.zone)

    async def becomes(self, what: Callable[[], Awaitable[bool]]) -> bool:
        """Whether it comes true soon: flows follow a written zone by some tens of milliseconds."""
        until = asyncio.get_running_loop().time() + WAIT_S
        while not await what():
            if asyncio.get_running_loop().time() > until:
                return False
        return True

    # --- what guests do, off the event loop, which must stay free to notice deaths -------------------

    async def dhcp(self, name: str) -> dict[str, str]:
        return await asyncio.to_thread(self.guests[name].dhcp)

    async def pings(self, name: str, address: str, *extra: str, within_s: float = 20) -> bool:
        guest = self.guests[name]
        return await asyncio.to_thread(guest.pings, address, *extra, within_s=within_s)

    async def outside_pings(self, address: str, within_s: float = 20) -> bool:
        return await asyncio.to_thread(ovn_rig.pings, self.lab.outside, address, within_s=within_s)

    async def cannot_ping(self, name: str, address: str, *extra: str) -> bool:
        """Once the world is as it should be, not one of three echoes comes back."""
        return await self.becomes(lambda: self._no_echo(name, address, *extra))

    async def _no_echo(self, name: str, address: str, *extra: str) -> bool:
        return not await self.pings(name, address, "-c3", "-i0.2", *extra, within_s=0)

    async def fetches(self, where: str, address: str, port: int, answer: str | None) -> bool:
        """Whether the answer is, soon, the expected one; None: no connection."""

        async def is_so() -> bool:
            return await self.fetch(where, address, port, within_s=1) == answer

        return await self.becomes(is_so)

    async def fetch(self, where: str, address: str, port: int, within_s: float = 10) -> str | None:
        """`where` is a guest's name or "outside"."""
        namespace = self.lab.outside if where == "outside" else self.guests[where].namespace
        return await asyncio.to_thread(ovn_rig.fetch, namespace, address, port, within_s=within_s)

    # --- the zone ------------------------------------------------------------------------------------

    def _network(self, name: str) -> SwitchSpec:
        net = "10.1.0" if name == "front" else "10.2.0"
        subnets = [
            SubnetSpec(
                id=SubnetId(self.id(f"subnet {name}")),
                cidr=f"{net}.0/24",
                ip_version=4,
                gateway_ip=f"{net}.1",
                dns=("9.9.9.9", "1.1.1.1"),
                metadata_ip=f"{net}.2",
            )
        ]
        six = "fd00:1" if name == "front" else "fd00:2"
        subnets.append(
            SubnetSpec(
                id=SubnetId(self.id(f"subnet {six}")),
                cidr=f"{six}::/64",
                ip_version=6,
                gateway_ip=f"{six}::1",
                ipv6_mode="slaac" if name == "front" else "dhcpv6-stateful",
            )
        )
        network_id = NetworkId(self.id(name))
        metadata = MetadataNetworkSpec(
            network_id=network_id,
            port_id=PortId(self.id(f"metadata {name}")),
            mac=self.mac(f"metadata {name}"),
            addresses=(f"{net}.2/24",),
        )
        return SwitchSpec(
            id=network_id, name=name, mtu=MTU, subnets=tuple(subnets), metadata_port=metadata
        )

    def _external(self) -> SwitchSpec:
        subnet = SubnetSpec(
            id=SubnetId(self.id("subnet external")),
            cidr="203.0.113.0/24",
            ip_version=4,
            gateway_ip=OUTSIDE_IP,
        )
        return SwitchSpec(
            id=NetworkId(self.id("external")),
            name="external",
            mtu=1500,
            subnets=(subnet,),
            provider=ProviderSpec(physical_network="external"),
        )

    def _zone(self) -> ZoneSpec:
        return ZoneSpec(
            switches=(self.front, self.back, self.external),
            ports=(
                self._port("web", "web"),
                self._port("peer", "web"),
                self._port("open", "inner"),
                self._port("far", "quiet"),
                self._port("shut", "shut"),
                self._port("direct", "web"),
            ),
            groups=self._groups(),
            routers=(self._router(self.external.id),),
        )

    def _port(self, name: str, group: str) -> SwitchPortSpec:
        by_start = {"10.1": self.front, "10.2": self.back, "203.": self.external}
        network = by_start[ADDRESSES[name][:4]]
        addresses = [(network.subnets[0].id, ADDRESSES[name])]
        if network is not self.external:
            addresses.append((network.subnets[1].id, self.ipv6(name, network)))
        return SwitchPortSpec(
            id=PortId(self.id(name)),
            network_id=network.id,
            mac=self.mac(name),
            addresses=tuple(addresses),
            groups=(SecurityGroupId(self.id(f"group {group}")),),
            hostname=name,
        )

    def _groups(self) -> tuple[GroupSpec, ...]:
        sends = tuple(
            GroupRuleSpec(direction="egress", ethertype=version) for version in ("IPv4", "IPv6")
        )
        web = SecurityGroupId(self.id("group web"))
        rules = {
            "web": (
                *sends,
                GroupRuleSpec(direction="ingress", ethertype="IPv4", protocol="icmp"),
                GroupRuleSpec(direction="ingress", ethertype="IPv6", protocol="icmpv6"),
                GroupRuleSpec(
                    direction="ingress",
                    ethertype="IPv4",
                    protocol="tcp",
                    port_min=7000,
                    port_max=7002,
                    remote_cidr="0.0.0.0/0",
                ),
            ),
            "inner": (
                *sends,
                GroupRuleSpec(
                    direction="ingress",
                    ethertype="IPv4",
                    protocol="tcp",
                    port_min=7100,
                    port_max=7100,
                    remote_group=web,
                ),
            ),
            "quiet": sends,
            "shut": (),
        }
        return tuple(
            GroupSpec(id=SecurityGroupId(self.id(f"group {name}")), rules=group)
            for name, group in rules.items()
        )

    def _router(self, external: NetworkId) -> RouterSpec:
        def leg(network_id: NetworkId, name: str, *addresses: str) -> RouterPortSpec:
            return RouterPortSpec(
                id=PortId(self.id(f"leg {name}")),
                network_id=network_id,
                mac=self.mac(f"leg {name}"),
                addresses=addresses,
            )

        return RouterSpec(
            id=RouterId(self.id("router")),
            name="router",
            ports=(
                leg(self.front.id, "front", "10.1.0.1/24", "fd00:1::1/64"),
                leg(self.back.id, "back", "10.2.0.1/24", "fd00:2::1/64"),
            ),
            gateway=GatewaySpec(
                port=leg(external, "external", f"{ROUTER_IP}/24"),
                next_hop=OUTSIDE_IP,
                hosts=(NODE,),
            ),
            floating=(
                FloatingSpec(
                    floating_ip=FLOATING_IP,
                    fixed_ip=ADDRESSES["web"],
                    port_id=PortId(self.id("web")),
                    mac=self.mac("floating"),
                ),
            ),
        )

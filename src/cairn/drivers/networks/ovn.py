"""The Networks driver on OVN: a host's switch and controller, and the zone's databases with that role.

Here is only the order of things; the parts are: `layout` names and paths · `daemons` the processes ·
`databases` what is written to OVSDB · `northbound` (with `firewall`, `dhcp`) what a zone means to OVN ·
`links` the kernel's links and namespaces.

Two datapaths, the same rows: the kernel's where its module is there, else OVS's own in userspace ("netdev"),
which needs finished checksums from whatever is plugged in and a guard before the host's own stack.
"""

import asyncio
import contextlib
import socket
from pathlib import Path

import msgspec

from cairn.core import log
from cairn.core.errors import CloudError, Invalid, Unavailable
from cairn.core.ids import NetworkId, PortId
from cairn.drivers.contracts import Changed, NetworksFacts, NetworksView, PortView, Tap
from cairn.drivers.networks import daemons, databases, layout, links, northbound
from cairn.drivers.networks.layout import OvnOptions, PhysicalNetwork
from cairn.wire.spec import MetadataNetworkSpec, PortSpec, ZoneSpec

_log = log.get("ovn")

METADATA_ADDRESS = "169.254.169.254"
_GUARD = "cairn_guard"  # our tables in the host's packet filter
_KERNEL_DATAPATH = "ovs-system"
_USERSPACE_TAP = "ovs-netdev"  # of every userspace datapath: OVS gives no other name


class OvnNetworks:
    """See `drivers.contracts.Networks`."""

    def __init__(self, options: OvnOptions) -> None:
        options.check()
        self._options = options
        self._daemons: daemons.Daemons | None = None
        self._switch: databases.LocalSwitch | None = None
        self._zone: databases.ZoneDatabase | None = None
        self._zone_lock = asyncio.Lock()

    async def start(self, changed: Changed) -> None:
        await self.close()  # what an earlier try, which failed, has left open
        if self._options.datapath is None:
            self._options = msgspec.structs.replace(
                self._options, datapath=await probe_datapath(self._options)
            )
        options = self._options
        options.run_dir.mkdir(parents=True, exist_ok=True)
        options.log_dir.mkdir(parents=True, exist_ok=True)
        options.home.chmod(0o700)
        bridges, remade = await self._make_bridges_links()
        self._daemons = daemons.Daemons(options, changed=changed)
        await self._daemons.start()
        self._switch = databases.LocalSwitch(options, changed)
        await self._switch.open()
        await self._switch.leave(*remade)
        await self._switch.configure(bridges, databases.settings(options))
        if options.has_network_role:
            self._zone = databases.ZoneDatabase(options)
            await self._zone.open()
        await self._sweep()

    async def close(self) -> None:
        if self._daemons is not None:
            await self._daemons.close()
        for database in (self._zone, self._switch):
            if database is not None:
                await database.close()
        self._daemons = self._switch = self._zone = None

    def facts(self) -> NetworksFacts:
        return NetworksFacts(
            datapath=self._options.datapath or "",
            underlay_mtu=self._options.underlay_mtu,
            address=self._options.underlay_address,
            physical_networks=tuple(p.name for p in self._options.physical_networks),
        )

    async def look(self) -> NetworksView:
        # A row outlives its link when the host was rebooted: both must be there to count.
        present = links.names()
        plugs = [plug for plug in self._ready_switch().plugs() if plug.link in present]
        assert self._daemons is not None
        return NetworksView(
            ports=tuple(
                PortView(id=plug.port_id, up=plug.up)
                for plug in sorted(plugs, key=lambda plug: plug.link)
                if plug.port_id is not None
            ),
            metadata_networks=tuple(
                sorted(
                    plug.network_id
                    for plug in plugs
                    if plug.network_id is not None
                    and links.namespace_exists(layout.metadata_namespace(plug.network_id))
                )
            ),
            engines=self._daemons.seen(),
        )

    async def apply_zone(self, zone: ZoneSpec) -> None:
        if self._zone is None:
            raise Unavailable("this host does not hold the zone's network database")
        compiled = await asyncio.to_thread(northbound.compile_zone, zone)
        for why in compiled.refused:
            _log.warning("left out of the zone", because=why)
        async with self._zone_lock:
            await self._zone.make_equal(compiled)

    async def plug(self, port: PortSpec) -> Tap:
        switch, name = self._ready_switch(), layout.tap_name(port.id)
        if not links.exists(name):
            await switch.leave(name)  # the row of a tap that is gone would keep the new one out
        await links.make_tap(name, port.mtu, self._options.alias)
        await switch.join(
            name,
            {
                "iface-id": port.id,
                "iface-status": "active",
                "attached-mac": port.mac,
                "vm-uuid": port.server_id,
            },
            port_id=port.id,
        )
        return Tap(
            port_id=port.id,
            name=name,
            mac=port.mac,
            mtu=port.mtu,
            checksum_offload=self._options.datapath == "system",
        )

    async def unplug(self, port_id: PortId) -> None:
        name = layout.tap_name(port_id)
        await self._ready_switch().leave(name)
        await links.remove(name)

    async def open_metadata(self, network: MetadataNetworkSpec) -> None:
        switch = self._ready_switch()
        outer = layout.metadata_link(network.network_id)
        namespace = layout.metadata_namespace(network.network_id)
        if not links.exists(outer):
            await switch.leave(outer)
        addresses = (*network.addresses, f"{METADATA_ADDRESS}/32")
        await links.make_metadata_namespace(
            namespace, outer, network.mac, addresses, self._options.alias
        )
        if self._options.datapath == "netdev":
            await links.finish_metadata_checksums(namespace)
        await switch.join(outer, {"iface-id": network.port_id}, network_id=network.network_id)

    def metadata_socket(self, network_id: NetworkId) -> socket.socket:
        return links.listen_in(layout.metadata_namespace(network_id), METADATA_ADDRESS, 80)

    async def close_metadata(self, network_id: NetworkId) -> None:
        outer = layout.metadata_link(network_id)
        await self._ready_switch().leave(outer)
        await links.remove(outer)
        await links.remove_namespace(layout.metadata_namespace(network_id))

    # --- private -------------------------------------------------------------------------------------

    def _ready_switch(self) -> databases.LocalSwitch:
        if self._switch is None:
            raise Unavailable("the network engine is not started")
        return self._switch

    async def _make_bridges_links(self) -> tuple[dict[str, str], list[str]]:
        """The bridges that should be, each with the link that leads out of it; which links are new."""
        options = self._options
        bridges, remade = {options.integration_bridge: ""}, []
        for physical in options.physical_networks:
            if physical.interface is not None:
                await _check_interface(physical.name, physical.interface)
                bridges[options.bridge_of(physical)] = physical.interface
                continue
            outer = bridges[options.bridge_of(physical)] = layout.outer_link(physical)
            if await self._make_host_pair(physical):
                remade.append(outer)
        if options.datapath == "netdev":
            await links.guard(
                _GUARD, tuple(p.interface for p in options.physical_networks if p.interface)
            )
        return bridges, remade

    async def _make_host_pair(self, physical: PhysicalNetwork) -> bool:
        options, host = self._options, layout.host_link(physical)
        made = await links.make_host_pair(
            layout.outer_link(physical), host, physical, options.underlay_mtu, options.alias
        )
        if options.datapath == "netdev":
            await links.finish_checksums(host)
        return made

    async def _sweep(self) -> None:
        """Clear what a crash or a reboot left half: rows without a link, and links without a row."""
        switch = self._ready_switch()
        plugs = {plug.link: plug for plug in switch.plugs()}
        present = links.names()
        await switch.leave(*(plugs.keys() - present))
        for link in await links.all_links():
            is_ours = link.ifalias == self._options.alias
            if is_ours and link.ifname.startswith(("cvt", "cvm")) and link.ifname not in plugs:
                await links.remove(link.ifname)
        kept = {
            layout.metadata_namespace(plug.network_id)
            for plug in plugs.values()
            if plug.network_id is not None and plug.link in present
        }
        for namespace in await _our_namespaces(self._options):
            if namespace not in kept:
                await links.remove_namespace(namespace)


async def probe_datapath(options: OvnOptions) -> str:
    """ "system" where the kernel has OVS's module (loading it if that is all it takes), else "netdev".

    The kernel's datapath has one name in a namespace: where another OVS holds it, ours is in userspace.
    """
    if links.exists(_KERNEL_DATAPATH) and not options.database("conf").exists():
        return "netdev"
    module = Path("/sys/module/openvswitch")
    if not module.exists():
        with contextlib.suppress(CloudError):
            await links.run("modprobe", "-q", "openvswitch")
    return "system" if module.exists() else "netdev"


async def tear_down(options: OvnOptions) -> None:
    """End every daemon and remove every bridge, link and namespace of this directory; keep the databases.

    For a host whose guests have ended. Needs no running driver, and no daemon that still works."""
    await daemons.stop_all(options)
    for link in await links.all_links():
        if link.ifalias == options.alias:
            await links.remove(link.ifname)
    for namespace in await _our_namespaces(options):
        await links.remove_namespace(namespace)
    # A userspace ovs-vswitchd that was killed leaves its bridges' own taps behind, without an alias.
    bridges = (options.bridge_of(physical) for physical in options.physical_networks)
    for tap in (options.integration_bridge, *bridges, _USERSPACE_TAP):
        await links.remove_unused_tap(tap)
    await links.unguard(_GUARD)


async def _our_namespaces(options: OvnOptions) -> list[str]:
    if not links.NAMESPACES.is_dir():
        return []
    return [
        path.name
        for path in sorted(links.NAMESPACES.glob("cvm-*"))
        if await links.namespace_alias(path.name) == options.alias
    ]


async def _check_interface(physical: str, interface: str) -> None:
    if not links.exists(interface):
        raise Invalid(f"physical network {physical}: there is no interface {interface}")
    if addresses := await links.addresses_of(interface):
        raise Invalid(
            f"physical network {physical}: interface {interface} has the address {addresses[0]};"
            " give one without, or let the host be a neighbour with host_address"
        )

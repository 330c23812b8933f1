"""The Networks driver on OVN: a host's switch and controller, and the zone's databases with that role.

Here is only the order of things; the parts are: `layout` names and paths · `daemons` the processes ·
`databases` what is written to OVSDB · `northbound` (with `firewall`, `dhcp`) what a zone means to OVN ·
`links` the kernel's links and namespaces. Of a zone of several hosts: `southbound` the door of the zone's
database · `underlay` the way of a userspace datapath's tunnels, there only while there are other hosts.

Two datapaths, the same rows: the kernel's where its module is there, else OVS's own in userspace ("netdev"),
which needs finished checksums from whatever is plugged in and a guard before the host's own stack.
"""

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import msgspec

from cairn.core import log
from cairn.core.errors import CloudError, Invalid, Unavailable
from cairn.core.ids import NetworkId, PortId
from cairn.core.tasks import TaskGroup
from cairn.drivers.contracts import Changed, NetworksFacts, NetworksView, PortView, Tap
from cairn.drivers.networks import daemons, databases, layout, links, northbound, underlay
from cairn.drivers.networks import southbound as door
from cairn.drivers.networks.layout import OvnOptions, PhysicalNetwork
from cairn.wire.report import EngineSeen, Trouble
from cairn.wire.spec import MetadataNetworkSpec, PortSpec, ZoneSpec

_log = log.get("ovn")

METADATA_ADDRESS = "169.254.169.254"
_GUARD = "cairn_guard"  # our tables in the host's packet filter
_KERNEL_DATAPATH = "ovs-system"
_USERSPACE_TAP = "ovs-netdev"  # of every userspace datapath: OVS gives no other name
_LOOPBACK_MTU = 1500  # of a host without a network: its own says nothing about others
_UNDERLAY_MTU_MAX = 9216
_UNDERLAY_PAUSE_S = 2.0
_BFD = {"bfd-min-rx": 200, "bfd-min-tx": 200, "bfd-mult": 3}  # milliseconds, lost probes


class OvnNetworks:
    """See `drivers.contracts.Networks`."""

    def __init__(self, options: OvnOptions) -> None:
        options.check()
        self._options = options
        self._daemons: daemons.Daemons | None = None
        self._switch: databases.LocalSwitch | None = None
        self._zone: databases.ZoneDatabase | None = None
        self._zone_lock = asyncio.Lock()
        self._changed: Changed | None = None
        self._southbound: tuple[str, ...] = ()  # joined
        self._underlay_news = asyncio.Event()
        self._underlay_trouble: Trouble | None = None
        # Whatever is there at a start may be half of what a crash interrupted.
        self._is_underlay_up = False
        self._tasks = TaskGroup()

    async def start(self, changed: Changed) -> None:
        await self.close()  # what an earlier try, which failed, has left open
        if self._options.datapath is None:
            self._options = msgspec.structs.replace(
                self._options, datapath=await probe_datapath(self._options)
            )
        if self._options.underlay_mtu is None:
            mtu = await _underlay_mtu(self._options)
            self._options = msgspec.structs.replace(self._options, underlay_mtu=mtu)
        options = self._options
        self._changed = changed
        options.run_dir.mkdir(parents=True, exist_ok=True)
        options.log_dir.mkdir(parents=True, exist_ok=True)
        options.home.chmod(0o700)
        bridges, remade = await self._make_bridges_links()
        self._daemons = daemons.Daemons(options, changed=changed, restarted=self._notice_restart)
        await self._daemons.start()
        self._switch = databases.LocalSwitch(options, self._notice)
        await self._switch.open()
        await self._switch.leave(*remade)
        await self._switch.configure(bridges, databases.settings(options))
        if options.tls is not None:
            await self._switch.identify(options.tls)
        if options.has_network_role:
            self._zone = databases.ZoneDatabase(options)
            await self._zone.open()
            await _watch_gateways(options)
            if options.tls is not None:
                await door.open_door(options)
        await self._follow_again()
        await self._sweep()
        if options.datapath == "netdev":
            self._underlay_news.set()
            self._tasks.start(self._keep_underlay(), name="keep underlay")

    async def close(self) -> None:
        await self._tasks.close()
        self._tasks = TaskGroup()
        if self._daemons is not None:
            await self._daemons.close()
        for database in (self._zone, self._switch):
            if database is not None:
                await database.close()
        self._daemons = self._switch = self._zone = None

    def facts(self) -> NetworksFacts:
        return NetworksFacts(
            datapath=self._options.datapath or "",
            underlay_mtu=self._options.underlay_mtu or _LOOPBACK_MTU,
            address=self._options.underlay_address,
            physical_networks=tuple(p.name for p in self._options.physical_networks),
            southbound=door.address(self._options),
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
                    and links.namespace_exists(self._metadata_namespace(plug.network_id))
                )
            ),
            engines=(*self._daemons.seen(), *self._underlay_seen()),
            southbound=self._southbound,
        )

    async def join(self, southbound: tuple[str, ...]) -> None:
        switch = self._ready_switch()
        assert self._daemons is not None
        if southbound:
            await switch.follow(",".join(southbound))
            await door.until_followed(self._options, self._daemons.control_socket("ovn-controller"))
        else:
            await switch.follow(self._own_southbound)
        self._southbound = southbound

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
        if not switch.remote:
            raise Unavailable("waits for the zone's network database")
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
        namespace = self._metadata_namespace(network.network_id)
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
        return links.listen_in(self._metadata_namespace(network_id), METADATA_ADDRESS, 80)

    async def close_metadata(self, network_id: NetworkId) -> None:
        outer = layout.metadata_link(network_id)
        await self._ready_switch().leave(outer)
        await links.remove(outer)
        await links.remove_namespace(self._metadata_namespace(network_id))

    # --- private -------------------------------------------------------------------------------------

    def _ready_switch(self) -> databases.LocalSwitch:
        if self._switch is None:
            raise Unavailable("the network engine is not started")
        return self._switch

    def _metadata_namespace(self, network_id: NetworkId) -> str:
        return layout.metadata_namespace(network_id, self._options.home)

    @property
    def _own_southbound(self) -> str:
        return self._options.socket("sb.sock") if self._options.has_network_role else ""

    async def _follow_again(self) -> None:
        """Go on with the database that was joined before, else with our own. Nobody need answer yet."""
        switch = self._ready_switch()
        if switch.remote.startswith("ssl:"):
            self._southbound = tuple(switch.remote.split(","))
        else:
            self._southbound = ()
            await switch.follow(self._own_southbound)

    def _notice(self) -> None:
        self._underlay_news.set()
        if self._changed is not None:
            self._changed()

    def _notice_restart(self, engine: str) -> None:
        if engine == "ovs-vswitchd":
            self._is_underlay_up = False  # it forgets its routes
            self._underlay_news.set()

    async def _keep_underlay(self) -> None:
        """Have the tunnels' way out while there are other hosts, and again after ovs-vswitchd died."""
        while True:
            await self._underlay_news.wait()
            self._underlay_news.clear()
            try:
                await self._fit_underlay()
            except CloudError as error:
                since = self._underlay_trouble.since if self._underlay_trouble else time.time()
                self._underlay_trouble = Trouble(
                    message=error.message, because=error.because or "", since=since
                )
                _log.warning("no way to other hosts", because=str(error))
                await asyncio.sleep(_UNDERLAY_PAUSE_S)
                self._underlay_news.set()

    async def _fit_underlay(self) -> None:
        switch, options = self._ready_switch(), self._options
        if switch.has_tunnels:
            if not (self._is_underlay_up and await underlay.is_up(options)):
                await underlay.raise_up(options, switch)
                self._is_underlay_up = True
                _log.info("way to other hosts is open", address=options.underlay_address)
        elif underlay.is_there():
            await underlay.take_down(options, switch)
            _log.info("way to other hosts is closed: there are none")
        self._underlay_trouble = None

    def _underlay_seen(self) -> tuple[EngineSeen, ...]:
        if self._underlay_trouble is None:
            return ()
        return (EngineSeen(name="underlay", pid=0, up=False, trouble=self._underlay_trouble),)

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
            layout.outer_link(physical),
            host,
            physical,
            options.underlay_mtu or _LOOPBACK_MTU,
            options.alias,
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
            self._metadata_namespace(plug.network_id)
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


async def _watch_gateways(options: OvnOptions) -> None:
    """How soon another host takes over a router's gateway: BFD probes between those that could.

    By OVN's default it takes 2.6 s, by this 0.8 s; five probes a second between each two are cheap.
    """
    await links.run(
        options.program("ovn-nbctl"), f"--db={options.socket('nb.sock')}", "--timeout=5",
        "set", "nb_global", ".",
        *(f"options:{name}={value}" for name, value in _BFD.items()),
    )  # fmt: skip


async def _underlay_mtu(options: OvnOptions) -> int:
    """How large a packet between hosts may be."""
    found = await links.interface_of(options.underlay_address, but=options.underlay_bridge)
    if found is None or found[0] == "lo":
        return _LOOPBACK_MTU
    return min(found[1], _UNDERLAY_MTU_MAX)


async def tear_down(options: OvnOptions) -> None:
    """End every daemon and remove every bridge, link and namespace of this directory; keep the databases.

    For a host whose guests have ended. Needs no running driver, and no daemon that still works."""
    await daemons.stop_all(options)
    await underlay.unhook()
    for link in await links.all_links():
        if link.ifalias == options.alias:
            await links.remove(link.ifname)
    for namespace in await _our_namespaces(options):
        await links.remove_namespace(namespace)
    # A userspace ovs-vswitchd that was killed leaves its bridges' own taps behind, without an alias.
    bridges = (options.bridge_of(physical) for physical in options.physical_networks)
    ours = (options.integration_bridge, options.underlay_bridge)
    for tap in (*ours, *bridges, _USERSPACE_TAP):
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

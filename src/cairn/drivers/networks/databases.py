"""The two OVSDB databases that the driver writes, each over one long-lived connection.

ovsdbapp's connection keeps a copy in memory in a thread of its own, connects again by itself, and runs our
transactions one after the other. Only that thread touches the copy: what the event loop wants to know
(`look` must not wait for a database that is being started again) is kept in plain values beside it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from ovs.db import idl as ovs_idl
from ovsdbapp import exceptions
from ovsdbapp.backend.ovs_idl import connection, transaction, vlog

from cairn.core import log
from cairn.core.errors import Unavailable
from cairn.core.ids import NetworkId, PortId
from cairn.drivers.networks.layout import OvnOptions, TlsFiles
from cairn.drivers.networks.northbound import Compiled, Ref, Row, Value

_log = log.get("ovn")

# The library reports each lost connection; engines that are started again are reported by us.
vlog.use_python_logger(max_level=vlog.WARN)
logging.getLogger("ovsdbapp").setLevel(logging.ERROR)

Columns = dict[str, tuple[str, ...]]
_LET_GO_S = 3.0
_RECONNECT_MS = (50, 1000)  # shortest and longest pause before connecting again


class _Copy(connection.OvsdbIdl):
    """The copy in memory; tells `noticed` of every row that changed, in the connection's thread."""

    def __init__(self, remote: str, schema: Any, noticed: Callable[[str, str, Any], None]) -> None:
        self._noticed = noticed
        super().__init__(remote, schema)  # type: ignore[no-untyped-call]
        self._session.reconnect.set_backoff(*_RECONNECT_MS)

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        self._noticed(event, row._table.name, row)


class _Work:
    """One function as ovsdbapp's command: it gets the tables and may change their rows.

    The result is the new value of the column that it incremented, if it did.
    """

    def __init__(self, copy: _Copy, function: Callable[[Any, Any], None]) -> None:
        self._copy = copy
        self._function = function
        self.result: int | None = None

    def run_idl(self, txn: Any) -> None:
        self._function(self._copy.tables, txn)

    def post_commit(self, txn: Any) -> None:
        if txn._inc_row is not None:
            self.result = txn.get_increment_new_value()


class _Database:
    """A connection to one database."""

    def __init__(
        self,
        remote: str,
        schema_path: str,
        columns: Columns,
        noticed: Callable[[str, str, Any], None],
        timeout_s: float,
    ) -> None:
        helper = ovs_idl.SchemaHelper(location=schema_path)
        for table, names in columns.items():
            helper.register_columns(table, list(names))
        self.idl = _Copy(remote, helper, noticed)
        self.ovsdb_connection = connection.Connection(self.idl, timeout_s)

    async def open(self) -> None:
        """Connect and read everything. Unavailable when the server does not answer in time."""
        try:
            await asyncio.to_thread(self.ovsdb_connection.start)
        except Exception as error:  # the library raises plain exceptions here
            raise Unavailable(
                "the network database does not answer", because=repr(error)
            ) from error

    async def close(self) -> None:
        await asyncio.to_thread(self.ovsdb_connection.stop, 5)

    async def write(self, function: Callable[[Any, Any], None]) -> int | None:
        """Run `function` in a transaction, again where others were first. Repeatable functions only."""
        txn = transaction.Transaction(
            self, self.ovsdb_connection, check_error=True, log_errors=False
        )
        work = _Work(self.idl, function)
        txn.add(work)
        try:
            await asyncio.to_thread(txn.commit)
        except (exceptions.OvsdbAppException, RuntimeError) as error:
            raise Unavailable("the network database did not accept", because=str(error)) from error
        return work.result


# --- this host's switch ------------------------------------------------------------------------------

_PORT_KEY = "cairn-port"  # external_ids of an Interface: the guest's port that it plugs
_NETWORK_KEY = "cairn-network"  # or the network whose metadata it serves

_LOCAL_COLUMNS: Columns = {
    "Open_vSwitch": ("bridges", "external_ids", "next_cfg", "cur_cfg", "ssl"),
    "Bridge": ("name", "ports", "datapath_type", "fail_mode", "other_config", "external_ids"),
    "Port": ("name", "interfaces", "external_ids"),
    "Interface": ("name", "type", "external_ids", "ofport", "error", "mtu_request"),
    "SSL": ("private_key", "certificate", "ca_cert"),
}
_TUNNEL_KEY = (
    "ovn-chassis-id"  # external_ids of a Port of OVN's own: the other host that one leads to
)
_REMOTE = "ovn-remote"


class Plug(Struct, frozen=True, kw_only=True):
    """A link that is a port of the integration bridge for one of our purposes."""

    link: str
    port_id: PortId | None = None
    network_id: NetworkId | None = None
    up: bool = False  # OVN's controller has installed its flows, and OVS has the device


class LocalSwitch:
    """The Open_vSwitch database of this host: bridges, and which links are their ports."""

    def __init__(self, options: OvnOptions, changed: Callable[[], None]) -> None:
        self._options = options
        self._changed = changed
        self._plugs: dict[str, Plug] = {}
        self._tunnels: set[str] = set()
        self._remote = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._applied = 0  # the number of the configuration that ovs-vswitchd has taken in
        self._news = asyncio.Event()
        self._database = _Database(
            options.socket("db.sock"),
            str(options.schema("openvswitch/vswitch")),
            _LOCAL_COLUMNS,
            self._noticed,
            timeout_s=5,
        )

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    def plugs(self) -> list[Plug]:
        """What is plugged, as last heard. From memory."""
        return list(self._plugs.values())

    @property
    def has_tunnels(self) -> bool:
        """Whether OVN knows other hosts. From memory."""
        return bool(self._tunnels)

    @property
    def remote(self) -> str:
        """Which southbound database OVN's controller follows; "" for none. From memory."""
        return self._remote

    async def follow(self, remote: str) -> None:
        """Let OVN's controller follow the southbound database there; "" for none."""

        def work(tables: Any, txn: Any) -> None:
            root = _root(tables, txn)
            if remote:
                root.setkey("external_ids", _REMOTE, remote)
            elif _REMOTE in root.external_ids:
                root.delkey("external_ids", _REMOTE)

        await self._database.write(work)

    async def identify(self, tls: TlsFiles) -> None:
        """By which certificate OVN's controller makes itself known; files may be replaced at any time."""
        wanted = {
            "private_key": str(tls.key),
            "certificate": str(tls.certificate),
            "ca_cert": str(tls.authority),
        }

        def work(tables: Any, txn: Any) -> None:
            root = _root(tables, txn)
            row = root.ssl[0] if root.ssl else txn.insert(tables["SSL"])
            for column, value in wanted.items():
                if getattr(row, column, None) != value:
                    setattr(row, column, value)
            if not root.ssl:
                root.ssl = [row]

        await self._database.write(work)

    async def make_underlay(self, bridge: str, link: str, *, mac: str, mtu: int) -> None:
        """The bridge by which tunnels of a userspace datapath leave, with the link as its port."""

        def work(tables: Any, txn: Any) -> None:
            row = _bridge(tables, txn, _root(tables, txn), bridge, self._options.datapath or "")
            if row.other_config.get("hwaddr") != mac:
                row.setkey("other_config", "hwaddr", mac)
            _join(tables, txn, row, link, {})
            own = _named(tables["Interface"], bridge)
            if own is not None and getattr(own, "mtu_request", None) != [mtu]:
                own.mtu_request = [mtu]

        await self._database.write(work)

    async def remove_bridge(self, name: str) -> None:
        def work(tables: Any, txn: Any) -> None:
            bridge = _named(tables["Bridge"], name)
            if bridge is not None:
                _root(tables, txn).delvalue("bridges", bridge)
                bridge.delete()

        await self._database.write(work)

    async def configure(self, bridges: dict[str, str], settings: dict[str, str]) -> None:
        """Make the bridges (name → link that is its port, "" for none) and OVN's settings as given."""

        def work(tables: Any, txn: Any) -> None:
            root = _root(tables, txn)
            for key, value in settings.items():
                if root.external_ids.get(key) != value:
                    root.setkey("external_ids", key, value)
            for name, link in bridges.items():
                bridge = _bridge(tables, txn, root, name, self._options.datapath or "")
                if link:
                    _join(tables, txn, bridge, link, {})

        await self._database.write(work)

    async def join(
        self,
        link: str,
        external_ids: dict[str, str],
        *,
        port_id: PortId | None = None,
        network_id: NetworkId | None = None,
    ) -> None:
        """Make the link a port of the integration bridge."""
        mark = {_PORT_KEY: port_id} if port_id else {_NETWORK_KEY: network_id or ""}

        def work(tables: Any, txn: Any) -> None:
            root = _root(tables, txn)
            name = self._options.integration_bridge
            bridge = _bridge(tables, txn, root, name, self._options.datapath or "")
            _join(tables, txn, bridge, link, {**external_ids, **mark})

        await self._database.write(work)

    async def leave(self, *links: str) -> None:
        """Take the links out of whatever bridge they are in; returns when ovs-vswitchd has let go.

        A link that is made anew under an old name is taken up only after that.
        """

        def work(tables: Any, txn: Any) -> None:
            found = [
                (bridge, port)
                for bridge in tables["Bridge"].rows.values()
                for port in bridge.ports
                if port.name in links
            ]
            for bridge, port in found:
                bridge.delvalue("ports", port)
            if found:
                _root(tables, txn).increment("next_cfg")

        number = await self._database.write(work)
        if number is not None:
            await self._until_applied(number)

    async def _until_applied(self, number: int) -> None:
        # One that does not run has let go too; it reads everything afresh when it is back.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LET_GO_S):
                while self._applied < number:
                    self._news.clear()
                    await self._news.wait()

    def _noticed(self, event: str, table: str, row: Any) -> None:
        """In the connection's thread."""
        if table == "Open_vSwitch":
            self._applied = row.cur_cfg
            self._remote = row.external_ids.get(_REMOTE, "")
            self._tell(self._news.set)
        if table == "Port":
            is_there = event != "delete" and _TUNNEL_KEY in row.external_ids
            self._notice_tunnel(row.name, is_there=is_there)
        if table != "Interface":
            return
        ids = row.external_ids
        if event == "delete" or not (_PORT_KEY in ids or _NETWORK_KEY in ids):
            was = self._plugs.pop(row.name, None)
            plug = None
        else:
            was = self._plugs.get(row.name)
            plug = Plug(
                link=row.name,
                port_id=PortId(ids[_PORT_KEY]) if _PORT_KEY in ids else None,
                network_id=NetworkId(ids[_NETWORK_KEY]) if _NETWORK_KEY in ids else None,
                up=ids.get("ovn-installed") == "true" and row.ofport[:1] > [0],
            )
            self._plugs[row.name] = plug
        if plug != was:
            self._tell(self._changed)

    def _notice_tunnel(self, name: str, *, is_there: bool) -> None:
        had = bool(self._tunnels)
        if is_there:
            self._tunnels.add(name)
        else:
            self._tunnels.discard(name)
        if had != bool(self._tunnels):
            self._tell(self._changed)

    def _tell(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            assert self._loop is not None
            self._loop.call_soon_threadsafe(call)


def _root(tables: Any, txn: Any) -> Any:
    for row in tables["Open_vSwitch"].rows.values():
        return row
    root = txn.insert(tables["Open_vSwitch"])
    root.external_ids = {}
    return root


def _named(table: Any, name: str) -> Any:
    return next((row for row in table.rows.values() if row.name == name), None)


def _bridge(tables: Any, txn: Any, root: Any, name: str, datapath: str) -> Any:
    bridge = _named(tables["Bridge"], name)
    if bridge is not None:
        if bridge.datapath_type != datapath:
            bridge.datapath_type = datapath
        return bridge
    bridge = txn.insert(tables["Bridge"])
    bridge.name = name
    bridge.datapath_type = datapath
    # Without a controller a bridge that OVN owns must drop, not flood.
    bridge.fail_mode = "secure" if name.endswith("-int") else "standalone"
    bridge.other_config = {"disable-in-band": "true"}
    root.addvalue("bridges", bridge)
    _join(tables, txn, bridge, name, {}, type_="internal")
    return bridge


def _join(
    tables: Any, txn: Any, bridge: Any, link: str, ids: dict[str, str], type_: str = ""
) -> None:
    interface = _named(tables["Interface"], link)
    if interface is not None:
        for key, value in ids.items():
            if interface.external_ids.get(key) != value:
                interface.setkey("external_ids", key, value)
        return
    interface = txn.insert(tables["Interface"])
    interface.name = link
    interface.type = type_
    interface.external_ids = ids
    port = txn.insert(tables["Port"])
    port.name = link
    port.interfaces = [interface]
    bridge.addvalue("ports", port)


# --- the zone's logical network ----------------------------------------------------------------------

_OURS = "cairn"  # external_ids of every northbound row of ours: its key

_ZONE_COLUMNS: Columns = {
    "Logical_Switch": ("name", "ports", "other_config"),
    "Logical_Switch_Port": (
        "name", "type", "addresses", "port_security", "options", "tag", "enabled",
        "dhcpv4_options", "dhcpv6_options",
    ),
    "Logical_Router": ("name", "enabled", "ports", "static_routes", "nat", "options"),
    "Logical_Router_Port": ("name", "mac", "networks", "gateway_chassis", "ipv6_ra_configs"),
    "Logical_Router_Static_Route": ("ip_prefix", "nexthop", "output_port"),
    "NAT": ("type", "external_ip", "logical_ip", "external_mac", "logical_port"),
    "ACL": ("direction", "priority", "match", "action"),
    "Port_Group": ("name", "ports", "acls"),
    "DHCP_Options": ("cidr", "options"),
    "Gateway_Chassis": ("name", "chassis_name", "priority"),
}  # fmt: skip

_MEMBERS = {"ports", "acls", "static_routes", "nat", "gateway_chassis"}  # sets of other rows


class ZoneDatabase:
    """OVN's northbound database: made equal to a compiled zone by writing only the difference."""

    def __init__(self, options: OvnOptions) -> None:
        self._written: dict[Ref, Row] | None = None  # None: compare with every row of the database
        columns = {table: (*names, "external_ids") for table, names in _ZONE_COLUMNS.items()}
        self._database = _Database(
            options.socket("nb.sock"),
            str(options.schema("ovn/ovn-nb")),
            columns,
            self._noticed,
            timeout_s=30,
        )
        self._writing = False

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def make_equal(self, zone: Compiled) -> None:
        """One transaction. Rows of ours that the zone does not have go; others' rows stay."""
        written, self._written = self._written, None
        if written == zone.rows:
            self._written = written
            return
        self._writing = True
        try:
            await self._database.write(lambda tables, txn: _make_equal(tables, txn, zone, written))
        finally:
            self._writing = False
        self._written = zone.rows

    def _noticed(self, event: str, table: str, row: Any) -> None:
        # Somebody else wrote, or the connection is new: what we remember of our writing may be wrong.
        # Updates that come of our own writing arrive before the transaction ends.
        if not self._writing:
            self._written = None


def _make_equal(tables: Any, txn: Any, zone: Compiled, written: dict[Ref, Row] | None) -> None:
    found = {
        Ref(name, row.external_ids[_OURS]): row
        for name in _ZONE_COLUMNS
        for row in tables[name].rows.values()
        if _OURS in row.external_ids
    }
    new = {ref: txn.insert(tables[ref.table]) for ref in zone.rows if ref not in found}
    rows = {**found, **new}
    for ref, want in zone.rows.items():
        if ref in new:
            _fill(rows[ref], want, rows)
        elif written is None or written.get(ref) != want:
            _amend(rows[ref], want, rows)
    for ref in found.keys() - zone.rows.keys():
        found[ref].delete()


def _fill(row: Any, want: Row, rows: dict[Ref, Any]) -> None:
    row.external_ids = {_OURS: want.key}
    for column, value in want.columns.items():
        setattr(row, column, _native(value, rows))


def _amend(row: Any, want: Row, rows: dict[Ref, Any]) -> None:
    for column, value in want.columns.items():
        should, has = _native(value, rows), getattr(row, column)
        if column in _MEMBERS:
            # One by one, so that one port more among ten thousand is a change of one.
            for member in set(should) - set(has):
                row.addvalue(column, member)
            for member in set(has) - set(should):
                row.delvalue(column, member)
        elif (set(should) != set(has)) if isinstance(should, list) else should != has:
            setattr(row, column, should)


def _native(value: Value | tuple[int, ...] | tuple[bool, ...], rows: dict[Ref, Any]) -> Any:
    if isinstance(value, tuple):
        return [rows[member] if isinstance(member, Ref) else member for member in value]
    return value


def settings(options: OvnOptions) -> dict[str, str]:
    """What ovn-controller reads in the Open_vSwitch row's external_ids (ovn-controller(8))."""
    datapath = {"ovn-bridge-datapath-type": "netdev"} if options.datapath == "netdev" else {}
    mappings = ",".join(
        f"{physical.name}:{options.bridge_of(physical)}" for physical in options.physical_networks
    )
    return {
        "system-id": options.node_id,
        "hostname": options.node_id,
        "ovn-bridge": options.integration_bridge,
        "ovn-bridge-mappings": mappings,
        "ovn-encap-type": "geneve",
        "ovn-encap-ip": options.underlay_address,
        "ovn-monitor-all": "true",
        "ovn-remote-probe-interval": "60000",
        "ovn-openflow-probe-interval": "60",
        **datapath,
    }

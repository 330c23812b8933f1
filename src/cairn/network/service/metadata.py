"""The metadata port: one a network, the same on every host, with an address in each subnet with DHCP.

Guests learn by DHCP that 169.254.169.254 lies behind this address. IPv4 only: guests that have IPv6 alone
read their config drive.
"""

from cairn.core.errors import Conflict
from cairn.core.ids import PortId
from cairn.db.engine import Tx
from cairn.network import addresses
from cairn.network.records import DISTRIBUTED, Address, Network
from cairn.network.service import allocation
from cairn.network.store import networks as network_store
from cairn.network.store import ports as store
from cairn.network.store import resources, tables


def keep(tx: Tx, network: Network) -> None:
    """Make, change or remove the port so that it fits the network's subnets. Repeatable."""
    served = [
        s for s in network_store.subnets_of(tx, [network.id]) if s.has_dhcp and s.ip_version == 4
    ]
    found = store.metadata_ports(tx, [network.id])
    port = found[0] if found else None
    if not served:
        if port is not None:
            store.set_addresses(tx, port.id, ())
            resources.remove(tx, tables.ports, port.id)
        return
    held = {a.subnet_id: a for a in port.addresses} if port else {}
    wanted: list[Address] = []
    for subnet in served:
        if subnet.id in held:
            wanted.append(held[subnet.id])
            continue
        try:
            wanted.append(allocation.allocate(tx, network, subnet, lowest=True))
        except Conflict:
            continue  # A full subnet does without: its addresses are worth more to its ports.
    if port is None:
        port_id = _add(tx, network)
    elif list(held.values()) == wanted:
        return
    else:
        port_id = port.id
        resources.change(tx, tables.ports, port.id, {})
    store.set_addresses(tx, port_id, wanted)


def _add(tx: Tx, network: Network) -> PortId:
    port_id = PortId(tx.new_id())
    mac = addresses.new_mac(tx.random_bytes(3))
    while store.is_mac_taken(tx, network.id, mac):
        mac = addresses.new_mac(tx.random_bytes(3))
    resources.add(
        tx,
        tables.ports,
        id=port_id,
        project_id=network.project_id,
        network_id=network.id,
        mac=mac,
        device_id=f"ovnmeta-{network.id}",
        device_owner=DISTRIBUTED,
        has_security=False,
        profile={},
        pairs=(),
        dhcp_options=(),
    )
    return port_id

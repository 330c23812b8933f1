"""The metadata port: one a network, the same on every host, with an address in each subnet with DHCP.

Guests learn by DHCP that 169.254.169.254 lies behind this address. IPv4 only: guests that have IPv6 alone
read their config drive.
"""

from cairn.core.errors import Conflict
from cairn.db.engine import Tx
from cairn.network.records import DISTRIBUTED, Address, Network
from cairn.network.service import allocation, ports
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
        ports.add_port(
            tx,
            network,
            project_id=network.project_id,
            held=wanted,
            device_id=f"ovnmeta-{network.id}",
            device_owner=DISTRIBUTED,
        )
    elif list(held.values()) != wanted:
        resources.change(tx, tables.ports, port.id, {})
        store.set_addresses(tx, port.id, wanted)

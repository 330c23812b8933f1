"""Which addresses a port gets. The table's key (subnet, ip) keeps them unique, whoever comes at once.

Addresses are picked at random from the pools: two requests at once seldom want the same, and one that
was just given back is not used again at once, when neighbours still remember its last owner.
"""

from collections.abc import Sequence

from cairn.core.errors import Conflict, Invalid
from cairn.db.engine import Tx
from cairn.network import addresses
from cairn.network.records import Address, Network, Subnet
from cairn.network.store import ports as store
from cairn.network.wishes import FixedIpWish

CANDIDATES = 16  # asked for in one query; only a subnet nearly full needs to be read whole


def addresses_for(
    tx: Tx,
    network: Network,
    subnets: Sequence[Subnet],
    mac: str,
    wanted: Sequence[FixedIpWish] | None,
    *,
    keep: Sequence[Address] = (),
) -> tuple[Address, ...]:
    """Addresses for a port: as wanted, or one of each IP version. `keep`: those that it has already.

    Raises Invalid (not of this network), Conflict (taken, or none left)."""
    if wanted is None:
        return _usual(tx, network, subnets, mac)
    result: list[Address] = []
    for wish in wanted:
        address = _one(tx, network, subnets, mac, wish, keep)
        if address in result:
            raise Invalid(f"InvalidInput: Duplicate IP address '{address.ip}' in fixed_ips.")
        result.append(address)
    chosen = {a.subnet_id for a in result}
    versions = {s.ip_version for s in subnets if s.id in chosen}
    if 6 not in versions and result:
        # A router announces itself to every port: whoever listens has these addresses anyway.
        result += [_automatic(s, mac) for s in subnets if s.is_automatic and s.id not in chosen]
    return tuple(result)


def allocate(tx: Tx, network: Network, subnet: Subnet, *, lowest: bool = False) -> Address:
    """A free address of the subnet's pools. Raises Conflict when there is none."""
    total = addresses.size(subnet.pools)
    if total and not lowest:
        start = int.from_bytes(tx.random_bytes(16)) % total
        candidates = [
            addresses.nth(subnet.pools, (start + i) % total) for i in range(min(CANDIDATES, total))
        ]
        taken = store.taken(tx, subnet.id, candidates)
        if free := next((c for c in candidates if c not in taken), None):
            return Address(subnet_id=subnet.id, ip=free)
    taken = store.taken(tx, subnet.id)
    # At most as many tries as addresses are taken, and one.
    for index in range(min(total, len(taken) + 1)):
        if (candidate := addresses.nth(subnet.pools, index)) not in taken:
            return Address(subnet_id=subnet.id, ip=candidate)
    raise Conflict(
        f"IpAddressGenerationFailure: No more IP addresses available on network {network.id}."
    )


def _usual(tx: Tx, network: Network, subnets: Sequence[Subnet], mac: str) -> tuple[Address, ...]:
    """One IPv4 address, one IPv6 address by DHCP, and every autoconfigured one."""
    result: list[Address] = []
    for version in (4, 6):
        plain = [s for s in subnets if s.ip_version == version and not s.is_automatic]
        if plain:
            result.append(_any_of(tx, network, plain))
    return (*result, *(_automatic(s, mac) for s in subnets if s.is_automatic))


def _any_of(tx: Tx, network: Network, subnets: Sequence[Subnet]) -> Address:
    """From the first subnet that has room."""
    for subnet in subnets[:-1]:
        try:
            return allocate(tx, network, subnet)
        except Conflict:
            continue
    return allocate(tx, network, subnets[-1])


def _automatic(subnet: Subnet, mac: str) -> Address:
    network = addresses.cidr(subnet.cidr, "cidr")
    return Address(subnet_id=subnet.id, ip=addresses.autoconfigured(network, mac))


def _one(
    tx: Tx,
    network: Network,
    subnets: Sequence[Subnet],
    mac: str,
    wish: FixedIpWish,
    keep: Sequence[Address],
) -> Address:
    if wish.subnet_id is None and wish.ip is None:
        raise Invalid("InvalidInput: Each of fixed_ips needs 'subnet_id' or 'ip_address'.")
    subnet = _subnet_of(network, subnets, wish)
    if wish.ip is None:
        if subnet.is_automatic:
            return _automatic(subnet, mac)
        held = next((a for a in keep if a.subnet_id == subnet.id), None)
        return held or allocate(tx, network, subnet)
    ip = str(addresses.ip(wish.ip, "ip_address"))
    if subnet.is_automatic and ip != _automatic(subnet, mac).ip and ip != subnet.gateway_ip:
        raise Invalid(
            f"AllocationOnAutoAddressSubnet: IPv6 address {ip} cannot be directly assigned to a port "
            f"on subnet {subnet.id} as the subnet is configured for automatic addresses."
        )
    address = Address(subnet_id=subnet.id, ip=ip)
    if address not in keep and store.taken(tx, subnet.id, [ip]):
        raise Conflict(
            f"IpAddressAlreadyAllocated: IP address {ip} already allocated in subnet {subnet.id}"
        )
    return address


def _subnet_of(network: Network, subnets: Sequence[Subnet], wish: FixedIpWish) -> Subnet:
    """The subnet that a wish names, or in which its address lies. Raises Invalid."""
    ip = addresses.ip(wish.ip, "ip_address") if wish.ip is not None else None
    for subnet in subnets:
        if wish.subnet_id is not None and subnet.id != wish.subnet_id:
            continue
        block = addresses.cidr(subnet.cidr, "cidr")
        if ip is None:
            return subnet
        if ip.version == block.version and ip in block:
            first, last = addresses.usable(block)
            if first <= int(ip) <= last:
                return subnet
        if wish.subnet_id is not None:
            raise Invalid(
                f"InvalidIpForSubnet: IP address {ip} is not a valid IP for the specified subnet."
            )
    if wish.subnet_id is not None:
        raise Invalid(
            f"InvalidInput: Invalid input for operation: Failed to create port on network {network.id}, "
            f"because fixed_ips included invalid subnet {wish.subnet_id[:64]}."
        )
    raise Invalid(
        f"InvalidIpForNetwork: IP address {ip} is not a valid IP for any of the subnets on the "
        "specified network."
    )

"""Networks: where they lie, how large their packets may be, who may see them."""

from msgspec import UNSET

from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Invalid
from cairn.core.ids import NetworkId, NodeId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import DEFAULT_ZONE, Node
from cairn.network.records import (
    DISTRIBUTED,
    OVERLAY_BYTES,
    UNDERLAY_MTU_DEFAULT,
    Network,
    NetworkKind,
    Search,
)
from cairn.network.service import groups
from cairn.network.service.access import admit, owner_of, require_owner
from cairn.network.store import networks as store
from cairn.network.store import ports as port_store
from cairn.network.store import resources, tables
from cairn.network.store import routers as router_store
from cairn.network.wishes import NetworkWish, said

VNI_MAX = 2**24 - 1
VLAN_MAX = 4094
IDS_NAMED_MAX = 5  # in a refusal


def find_networks(tx: Tx, who: Caller, search: Search) -> list[Network]:
    return store.find_networks(tx, who.reach, search)


def get_network(tx: Tx, who: Caller, network_id: str) -> Network:
    """Raises NotFound."""
    return store.network(tx, who.reach, network_id)


def create_network(tx: Tx, who: Caller, wish: NetworkWish) -> Network:
    """Make a network, with a segment of its own. Raises Invalid, Conflict, OverQuota."""
    project_id = owner_of(who, wish.project_id)
    admit(tx, "network", project_id)
    zone = _zone(tx, wish)
    nodes = fleet.candidates(tx, zone)
    kind, physical = _place(wish, nodes)
    groups.ensure_default(tx, project_id)
    network_id = NetworkId(tx.new_id())
    segment = _take_segment(tx, zone, kind, physical, said(wish.segmentation_id, None), network_id)
    resources.add(
        tx,
        tables.networks,
        id=network_id,
        project_id=project_id,
        name=said(wish.name, ""),
        description=said(wish.description, ""),
        zone=zone,
        kind=kind,
        physical_network=physical,
        segmentation_id=segment,
        mtu=_mtu(wish, kind, nodes),
        is_enabled=said(wish.is_enabled, True),
        is_external=said(wish.is_external, False),
        is_shared=said(wish.is_shared, False),
        is_default=said(wish.is_default, False),
        has_port_security=said(wish.has_port_security, True),
    )
    fleet.touch_zone(tx, zone)
    return store.network(tx, None, network_id)


def update_network(tx: Tx, who: Caller, network_id: str, wish: NetworkWish) -> Network:
    """Raises NotFound, Denied, Conflict, Invalid."""
    network = store.network(tx, who.reach, network_id)
    require_owner(who, network, "network")
    if wish.is_shared is False and network.is_shared:
        _require_unshared(tx, network)
    if wish.is_external is False and network.is_external:
        _require_no_gateways(tx, network)
    values = {
        name: value
        for name in ("name", "description", "is_enabled", "is_shared", "is_external", "is_default",
                     "has_port_security")
        if (value := getattr(wish, name)) is not UNSET
    }  # fmt: skip
    if wish.mtu is not UNSET:
        nodes = fleet.candidates(tx, network.zone)
        values["mtu"] = _mtu(wish, network.kind, nodes)
    resources.change(tx, tables.networks, network.id, values)
    touch_network(tx, network, hosts="mtu" in values)
    return store.network(tx, None, network.id)


def delete_network(tx: Tx, who: Caller, network_id: str) -> None:
    """Remove the network with its subnets and the floating IPs of it that map to nothing.

    Raises Conflict while anybody has a port in it."""
    network = store.network(tx, who.reach, network_id)
    require_owner(who, network, "network")
    ports = port_store.ports_of_network(tx, network.id)
    unmapped = router_store.unmapped_floating_ips(tx, network.id)
    going = {f.own_port_id for f in unmapped}
    if others := [p.id for p in ports if p.device_owner != DISTRIBUTED and p.id not in going]:
        named = ", ".join(others[:IDS_NAMED_MAX])
        more = ", ..." if len(others) > IDS_NAMED_MAX else ""
        raise Conflict(
            f"NetworkInUse: Unable to complete operation on network {network.id}. There are one or "
            f"more ports still in use on the network, id for these ports: {named}{more}."
        )
    for floating in unmapped:
        resources.remove(tx, tables.floating_ips, floating.id)
    for port in ports:
        port_store.set_addresses(tx, port.id, ())
        resources.remove(tx, tables.ports, port.id)
    for subnet_id in network.subnet_ids:
        resources.remove(tx, tables.subnets, subnet_id)
    store.free_segments(tx, network.id)
    resources.remove(tx, tables.networks, network.id)
    fleet.touch_zone(tx, network.zone)


def touch_network(tx: Tx, network: Network, *, hosts: bool) -> None:
    """The network's logical form changed; with `hosts`, also what its guests are told."""
    fleet.touch_zone(tx, network.zone)
    if hosts:
        for node_id in store.nodes_on_network(tx, network.id):
            fleet.touch(tx, NodeId(node_id))


def underlay_mtu(nodes: list[Node]) -> int:
    """What every host of the zone can carry."""
    return min((n.facts.underlay_mtu for n in nodes if n.facts), default=UNDERLAY_MTU_DEFAULT)


def _zone(tx: Tx, wish: NetworkWish) -> str:
    hints = said(wish.zone_hints, ())
    if not hints:
        return DEFAULT_ZONE
    known = fleet.zones(tx) | {DEFAULT_ZONE}
    for hint in hints:
        if hint not in known:
            raise Invalid(f"AvailabilityZoneNotFound: AvailabilityZone {hint} could not be found.")
    return hints[0]


def _place(wish: NetworkWish, nodes: list[Node]) -> tuple[NetworkKind, str | None]:
    """Kind and physical network, checked against each other and against what hosts have."""
    physical = said(wish.physical_network, None)
    asked = said(wish.kind, None)
    if asked is None:
        if physical is not None or said(wish.segmentation_id, None) is not None:
            raise Invalid(
                "InvalidInput: provider:network_type is required with other provider attributes."
            )
        return NetworkKind.GENEVE, None
    if asked not in list(NetworkKind):
        raise Invalid(
            f"InvalidInput: network_type value '{asked[:40]}' is not supported; choose one of "
            f"{', '.join(NetworkKind)}."
        )
    kind = NetworkKind(asked)
    if kind is NetworkKind.GENEVE:
        if physical is not None:
            raise Invalid(
                "InvalidInput: provider:physical_network is not possible on a geneve network."
            )
        return kind, None
    if not physical:
        raise Invalid(f"InvalidInput: provider:physical_network is required on a {kind} network.")
    known = {p for n in nodes if n.facts for p in n.facts.physical_networks}
    if physical not in known and any(n.facts for n in nodes):
        raise Invalid(
            f"InvalidInput: Unknown provider:physical_network '{physical}': the hosts have "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    if kind is NetworkKind.FLAT and said(wish.segmentation_id, None) is not None:
        raise Invalid("InvalidInput: provider:segmentation_id is not possible on a flat network.")
    return kind, physical


def _take_segment(
    tx: Tx,
    zone: str,
    kind: NetworkKind,
    physical: str | None,
    wanted: int | None,
    network_id: NetworkId,
) -> int | None:
    where = physical or ""
    if kind is NetworkKind.FLAT:
        if store.taken_segments(tx, zone, where, [0]):
            raise Conflict(
                f"FlatNetworkInUse: The physical network {physical} is in use as a flat network."
            )
        store.take_segment(tx, zone, where, 0, network_id)
        return None
    maximum = VNI_MAX if kind is NetworkKind.GENEVE else VLAN_MAX
    if wanted is None:
        segment = _free_segment(tx, zone, where, maximum)
    elif not 1 <= wanted <= maximum:
        raise Invalid(f"InvalidInput: provider:segmentation_id must be between 1 and {maximum}.")
    elif store.taken_segments(tx, zone, where, [wanted]):
        raise Conflict(
            f"TunnelIdInUse: The {kind} segment {wanted} {f'of {physical} ' if physical else ''}is "
            "in use by another network."
        )
    else:
        segment = wanted
    store.take_segment(tx, zone, where, segment, network_id)
    return segment


def _free_segment(tx: Tx, zone: str, physical: str, maximum: int) -> int:
    """A random one: two requests at once seldom want the same."""
    start = int.from_bytes(tx.random_bytes(4)) % maximum
    for offset in range(0, maximum, 256):
        candidates = [(start + offset + i) % maximum + 1 for i in range(min(256, maximum))]
        taken = store.taken_segments(tx, zone, physical, candidates)
        if free := next((c for c in candidates if c not in taken), None):
            return free
        if offset > VLAN_MAX:
            break
    raise Conflict("NoNetworkAvailable: Unable to create the network. No segment is left.")


def _mtu(wish: NetworkWish, kind: NetworkKind, nodes: list[Node]) -> int:
    possible = underlay_mtu(nodes) - (OVERLAY_BYTES if kind is NetworkKind.GENEVE else 0)
    if wish.mtu is UNSET:
        return possible
    asked = said(wish.mtu, possible)
    if asked > possible:
        raise Invalid(
            f"InvalidInput: Invalid input for operation: Requested MTU is too big, maximum is {possible}."
        )
    return asked


def _require_unshared(tx: Tx, network: Network) -> None:
    ports = port_store.ports_of_network(tx, network.id)
    if any(p.project_id not in ("", network.project_id) for p in ports):
        raise Conflict(
            f"InvalidSharedSetting: Unable to reconfigure sharing settings for network {network.id}. "
            "Multiple tenants are using it."
        )


def _require_no_gateways(tx: Tx, network: Network) -> None:
    ports = port_store.ports_of_network(tx, network.id)
    if any(p.is_ours and p.device_owner != DISTRIBUTED for p in ports):
        raise Conflict(
            f"ExternalNetworkInUse: External network {network.id} cannot be updated to be made "
            "non-external, since it has existing gateway ports."
        )

"""What may be done to hosts, and how the slices say that a host's work changed."""

from collections.abc import Iterable, Sequence

import msgspec

from cairn.core.errors import NotFound
from cairn.core.ids import ImageId, NodeId
from cairn.db.engine import Tx
from cairn.fleet import glance, loss, southbound, store
from cairn.fleet.glance import Glance
from cairn.fleet.records import NODE_LIFE, Arrival, Coming, Node, NodeState
from cairn.fleet.touching import topic, touch
from cairn.wire.report import HostFacts, NodeReport

__all__ = ["Glance", "topic", "touch"]

HOSTS_TOPIC = "fleet.hosts"  # which hosts there are, or what they can take, changed
GENERATION_SHIFT = 32  # a report's number is its generation and a count: later agents always win


def touch_zone(tx: Tx, zone: str) -> None:
    """The zone's logical network changed: touch whoever writes it. No such host yet is no error."""
    for node_id in store.network_nodes(tx, zone):
        touch(tx, node_id)


def node(tx: Tx, node_id: NodeId) -> Node:
    """Raises NotFound."""
    return store.node(tx, node_id)


def nodes(tx: Tx) -> list[Node]:
    return store.all_nodes(tx)


def glances(tx: Tx, node_ids: Iterable[NodeId]) -> dict[NodeId, Glance]:
    """What lists show of these hosts."""
    return glance.glance(tx, node_ids)


def named(tx: Tx, hostname: str) -> list[NodeId]:
    return glance.named(tx, hostname)


def zones(tx: Tx) -> set[str]:
    """Every zone that has a host."""
    return glance.zones(tx)


def counts(tx: Tx) -> dict[NodeState, int]:
    """How many hosts are in each state."""
    return glance.counts(tx)


def candidates(tx: Tx, zone: str | None = None) -> list[Node]:
    """Every host (of a zone) by id, without what no placer asks about (engines, images, health, power)."""
    return store.candidates(tx, zone)


def enrol(
    tx: Tx,
    node_id: NodeId,
    *,
    hostname: str,
    zone: str,
    roles: tuple[str, ...],
    origin: str = "",
) -> None:
    """Make a host a member, or bring its name, zone and roles up to date. Repeatable.

    Zone and roles that an operator set since stay. `origin`: "first host", "token NAME"."""
    try:
        known = store.node(tx, node_id)
    except NotFound:
        store.add_node(tx, node_id, hostname=hostname, zone=zone, roles=roles, origin=origin)
        return
    zone = known.zone if "zone" in known.set_by_hand else zone
    roles = known.roles if "roles" in known.set_by_hand else roles
    store.change_node(tx, node_id, hostname=hostname, zone=zone, roles=roles)


def take_in(tx: Tx, coming: Sequence[Coming]) -> dict[NodeId, Arrival]:
    """These hosts' agents have come (back): a new generation for each. Who is not enrolled is left out."""
    found: dict[NodeId, Arrival] = {}
    taken: list[tuple[Coming, int]] = []
    for one in coming:
        seen = store.presence(tx, one.node_id)
        if seen is None:
            continue
        if seen.state is not NodeState.UP:
            _come_back(tx, one.node_id)
        generation = seen.generation + 1
        taken.append((one, generation))
        found[one.node_id] = Arrival(
            report_base=generation << GENERATION_SHIFT,
            spec_number=seen.spec_number,
            report_digest=seen.report_digest,
            now_s=tx.now.timestamp(),
        )
    store.take_in(tx, taken)
    return found


def connected(tx: Tx, node_id: NodeId) -> int:
    """`take_in` of one host: the base for the numbers of its reports. Raises NotFound."""
    found = take_in(tx, [Coming(node_id=node_id)])
    if node_id not in found:
        raise NotFound(f"Host {node_id} is not enrolled here.")
    return found[node_id].report_base


def _come_back(tx: Tx, node_id: NodeId) -> None:
    """A host that was not up is heard again."""
    seen = store.node(tx, node_id)
    loss.returned(tx, seen)
    store.move(tx, seen, "connected")
    if seen.state not in (NodeState.JOINING, NodeState.SUSPECT):
        southbound.moved(tx, seen)
    wake_placers(tx)


def wake_placers(tx: Tx) -> None:
    """There may be room that was not there before."""
    tx.wake(HOSTS_TOPIC)
    tx.wake("compute.placer")
    tx.wake("volume.placer")


def silent(tx: Tx, node_id: NodeId, *, heard_by: str | None = None, was_heard: bool = True) -> None:
    """The host's lease ran out. Nothing is started elsewhere on this alone.

    `heard_by`: the control process that says so; what another one holds by now is not silent.
    `was_heard`: whether it ever was, since that process watches over it."""
    seen = store.find_node(tx, node_id)
    if seen is None or (heard_by is not None and seen.control_id not in (None, heard_by)):
        return
    if NODE_LIFE.allows(seen.state, "silent"):
        store.move(tx, seen, "silent")
        tx.wake(HOSTS_TOPIC)
        tx.wake(loss.LOSS)
        if not was_heard:
            loss.hold_host(tx, node_id, loss.UNHEARD)


def take_report(tx: Tx, report: NodeReport) -> bool:
    """Write what the host said of itself; False (and nothing else may be believed) if it is old news."""
    known = store.facts_of(tx, report.node_id)
    is_news = store.record_report(tx, report)
    if is_news and not _is_same_room(known, report.facts):
        wake_placers(tx)
    if is_news and (report.machines or report.doors or report.facts.has_shared_pool):
        loss.take_report(tx, report)
    if is_news and report.facts.southbound != (known.southbound if known else ""):
        southbound.moved(tx, store.node(tx, report.node_id))
    return is_news


def _is_same_room(known: HostFacts | None, said: HostFacts) -> bool:
    """Whether nothing changed that decides about what is placed on a host."""
    return known is not None and known == msgspec.structs.replace(
        said, disk_free_gib=known.disk_free_gib
    )


def spec_numbers(tx: Tx) -> dict[NodeId, int]:
    """The number of each host's spec: what is compared when hints may have been lost."""
    return store.spec_numbers(tx)


def living(tx: Tx) -> list[NodeId]:
    """The hosts that are up, as far as the database knows."""
    return store.ids_in_state(tx, NodeState.UP)


def want_images(tx: Tx, node_id: NodeId, wanted: tuple[ImageId, ...]) -> None:
    """The host fetches these images if it does not hold them; it keeps them as any that it holds."""
    known = store.node(tx, node_id)
    missing = {*known.wanted_images, *wanted} - set(known.images)
    if missing != set(known.wanted_images):
        store.want_images(tx, node_id, tuple(sorted(missing)))
        touch(tx, node_id)


def set_enabled(tx: Tx, node_id: NodeId, *, enabled: bool, reason: str | None = None) -> None:
    """Whether new guests may be placed on the host. Raises NotFound."""
    store.node(tx, node_id)
    store.set_enabled(tx, node_id, enabled=enabled, reason=reason)
    wake_placers(tx)


def set_draining(tx: Tx, node_id: NodeId, *, is_draining: bool) -> None:
    """Whether the host is to be emptied; nothing new is placed there meanwhile. Raises NotFound."""
    store.node(tx, node_id)
    store.set_draining(tx, node_id, is_draining=is_draining)
    wake_placers(tx)


def is_up(node: Node) -> bool:
    return node.state is NodeState.UP

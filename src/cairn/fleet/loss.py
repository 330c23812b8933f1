"""Hosts that are gone: how long they are waited for, how it is made sure that they do nothing any more.

Silence proves nothing: the host may run its guests and write to their disks. So before anything of it is
started elsewhere it is fenced: its power is cut, or it is shut out of the shared pool, by another host
that is asked to (a wish in that host's spec) and says that it is so; or a person says that it is off.

And it may be us. Hosts that have not been heard since the control plane started, and hosts of a zone of
which many fell silent together, are held: nothing is done about them until a person says so.
"""

from datetime import timedelta

from msgspec import structs

from cairn.core.errors import Conflict
from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.fleet import loss_store as store
from cairn.fleet import southbound
from cairn.fleet import store as node_store
from cairn.fleet.records import Door, Hold, Loss, Node, NodeState
from cairn.fleet.touching import touch
from cairn.wire.report import NodeReport
from cairn.wire.spec import DoorSpec, MachineSpec

LOSS = "fleet.loss"
RECOVERY = "compute.recovery"
TOGETHER_S = 15.0  # hosts that fall silent within so long fell silent together: a lease
TOGETHER_MIN = 3
TOGETHER_SHARE = 0.2  # of a zone's hosts
UNHEARD = "it has not been heard of since the control plane started"


# --- what happens to hosts ---------------------------------------------------------------------------


def begin(tx: Tx) -> None:
    """This control plane starts: hosts that were suspect may be so because it was away."""
    for node in store.nodes_in(tx, NodeState.SUSPECT):
        hold_host(tx, node.id, UNHEARD)


def hold_host(tx: Tx, node_id: NodeId, reason: str) -> None:
    """Do nothing about the host until a person says so."""
    known = store.loss(tx, node_id) or Loss(node_id=node_id)
    if not known.may_recover:
        store.write(tx, structs.replace(known, hold=known.hold or reason))


def hold_zones(tx: Tx) -> None:
    """Hold each zone of which a large share turned suspect together."""
    holds = store.all_holds(tx)
    by_zone: dict[str, list[Node]] = {}
    for node in store.nodes_in(tx, NodeState.SUSPECT):
        by_zone.setdefault(node.zone, []).append(node)
    for zone, suspects in by_zone.items():
        known = holds.get(zone)
        if known is not None and known.released_at is None:
            continue
        together = _most_together(suspects, since=known)
        if together < TOGETHER_MIN:
            continue
        total = store.count_of_zone(tx, zone)
        if together >= TOGETHER_SHARE * total:
            reason = f"{together} of its {total} hosts fell silent within {TOGETHER_S:.0f} s"
            store.add_hold(tx, zone, reason)


def give_up(tx: Tx, node_id: NodeId, *, lost_after_s: float) -> bool:
    """A host that was suspect for so long is lost, unless its zone is held."""
    node = node_store.node(tx, node_id)
    is_due = node.state_since + timedelta(seconds=lost_after_s) <= tx.now
    if node.state is not NodeState.SUSPECT or not is_due:
        return False
    known = store.loss(tx, node_id) or Loss(node_id=node_id)
    if is_held(store.hold(tx, node.zone)) and not known.may_recover:
        return False
    _lose(tx, node)
    return True


def fence(tx: Tx, node_id: NodeId) -> None:
    """Ask whoever can to fence a lost host, and somebody else when those asked are gone themselves."""
    node = node_store.node(tx, node_id)
    if node.state is not NodeState.LOST:
        return
    known = store.loss(tx, node_id) or Loss(node_id=node_id)
    if why_held(known, store.hold(tx, node.zone)):
        return
    living = store.living_of_zone(tx, node.zone)
    wanted = _door_asked(tx, node, _power_asked(tx, node, known, living), living)
    trouble = wanted.trouble
    if wanted.power_by is None and wanted.door_by is None:
        trouble = _why_unfenceable(node)
    elif known.power_by is None and known.door_by is None:
        trouble = ""
    if (wanted := structs.replace(wanted, trouble=trouble)) != known:
        store.write(tx, wanted)


def open_door(tx: Tx, node_id: NodeId) -> None:
    """Ask somebody to let a host that is back into the shared pool again."""
    known = store.loss(tx, node_id)
    if known is None or known.door is not Door.OPENING:
        return
    node = node_store.node(tx, node_id)
    living = store.living_of_zone(tx, node.zone)
    if known.door_by is not None and any(n.id == known.door_by for n in living):
        return
    by = _keeper(living, node)
    if by is not None:
        number = store.raise_power_number(tx, node_id)
        store.write(tx, structs.replace(known, door_by=by, door_number=number))
        _ask(tx, by)


def take_report(tx: Tx, report: NodeReport) -> None:
    """What a host says of others it was asked to fence, and whether it is clean itself."""
    for machine in report.machines:
        known = _asked(tx, machine.node_id, report.node_id, power_number=machine.number)
        if known is None:
            continue
        trouble = machine.trouble.message if machine.trouble else ""
        _note_trouble(tx, known, trouble)
        if not machine.is_on:
            _is_fenced(tx, machine.node_id, f"power, through host {report.facts.hostname}")
    for door in report.doors:
        known = _asked(tx, door.node_id, report.node_id, door_number=door.number)
        if known is None:
            continue
        trouble = door.trouble.message if door.trouble else ""
        _note_trouble(tx, known, trouble)
        if known.door is Door.SHUT and not door.is_open:
            _is_fenced(tx, door.node_id, f"storage, through host {report.facts.hostname}")
        elif known.door is Door.OPENING and door.is_open:
            store.remove(tx, door.node_id)
            touch(tx, report.node_id)
    if report.is_clean and report.facts.has_shared_pool:
        _let_in_again(tx, report)


def returned(tx: Tx, node: Node) -> None:
    """A host that was not up is heard again: nothing is done about it any more.

    One that was fenced takes no new guests until a person has looked at it. One that was shut out of the
    shared pool stays so until it has rid itself of what was started elsewhere."""
    known = store.loss(tx, node.id)
    if node.state in (NodeState.FENCED, NodeState.RECOVERED):
        reason = (
            f"was fenced at {node.state_since:%Y-%m-%d %H:%M:%S} UTC; "
            f"`cairn host set {node.hostname} --enable` when it is well"
        )
        store.change_node(tx, node.id, enabled=False, disabled_reason=reason)
    if not node.power_on:
        store.change_node(tx, node.id, power_on=True)
    if known is None:
        return
    _tell_asked(tx, known)
    if known.door is Door.OPEN:
        store.remove(tx, node.id)
    else:
        shut = Loss(
            node_id=node.id,
            door=Door.SHUT,
            door_number=known.door_number,
            door_by=known.door_by,
        )
        store.write(tx, shut)


def recovered(tx: Tx, node_id: NodeId) -> None:
    """Nothing that may start elsewhere is left on it."""
    node = node_store.node(tx, node_id)
    if node.state is NodeState.FENCED:
        node_store.move(tx, node, "recovered")


# --- what a person says ------------------------------------------------------------------------------


def fence_now(tx: Tx, node_id: NodeId) -> None:
    """Do not wait any longer: the host is lost, and to be fenced by whoever can. Raises Conflict."""
    node = _require_gone(tx, node_id, "fenced")
    if node.power is None and not (node.facts and node.facts.has_shared_pool):
        raise Conflict(
            f"Host {node.hostname} cannot be fenced: {_why_unfenceable(node)}. "
            f"`cairn host fence {node.hostname} --by-hand` after you made sure that it is off."
        )
    _release(tx, node_id)
    if node.state is NodeState.SUSPECT:
        _lose(tx, node)
    fence(tx, node_id)
    tx.wake(LOSS)


def fence_by_hand(tx: Tx, node_id: NodeId) -> None:
    """A person made sure that the host is off, and stays off or apart until it is repaired.

    Raises Conflict while it is heard of: it is not off."""
    node = _require_gone(tx, node_id, "fenced")
    _release(tx, node_id)
    if node.state not in (NodeState.FENCED, NodeState.RECOVERED):
        _fence(tx, node, "a person's word")


def recover(tx: Tx, node_id: NodeId) -> None:
    """It is them: do about this host what is done about lost hosts, whatever is held. Raises Conflict."""
    _require_gone(tx, node_id, "recovered")
    _release(tx, node_id)
    tx.wake(LOSS)
    tx.wake(RECOVERY)


def recover_zone(tx: Tx, zone: str) -> int:
    """It is them: let the zone, and each of its hosts that was held, be recovered. How many were held."""
    gone = [n for n in store.gone_nodes(tx) if n.zone == zone]
    count = store.release_losses(tx, [n.id for n in gone]) if gone else 0
    count += store.release_hold(tx, zone, tx.now)
    tx.wake(LOSS)
    tx.wake(RECOVERY)
    return count


# --- what others ask ---------------------------------------------------------------------------------


def wishes_for(tx: Tx, node: Node) -> tuple[tuple[MachineSpec, ...], tuple[DoorSpec, ...]]:
    """What a host is asked to do about others. Only of one that `is_fencer`: the rest need not ask."""
    machines, doors = [], []
    for asked in store.asked_of(tx, node.id):
        gone = node_store.find_node(tx, asked.node_id)
        if gone is None:
            continue
        is_lost = gone.state is NodeState.LOST
        if asked.power_by == node.id and is_lost and gone.power is not None:
            machines.append(
                MachineSpec(
                    node_id=gone.id,
                    driver=gone.power.driver,
                    address=gone.power.address,
                    user=gone.power.user,
                    password=gone.power.password,
                    on=False,
                    number=asked.power_number,
                )
            )
        is_due = asked.door is Door.OPENING or (asked.door is Door.SHUT and is_lost)
        if asked.door_by == node.id and is_due:
            is_open = asked.door is Door.OPENING
            doors.append(DoorSpec(node_id=gone.id, is_open=is_open, number=asked.door_number))
    return tuple(machines), tuple(doors)


def fenced_nodes(tx: Tx) -> list[Node]:
    """Hosts that are fenced and may be recovered, the longest so first."""
    fenced = store.nodes_in(tx, NodeState.FENCED)
    if not fenced:
        return []
    losses, holds = store.all_losses(tx), store.all_holds(tx)
    return [
        n for n in fenced if not why_held(losses.get(n.id, Loss(node_id=n.id)), holds.get(n.zone))
    ]


def may_recover(tx: Tx, node: Node) -> bool:
    """Whether what is on the host may be started elsewhere now: asked within that very transaction."""
    if node.state is not NodeState.FENCED:
        return False
    known = store.loss(tx, node.id) or Loss(node_id=node.id)
    return not why_held(known, store.hold(tx, node.zone))


def explain(tx: Tx, node: Node) -> str:
    """What is being done about a host, what is waited for and what a person can do; "" if it is well."""
    known = store.loss(tx, node.id) or Loss(node_id=node.id)
    return words(node, known, store.hold(tx, node.zone))


def explain_all(tx: Tx) -> tuple[dict[NodeId, str], dict[str, str]]:
    """The same of every host that is not well, and why zones are held."""
    losses, holds = store.all_losses(tx), store.all_holds(tx)
    nodes = {n.id: n for n in store.gone_nodes(tx)}
    for node_id in losses.keys() - nodes.keys():
        if (found := node_store.find_node(tx, node_id)) is not None:
            nodes[node_id] = found
    said = {
        n.id: words(n, losses.get(n.id, Loss(node_id=n.id)), holds.get(n.zone))
        for n in nodes.values()
    }
    held = {zone: hold.reason for zone, hold in sorted(holds.items()) if is_held(hold)}
    return {i: text for i, text in sorted(said.items()) if text}, held


def words(node: Node, known: Loss, hold: Hold | None) -> str:
    """Pure."""
    held, name = why_held(known, hold), node.hostname
    release = f"`cairn host recover {name}` if it is the host and not us"
    match node.state:
        case NodeState.SUSPECT if held:
            return f"suspect; nothing is done about it: {held}; {release}"
        case NodeState.SUSPECT:
            return "suspect; it is waited for"
        case NodeState.LOST if held:
            return f"lost; it is not fenced: {held}; {release}"
        case NodeState.LOST if known.power_by is None and known.door_by is None:
            why = known.trouble or _why_unfenceable(node)
            by_hand = f"`cairn host fence {name} --by-hand` after you made sure it is off"
            return f"lost; cannot be fenced: {why}; {by_hand}"
        case NodeState.LOST:
            asked = " and ".join(_asked_words(known))
            return f"lost; being fenced by {asked}" + (
                f": {known.trouble}" if known.trouble else ""
            )
        case NodeState.FENCED if held:
            return f"fenced by {known.fenced_by}; not recovered: {held}; {release}"
        case NodeState.FENCED:
            return f"fenced by {known.fenced_by}; its servers are being started elsewhere"
        case NodeState.RECOVERED:
            return f"fenced by {known.fenced_by}; what may start elsewhere has been"
        case _ if known.door is Door.SHUT:
            return "back; shut out of the shared pool until its old guests are removed"
        case _ if known.door is Door.OPENING:
            return "back; being let into the shared pool again"
        case _:
            return ""


def why_held(known: Loss, hold: Hold | None) -> str:
    """Why nothing may be done about a host; "" when it may."""
    if known.may_recover:
        return ""
    if known.hold:
        return known.hold
    if hold is not None and is_held(hold):
        return f"zone {hold.zone} is held, since {hold.reason}"
    return ""


def is_held(hold: Hold | None) -> bool:
    return hold is not None and hold.released_at is None


# --- how -----------------------------------------------------------------------------------------------


def _most_together(suspects: list[Node], *, since: Hold | None) -> int:
    """The most hosts that fell silent within TOGETHER_S, of those that a person has not judged yet."""
    judged = since.released_at if since is not None else None
    times = sorted(n.state_since for n in suspects if judged is None or n.state_since > judged)
    most, first = 0, 0
    for last, at in enumerate(times):
        while at - times[first] > timedelta(seconds=TOGETHER_S):
            first += 1
        most = max(most, last - first + 1)
    return most


def _lose(tx: Tx, node: Node) -> None:
    node_store.move(tx, node, "given up")
    southbound.moved(tx, node)
    store.change_node(tx, node.id, report_digest=None)  # When it returns, it must tell what it has.
    tx.wake(LOSS)


def _power_asked(tx: Tx, node: Node, known: Loss, living: list[Node]) -> Loss:
    if node.power is None or any(n.id == known.power_by for n in living):
        return known
    by = _switcher(living, node)
    if by is None:
        return structs.replace(known, power_by=None)
    number = store.raise_power_number(tx, node.id)
    store.change_node(tx, node.id, power_on=False)
    _ask(tx, by)
    return structs.replace(known, power_by=by, power_number=number, trouble="")


def _door_asked(tx: Tx, node: Node, known: Loss, living: list[Node]) -> Loss:
    has_shared_pool = node.facts is not None and node.facts.has_shared_pool
    is_asked = known.door is Door.SHUT and any(n.id == known.door_by for n in living)
    if not has_shared_pool or is_asked:
        return known
    by = _keeper(living, node)
    if by is None:
        return structs.replace(known, door_by=None)
    number = store.raise_power_number(tx, node.id)
    _ask(tx, by)
    return structs.replace(known, door=Door.SHUT, door_by=by, door_number=number, trouble="")


def _ask(tx: Tx, node_id: NodeId) -> None:
    store.change_node(tx, node_id, is_fencer=True)
    touch(tx, node_id)


def _tell_asked(tx: Tx, known: Loss) -> None:
    """Whoever was asked to fence the host is asked no more."""
    for by in sorted({by for by in (known.power_by, known.door_by) if by is not None}):
        if node_store.find_node(tx, by) is not None:
            touch(tx, by)


def _switcher(living: list[Node], node: Node) -> NodeId | None:
    """Who switches other hosts' power: the role's bearer, else whoever writes the zone's network."""
    for role in ("power", "network"):
        for other in living:
            if role in other.roles and other.id != node.id:
                return other.id
    return None


def _keeper(living: list[Node], node: Node) -> NodeId | None:
    """Who sees to the doors of the shared pool."""
    for other in living:
        has_pool = other.facts is not None and other.facts.has_shared_pool
        if "storage" in other.roles and has_pool and other.id != node.id:
            return other.id
    return None


def _asked(
    tx: Tx,
    node_id: NodeId,
    by: NodeId,
    *,
    power_number: int | None = None,
    door_number: int | None = None,
) -> Loss | None:
    """The loss that this host was asked about with this number: nobody else's word counts."""
    known = store.loss(tx, node_id)
    if known is None:
        return None
    if power_number is not None:
        is_so = known.power_by == by and known.power_number == power_number
    else:
        is_so = known.door_by == by and known.door_number == door_number
    return known if is_so else None


def _note_trouble(tx: Tx, known: Loss, trouble: str) -> None:
    if trouble and trouble != known.trouble:
        store.write(tx, structs.replace(known, trouble=trouble))


def _is_fenced(tx: Tx, node_id: NodeId, how: str) -> None:
    """Proof came. Only of a host that is still lost: it may be back."""
    node = node_store.node(tx, node_id)
    if node.state is NodeState.LOST:
        _fence(tx, node, how)


def _fence(tx: Tx, node: Node, how: str) -> None:
    node_store.move(tx, node, "fenced")
    store.change_node(tx, node.id, report_digest=None)
    known = store.loss(tx, node.id) or Loss(node_id=node.id)
    store.write(tx, structs.replace(known, fenced_by=how, trouble=""))
    _tell_asked(tx, known)  # Who switches the host on again has a reason.
    touch(tx, node.id)  # What it knows is not to be confirmed to it unread.
    tx.wake(RECOVERY)


def _let_in_again(tx: Tx, report: NodeReport) -> None:
    known = store.loss(tx, report.node_id)
    if known is None or known.door is not Door.SHUT:
        return
    node = node_store.node(tx, report.node_id)
    if node.state is NodeState.UP and report.spec_number >= node.spec_number:
        store.write(tx, structs.replace(known, door=Door.OPENING, door_by=None))
        open_door(tx, node.id)
        tx.wake(LOSS)


def _require_gone(tx: Tx, node_id: NodeId, what: str) -> Node:
    node = node_store.node(tx, node_id)
    if node.state in (NodeState.UP, NodeState.JOINING):
        raise Conflict(
            f"Host {node.hostname} is {node.state} and cannot be {what}: its agent is heard of. If it is "
            "off, wait until it is suspect; to empty it, drain it."
        )
    return node


def _release(tx: Tx, node_id: NodeId) -> None:
    known = store.loss(tx, node_id) or Loss(node_id=node_id)
    store.write(tx, structs.replace(known, hold="", may_recover=True))


def _why_unfenceable(node: Node) -> str:
    if node.power is None and not (node.facts and node.facts.has_shared_pool):
        return "no power address, no shared pool"
    ways = []
    if node.power is not None:
        ways.append("no host of its zone with the role power or network is up")
    if node.facts is not None and node.facts.has_shared_pool:
        ways.append("no other host of its zone with the shared pool is up")
    return "; ".join(ways)


def _asked_words(known: Loss) -> list[str]:
    found = []
    if known.power_by is not None:
        found.append(f"power (host {known.power_by} is asked)")
    if known.door_by is not None:
        found.append(f"storage (host {known.door_by} is asked)")
    return found

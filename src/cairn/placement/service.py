"""Take and give back room on hosts. A claim is the only promise of capacity that counts."""

from cairn.core.errors import Conflict
from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.fleet.records import Node
from cairn.placement import fit, store
from cairn.placement.records import Amounts, Claim, Room


def claim(tx: Tx, consumer_id: str, node: Node, need: Amounts) -> bool:
    """Take `need` of a host for one consumer; False when it does not fit (any more).

    Repeatable: the same claim again is no second one. Raises Conflict: it holds another."""
    assert node.facts is not None, "only hosts that reported can be claimed"
    held = store.claim_of(tx, consumer_id)
    if held is not None:
        if held.node_id == node.id and held.amounts == need:
            return True
        raise Conflict(f"{consumer_id} holds room already; release it first.")
    if not store.take(tx, node.id, need, fit.capacity_of(node.facts)):
        return False
    store.add_claim(tx, Claim(consumer_id=consumer_id, node_id=node.id, amounts=need))
    return True


def take(tx: Tx, node: Node, need: Amounts) -> bool:
    """The guard alone: add to what is taken of a host; False when it does not fit (any more).

    Whoever takes then records the claim, or gives the room back, in the same transaction."""
    assert node.facts is not None, "only hosts that reported can be claimed"
    return store.take(tx, node.id, need, fit.capacity_of(node.facts))


def record(tx: Tx, claim: Claim) -> None:
    """Room that was taken is this consumer's, who holds nothing else."""
    store.add_claim(tx, claim)


def give_back(tx: Tx, claim: Claim) -> None:
    """Room that was taken and is not needed after all. Nothing may be recorded of it."""
    store.give_back(tx, claim)


def taken(tx: Tx) -> list[tuple[NodeId, int, int, int]]:
    """(host, processors, MiB, GiB) taken of every host that ever had a claim."""
    return [(NodeId(row[0]), row[1], row[2], row[3]) for row in store.rows(tx)]


def release(tx: Tx, consumer_id: str) -> None:
    """Give back what a consumer holds. Nothing held is no error."""
    held = store.claim_of(tx, consumer_id)
    if held is not None and store.remove_claim(tx, consumer_id):
        store.give_back(tx, held)


def hand_over(tx: Tx, *, giver: str, taker: str, amounts: Amounts) -> None:
    """What one consumer holds becomes another's, who gives back what it held; `amounts` are no more than
    was held, so nothing can be lacking."""
    held = store.claim_of(tx, giver)
    assert held is not None, f"{giver} holds no room"
    release(tx, taker)
    store.remove_claim(tx, giver)
    more = Amounts(
        vcpus=held.amounts.vcpus - amounts.vcpus,
        memory_mib=held.amounts.memory_mib - amounts.memory_mib,
        disk_gib=held.amounts.disk_gib - amounts.disk_gib,
    )
    store.give_back(tx, Claim(consumer_id=giver, node_id=held.node_id, amounts=more))
    store.add_claim(tx, Claim(consumer_id=taker, node_id=held.node_id, amounts=amounts))


def rooms(tx: Tx, nodes: list[Node]) -> dict[NodeId, Room]:
    """Capacity and use of hosts that have reported."""
    sums = store.sums_by_node(tx)
    return {
        node.id: Room(
            node_id=node.id,
            capacity=fit.capacity_of(node.facts),
            taken=sums.get(node.id, Amounts()),
        )
        for node in nodes
        if node.facts is not None
    }


def forget_node(tx: Tx, node_id: NodeId) -> None:
    """The host is no member any more, and nothing holds room on it."""
    store.forget_node(tx, node_id)


def claims_on(tx: Tx, node_id: NodeId) -> list[Claim]:
    return store.claims_on(tx, node_id)


def claimants(tx: Tx) -> list[str]:
    """Everyone who holds room anywhere: for checks of the whole, not for requests."""
    return store.claimants(tx)

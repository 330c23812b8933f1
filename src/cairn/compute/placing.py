"""The placer: which host each new server goes to, many servers in one transaction.

It chooses on a copy of all hosts (hosts.py) and claims in the database, where the guard is. Any number of
placers may run at once: a claim that somebody else was faster with is refused, and so is a second place.
"""

import random
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Struct
from sqlalchemy.exc import DBAPIError

from cairn.compute import aggregates, schedule, store, store_actions
from cairn.compute.hosts import Hosts
from cairn.compute.records import Disk, Fault, Nic, Server
from cairn.core import log
from cairn.core.caller import system_caller
from cairn.core.clock import Clock, SystemClock
from cairn.core.errors import CloudError, Conflict, NoCapacity, NotFound
from cairn.core.ids import NodeId, ServerId
from cairn.db.engine import Database, Tx
from cairn.db.feed import Feed
from cairn.fleet import service as fleet
from cairn.fleet.records import Node
from cairn.life.reconcile import Round
from cairn.network import service as network
from cairn.placement import service as placement
from cairn.placement.records import Claim
from cairn.volume import service as volumes

PLACER = "compute.placer"
BATCH_MAX = 64  # servers placed in one transaction
ROUND_MAX = 512  # servers a round: the next round follows at once while there are more
CLAIMS_MAX = 5  # hosts tried for one server before the round gives way to others
ROOMS_S = 1.0  # for how long what is taken is believed; a refused claim ends it at once
NODES_S = 2.0  # hosts that come and go by the hundred are read no more often than this
RETRY_S = 0.2  # before servers that lost the race for room are looked at again
SPREAD = 1e-3  # how far equals are moved apart: less than one guest on a big host

_log = log.get("compute.placer")


class Outcome(Struct, kw_only=True):
    """What became of a batch."""

    refused: dict[ServerId, str] = {}  # given up, and why
    raced: list[ServerId] = []  # others were faster everywhere
    nowhere: list[ServerId] = []  # fit on no host of the copy, which may be old


class Placer:
    """Gives each server that waits a host: claim, ports, volumes and number in one transaction."""

    name = PLACER

    def __init__(
        self,
        database: Database,
        *,
        feed: Feed | None = None,
        clock: Clock | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self._database = database
        self._clock = clock or SystemClock()
        self._dice = dice  # None: equals are not moved apart
        self._hosts: Hosts | None = None
        self._are_nodes_old = True
        self._nodes_read_s = self._rooms_read_s = 0.0
        if feed is not None:
            feed.listen(fleet.HOSTS_TOPIC, self._note_hosts)

    async def run_once(self) -> Round:
        waiting = await self._database.read(lambda tx: store.unplaced_ids(tx, ROUND_MAX))
        if not waiting:
            return Round()
        if self._dice is not None:
            self._dice.shuffle(waiting)  # Placers side by side begin with different ones.
        refused: dict[ServerId, str] = {}
        raced: list[ServerId] = []
        for start in range(0, len(waiting), BATCH_MAX):
            outcome = await self._place(waiting[start : start + BATCH_MAX])
            refused |= outcome.refused
            raced += outcome.raced
        again_s = RETRY_S if raced else 0.0 if len(waiting) == ROUND_MAX else None
        return Round(
            found=len(waiting),
            done=len(waiting) - len(refused) - len(raced),
            failed=tuple(f"server {server_id}: {why}" for server_id, why in refused.items()),
            again_s=again_s,
        )

    async def _place(self, servers: Sequence[ServerId]) -> Outcome:
        hosts = await self._copy(is_fresh=False)
        outcome = await self._attempt(servers, hosts, is_fresh=False)
        if outcome.raced:
            self._rooms_read_s = 0.0
        if not outcome.nowhere:
            return outcome
        # Nobody hears "no valid host" from a copy that may be old.
        hosts = await self._copy(is_fresh=True)
        last = await self._attempt(outcome.nowhere, hosts, is_fresh=True)
        outcome.refused |= last.refused
        outcome.raced += last.raced
        return outcome

    async def _attempt(
        self, servers: Sequence[ServerId], hosts: Hosts, *, is_fresh: bool
    ) -> Outcome:
        def write(tx: Tx) -> Outcome:
            trial = hosts.trial()
            outcome = place_batch(tx, servers, trial, is_fresh=is_fresh)
            tx.after_commit(lambda: hosts.adopt(trial))
            return outcome

        try:
            return await self._database.write(write)
        except (CloudError, DBAPIError) as error:
            _log.warning("batch not placed; each on its own", because=str(error))
        outcome = Outcome()
        for server in servers:
            refused = await self._database.write(partial(place_one, server_id=server))
            if refused is not None:
                outcome.refused[server] = refused
        return outcome

    async def _copy(self, *, is_fresh: bool) -> Hosts:
        """All hosts: as new as need be, or as new as can be."""
        now_s = self._clock.monotonic_s()
        is_due = self._are_nodes_old and now_s - self._nodes_read_s >= NODES_S
        if self._hosts is None or is_due or (is_fresh and self._are_nodes_old):
            self._are_nodes_old = False
            self._hosts = await self._database.read(self._read_hosts)
            self._nodes_read_s = self._rooms_read_s = now_s
        elif is_fresh or now_s - self._rooms_read_s >= ROOMS_S:
            self._hosts.renew_rooms(await self._database.read(placement.taken))
            self._rooms_read_s = now_s
        return self._hosts

    def _read_hosts(self, tx: Tx) -> Hosts:
        nodes = fleet.candidates(tx)
        spread = None
        if self._dice is not None:
            spread = {node.id: self._dice.random() * SPREAD for node in nodes}
        return Hosts(nodes, placement.rooms(tx, nodes), spread=spread)

    def _note_hosts(self, topic: str) -> None:
        self._are_nodes_old = True


def place_one(tx: Tx, server_id: ServerId) -> str | None:
    """Place one server, or say why not; a server without a valid host is in ERROR afterwards.

    A server that somebody placed or deleted meanwhile is done."""
    nodes = fleet.candidates(tx)
    outcome = place_batch(tx, [server_id], Hosts(nodes, placement.rooms(tx, nodes)), is_fresh=True)
    if outcome.raced:
        return "other placers were first everywhere; the next round tries again"
    return outcome.refused.get(server_id)


def place_batch(tx: Tx, waiting: Sequence[ServerId], hosts: Hosts, *, is_fresh: bool) -> Outcome:
    """Place what still waits and fits. On a fresh copy, what fits nowhere is given up, and told why."""
    servers = store.still_unplaced(tx, waiting)
    ids = [server.id for server in servers]
    disks, nics = store.disks_of(tx, ids), store.nics_of(tx, ids)
    words = _Words(hosts)
    outcome = Outcome()
    placed: list[tuple[Server, Node]] = []
    for server in servers:
        own_disks, own_nics = disks.get(server.id, []), nics.get(server.id, [])
        try:
            need = _need(tx, server, own_disks, own_nics)
            allowed = aggregates.eligible_nodes(tx, server.flavor)
            fitting = hosts.best(need, allowed, CLAIMS_MAX)
            if not fitting and is_fresh:
                words.refuse(need, allowed)
        except (NoCapacity, Conflict, NotFound) as error:
            outcome.refused[server.id] = error.message
            _give_up(tx, server, error.message)
            continue
        if not fitting:
            outcome.nowhere.append(server.id)
            continue
        node = next((n for n in fitting if placement.take(tx, n, need.amounts)), None)
        if node is None:
            outcome.raced.append(server.id)
            continue
        claim = Claim(consumer_id=server.id, node_id=node.id, amounts=need.amounts)
        if store.place(tx, server, node.id, node.zone):
            placement.record(tx, claim)
            hosts.take(node.id, need.amounts)
            _settle(tx, server, node, own_disks, own_nics)
            placed.append((server, node))
        else:  # Somebody placed or deleted it since it was read.
            placement.give_back(tx, claim)
    _tell_hosts(tx, placed, {*disks, *nics})
    return outcome


class _Words:
    """Why nothing fits: composed once for each kind of need, since it looks at every host."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._told: dict[object, str] = {}

    def refuse(self, need: schedule.Need, allowed: frozenset[NodeId] | None) -> None:
        """Raises NoCapacity that says what each host lacked."""
        kind = (msgspec.structs.astuple(need), allowed)
        if kind not in self._told:
            nodes = [*self._hosts.nodes, *self._hosts.refused]
            if allowed is not None:
                nodes = [n for n in nodes if n.id in allowed]
            if allowed is not None and not nodes:
                raise NoCapacity(
                    "No valid host was found. No host is in an aggregate with what the flavor's extra "
                    f"specs {aggregates.SCOPE}* ask for."
                )
            try:
                schedule.choose(need, nodes, self._hosts.rooms())
            except NoCapacity as error:
                self._told[kind] = error.message
            else:
                self._told[kind] = "No valid host was found."
        raise NoCapacity(self._told[kind])


def _need(tx: Tx, server: Server, disks: list[Disk], nics: list[Nic]) -> schedule.Need:
    """What the server asks of its host. Raises NotFound when one of its volumes is gone."""
    homes: set[NodeId] = set()
    for disk in disks:
        home = volumes.get(tx, system_caller(), disk.volume_id).node_id
        if home is not None:
            homes.add(home)
    if len(homes) > 1:
        raise Conflict("The server's volumes live on different hosts, so no host can run it.")
    zone = server.pool_zone or server.zone_wish
    if nics:
        zone = _zone_of(zone, network.zones_of_ports(tx, [nic.port_id for nic in nics]))
    return schedule.Need(
        amounts=server.need,
        zone=zone,
        node_ids=frozenset(homes) or None,
        needs_shared_pool=server.pool_zone is not None,
    )


def _zone_of(wished: str | None, zones: set[str]) -> str | None:
    """A network lives in one zone, and so must whoever is plugged into it."""
    if len(zones) > 1:
        named = ", ".join(sorted(zones))
        raise Conflict(f"The server's networks live in different availability zones: {named}.")
    if wished is not None and zones - {wished}:
        raise Conflict(
            f"The server's networks live in availability zone {min(zones)}, and it was asked for in "
            f"{wished}."
        )
    return wished or min(zones, default=None)


def _settle(tx: Tx, server: Server, node: Node, disks: list[Disk], nics: list[Nic]) -> None:
    """What goes along with the server to the host that it has claimed."""
    for nic in nics:
        try:
            network.bind_port(tx, nic.port_id, server.id, node.id)
        except (NotFound, Conflict):
            store.remove_nic(tx, nic.port_id)  # Its owner took the port away meanwhile.
    for disk in disks:
        volumes.place(tx, disk.volume_id, node.id)


def _tell_hosts(tx: Tx, placed: Sequence[tuple[Server, Node]], equipped: set[ServerId]) -> None:
    """Each host hears of all its new servers under one number."""
    numbers: dict[NodeId, int] = {}
    for server, node in placed:
        if node.id not in numbers:
            numbers[node.id] = fleet.touch(tx, node.id)
        if server.id in equipped:
            store.want_numbers(tx, server.id, numbers[node.id])
    store_actions.set_nodes(tx, [(server.id, node.id) for server, node in placed])


def _give_up(tx: Tx, server: Server, message: str) -> None:
    store.move(tx, server, "failed", fault=Fault(message=message, created_at=tx.now))
    store_actions.finish_actions(tx, server.id, "Error", details=message, names=("create",))

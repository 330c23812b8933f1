"""Hosts that are gone: waited for, given up, fenced; held when it may be us; heard again."""

import pytest

from cairn.core.clock import FakeClock
from cairn.core.errors import Conflict
from cairn.core.ids import NodeId
from cairn.db.engine import Database
from cairn.fleet import hosts, loss, loss_store, service
from cairn.fleet.control import LossKeeper
from cairn.fleet.records import Node, NodeState, PowerAddress
from cairn.life.reconcile import Round
from cairn.wire.report import DoorSeen, HostFacts, MachineSeen, NodeReport, Trouble

FACTS = HostFacts(
    hostname="", vcpus=4, memory_mib=8192, disk_gib=100, disk_free_gib=90, accelerator="tcg"
)
POWER = PowerAddress(driver="fake", address="bmc-1", password="s3cret")


class Fleet:
    """Some hosts of one zone that are up; a keeper; time that a test moves."""

    def __init__(self, database: Database, clock: FakeClock, *, hosts: int = 3) -> None:
        self.database = database
        self.clock = clock
        self.keeper = LossKeeper(database, clock)
        self.numbers: dict[str, int] = {}
        for number in range(hosts):
            self.add(f"h{number}", network=number == 0)

    def add(self, name: str, *, network: bool = False, shared: bool = False) -> None:
        roles = ("compute", "network", "storage") if network else ("compute", "storage")
        node_id = NodeId(name)
        self.database.write_now(
            lambda tx: service.enrol(tx, node_id, hostname=name, zone="nova", roles=roles)
        )
        self.connect(name)
        self.report(name, shared=shared)

    def connect(self, name: str) -> None:
        base = self.database.write_now(lambda tx: service.connected(tx, NodeId(name)))
        self.numbers[name] = base

    def report(self, name: str, *, shared: bool = False, **more: object) -> None:
        self.numbers[name] += 1
        facts = HostFacts(
            hostname=name,
            vcpus=4,
            memory_mib=8192,
            disk_gib=100,
            disk_free_gib=90,
            accelerator="tcg",
            has_shared_pool=shared,
        )
        said = {"spec_number": self.node(name).spec_number, **more}
        report = NodeReport(
            node_id=NodeId(name),
            number=self.numbers[name],
            facts=facts,
            **said,  # type: ignore[arg-type]
        )
        self.database.write_now(lambda tx: service.take_report(tx, report))

    def silent(self, *names: str, was_heard: bool = True) -> None:
        for name in names:
            self.database.write_now(
                lambda tx, name=name: service.silent(  # type: ignore[misc]
                    tx, NodeId(name), was_heard=was_heard
                )
            )

    def switchable(self, *names: str) -> None:
        for name in names:
            self.database.write_now(
                lambda tx, name=name: hosts.arrange(  # type: ignore[misc]
                    tx, service.node(tx, NodeId(name)), hosts.Wish(power=POWER)
                )
            )

    async def round(self, *, after_s: float = 0.0) -> Round:
        self.clock.advance(after_s)
        return await self.keeper.run_once()

    async def lose(self, name: str) -> None:
        """Silent until it is lost, and whoever can fence it is asked."""
        self.silent(name)
        await self.round()
        await self.round(after_s=60)
        await self.round()

    def node(self, name: str) -> Node:
        return self.database.read_now(lambda tx: service.node(tx, NodeId(name)))

    def state(self, name: str) -> NodeState:
        return self.node(name).state

    def wishes(self, name: str):  # type: ignore[no-untyped-def]
        return self.database.read_now(
            lambda tx: loss.wishes_for(tx, service.node(tx, NodeId(name)))
        )

    def words(self, name: str) -> str:
        return self.database.read_now(lambda tx: loss.explain(tx, service.node(tx, NodeId(name))))


async def begun(database: Database, clock: FakeClock, *, hosts: int = 3) -> Fleet:
    """All hosts were heard after the control plane's start."""
    made = Fleet(database, clock, hosts=hosts)
    await made.keeper.run_once()
    return made


@pytest.fixture
async def fleet(database: Database, clock: FakeClock) -> Fleet:
    return await begun(database, clock)


# --- time --------------------------------------------------------------------------------------------


async def test_a_suspect_is_waited_for_and_then_lost(fleet: Fleet) -> None:
    fleet.silent("h1")
    found = await fleet.round()
    assert found.again_s == pytest.approx(60)
    assert (await fleet.round(after_s=59)).again_s == pytest.approx(1)
    assert fleet.state("h1") is NodeState.SUSPECT
    await fleet.round(after_s=1)
    assert fleet.state("h1") is NodeState.LOST
    assert fleet.state("h2") is NodeState.UP


async def test_a_suspect_that_comes_back_is_no_loss(fleet: Fleet) -> None:
    fleet.silent("h1")
    await fleet.round(after_s=50)
    fleet.connect("h1")
    assert await fleet.round(after_s=50) == Round()
    assert fleet.node("h1").is_usable
    assert fleet.words("h1") == ""


async def test_while_all_are_well_nothing_is_asked_for(fleet: Fleet) -> None:
    assert (await fleet.round()).again_s is None


async def test_a_lost_host_that_nobody_can_fence_waits_aloud(fleet: Fleet) -> None:
    await fleet.lose("h1")
    found = await fleet.round()
    (line,) = found.failed
    assert "h1: lost; cannot be fenced: no power address, no shared pool" in line
    assert "cairn host fence h1 --by-hand" in line
    assert fleet.state("h1") is NodeState.LOST


# --- power -------------------------------------------------------------------------------------------


async def test_a_host_is_fenced_by_power_through_another(fleet: Fleet) -> None:
    fleet.switchable("h1")
    await fleet.lose("h1")
    ((machine,), doors) = fleet.wishes("h0")
    assert (machine.node_id, machine.on, machine.password) == ("h1", False, "s3cret")
    assert doors == ()
    assert fleet.node("h0").is_fencer and not fleet.node("h1").is_fencer
    assert "being fenced by power (host h0 is asked)" in fleet.words("h1")
    still_on = MachineSeen(node_id=NodeId("h1"), number=machine.number, is_on=True)
    fleet.report("h0", machines=(still_on,))
    assert fleet.state("h1") is NodeState.LOST
    off = MachineSeen(node_id=NodeId("h1"), number=machine.number, is_on=False)
    fleet.report("h0", machines=(off,))
    assert fleet.state("h1") is NodeState.FENCED
    assert fleet.words("h1").startswith("fenced by power, through host h0")
    assert fleet.wishes("h0") == ((), ()), "who switches it on again has a reason"


async def test_only_who_was_asked_and_only_about_this_wish_is_believed(fleet: Fleet) -> None:
    fleet.switchable("h1")
    await fleet.lose("h1")
    ((machine,), _) = fleet.wishes("h0")
    off = MachineSeen(node_id=NodeId("h1"), number=machine.number, is_on=False)
    fleet.report("h2", machines=(off,))
    older = MachineSeen(node_id=NodeId("h1"), number=machine.number - 1, is_on=False)
    fleet.report("h0", machines=(older,))
    other = MachineSeen(node_id=NodeId("h2"), number=machine.number, is_on=False)
    fleet.report("h0", machines=(other,))
    assert fleet.state("h1") is NodeState.LOST
    assert fleet.state("h2") is NodeState.UP


async def test_proof_that_comes_after_the_host_is_back_changes_nothing(fleet: Fleet) -> None:
    fleet.switchable("h1")
    await fleet.lose("h1")
    ((machine,), _) = fleet.wishes("h0")
    fleet.connect("h1")
    off = MachineSeen(node_id=NodeId("h1"), number=machine.number, is_on=False)
    fleet.report("h0", machines=(off,))
    assert fleet.state("h1") is NodeState.UP
    assert fleet.node("h1").enabled
    await fleet.lose("h1")
    ((again,), _) = fleet.wishes("h0")
    assert again.number > machine.number, "an answer to the first wish is none to the second"
    fleet.report("h0", machines=(off,))
    assert fleet.state("h1") is NodeState.LOST


async def test_when_who_was_asked_is_gone_itself_another_is_asked(fleet: Fleet) -> None:
    fleet.switchable("h1")
    fleet.database.write_now(
        lambda tx: hosts.arrange(
            tx, service.node(tx, NodeId("h2")), hosts.Wish(roles=("compute", "storage", "power"))
        )
    )
    await fleet.lose("h1")
    assert fleet.wishes("h2")[0], "the role power comes before the role network"
    fleet.silent("h2")
    await fleet.round()
    ((machine,), _) = fleet.wishes("h0")
    assert machine.node_id == "h1"


async def test_the_trouble_of_fencing_is_told_without_the_password(fleet: Fleet) -> None:
    fleet.switchable("h1")
    await fleet.lose("h1")
    ((machine,), _) = fleet.wishes("h0")
    trouble = Trouble(message="No power controller answers for host h1.")
    seen = MachineSeen(node_id=NodeId("h1"), number=machine.number, is_on=True, trouble=trouble)
    fleet.report("h0", machines=(seen,))
    assert fleet.words("h1").endswith("No power controller answers for host h1.")
    assert "s3cret" not in fleet.words("h1")


# --- storage -----------------------------------------------------------------------------------------


async def test_a_host_is_fenced_by_storage_and_let_in_when_it_is_clean(
    database: Database, clock: FakeClock
) -> None:
    fleet = await begun(database, clock, hosts=0)
    for name in ("a", "b", "c"):
        fleet.add(name, network=name == "a", shared=True)
    await fleet.lose("b")
    (_, (door,)) = fleet.wishes("a")
    assert (door.node_id, door.is_open) == ("b", False)
    shut = DoorSeen(node_id=NodeId("b"), number=door.number, is_open=False)
    fleet.report("a", shared=True, doors=(shut,))
    assert fleet.state("b") is NodeState.FENCED
    fleet.connect("b")
    assert fleet.state("b") is NodeState.UP
    assert fleet.wishes("a") == ((), ()), "not let in before it has shown what it holds"
    fleet.report("b", shared=True, is_clean=False)
    fleet.report("b", shared=True, is_clean=True, spec_number=0)
    assert "shut out of the shared pool" in fleet.words("b")
    fleet.report("b", shared=True, is_clean=True)
    (_, (opened,)) = fleet.wishes("a")
    assert opened.is_open and opened.number > door.number
    seen = DoorSeen(node_id=NodeId("b"), number=opened.number, is_open=True)
    fleet.report("a", shared=True, doors=(seen,))
    assert fleet.words("b") == ""
    assert fleet.wishes("a") == ((), ())


async def test_a_door_is_opened_by_another_when_who_was_asked_is_gone(
    database: Database, clock: FakeClock
) -> None:
    fleet = await begun(database, clock, hosts=0)
    for name in ("a", "b", "c"):
        fleet.add(name, network=name == "a", shared=True)
    await fleet.lose("b")
    (_, (door,)) = fleet.wishes("a")
    shut = DoorSeen(node_id=NodeId("b"), number=door.number, is_open=False)
    fleet.report("a", shared=True, doors=(shut,))
    fleet.connect("b")
    fleet.report("b", shared=True, is_clean=True)
    fleet.silent("a")
    found = await fleet.round()
    assert found.again_s is not None
    (_, (opened,)) = fleet.wishes("c")
    assert opened.is_open


# --- a person's word ---------------------------------------------------------------------------------


async def test_a_person_may_fence_by_hand_and_not_wait(fleet: Fleet) -> None:
    fleet.silent("h1")
    fleet.database.write_now(lambda tx: loss.fence_by_hand(tx, NodeId("h1")))
    assert fleet.state("h1") is NodeState.FENCED
    assert fleet.words("h1").startswith("fenced by a person's word")
    nodes = fleet.database.read_now(loss.fenced_nodes)
    assert [n.id for n in nodes] == ["h1"]


@pytest.mark.parametrize("verb", [loss.fence_by_hand, loss.fence_now, loss.recover])
def test_a_host_that_is_heard_of_is_not_fenced(fleet: Fleet, verb) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Conflict, match="h1 is up"):
        fleet.database.write_now(lambda tx: verb(tx, NodeId("h1")))


async def test_a_person_may_have_a_suspect_fenced_at_once(fleet: Fleet) -> None:
    fleet.silent("h1", "h2")
    with pytest.raises(Conflict, match="--by-hand"):
        fleet.database.write_now(lambda tx: loss.fence_now(tx, NodeId("h2")))
    fleet.switchable("h1")
    fleet.database.write_now(lambda tx: loss.fence_now(tx, NodeId("h1")))
    assert fleet.state("h1") is NodeState.LOST
    assert fleet.wishes("h0")[0]


async def test_a_host_that_was_fenced_comes_back_without_new_guests(fleet: Fleet) -> None:
    fleet.silent("h1")
    fleet.database.write_now(lambda tx: loss.fence_by_hand(tx, NodeId("h1")))
    fleet.connect("h1")
    node = fleet.node("h1")
    assert node.state is NodeState.UP and not node.is_usable
    assert "was fenced at" in (node.disabled_reason or "")
    assert "cairn host set h1 --enable" in (node.disabled_reason or "")
    assert node.report_digest is None, "it must tell what it has"
    assert fleet.database.read_now(loss.fenced_nodes) == []


# --- it is us ----------------------------------------------------------------------------------------


async def test_many_that_fall_silent_together_are_held(
    database: Database, clock: FakeClock
) -> None:
    fleet = await begun(database, clock, hosts=10)
    fleet.switchable("h1", "h2", "h3")
    fleet.silent("h1", "h2", "h3")
    await fleet.round()
    for _ in range(4):
        await fleet.round(after_s=60)
    assert {fleet.state(f"h{n}") for n in (1, 2, 3)} == {NodeState.SUSPECT}
    assert "3 of its 10 hosts fell silent" in fleet.words("h1")
    assert "cairn host recover h1" in fleet.words("h1")
    released = database.write_now(lambda tx: loss.recover_zone(tx, "nova"))
    assert released == 1
    await fleet.round()
    await fleet.round()
    assert {fleet.state(f"h{n}") for n in (1, 2, 3)} == {NodeState.LOST}
    assert len(fleet.wishes("h0")[0]) == 3, "judged once, they are not held again"


async def test_a_host_alone_may_be_recovered_while_its_zone_is_held(
    database: Database, clock: FakeClock
) -> None:
    fleet = await begun(database, clock, hosts=5)
    fleet.silent("h1", "h2", "h3")
    await fleet.round()
    database.write_now(lambda tx: loss.recover(tx, NodeId("h2")))
    await fleet.round(after_s=60)
    assert fleet.state("h2") is NodeState.LOST
    assert fleet.state("h1") is NodeState.SUSPECT


@pytest.mark.parametrize(
    ("hosts", "silent", "is_held"),
    [(5, 2, False), (5, 3, True), (20, 3, False), (20, 4, True)],
)
async def test_how_many_are_many(
    database: Database, clock: FakeClock, hosts: int, silent: int, is_held: bool
) -> None:
    fleet = await begun(database, clock, hosts=hosts)
    fleet.silent(*(f"h{n}" for n in range(1, silent + 1)))
    await fleet.round()
    held = database.read_now(lambda tx: loss_store.hold(tx, "nova"))
    assert loss.is_held(held) is is_held


async def test_one_after_the_other_is_not_together(database: Database, clock: FakeClock) -> None:
    fleet = await begun(database, clock, hosts=5)
    for n in (1, 2, 3):
        fleet.silent(f"h{n}")
        await fleet.round(after_s=16)
    assert not loss.is_held(database.read_now(lambda tx: loss_store.hold(tx, "nova")))


async def test_hosts_unheard_since_the_start_may_be_lost_but_are_not_fenced(fleet: Fleet) -> None:
    fleet.switchable("h1")
    fleet.silent("h1", was_heard=False)
    await fleet.round()
    await fleet.round(after_s=60)
    await fleet.round()
    assert fleet.state("h1") is NodeState.LOST
    assert fleet.wishes("h0") == ((), ())
    assert "not been heard of since the control plane started" in fleet.words("h1")
    fleet.database.write_now(lambda tx: loss.recover(tx, NodeId("h1")))
    await fleet.round()
    assert fleet.wishes("h0")[0]


async def test_who_is_suspect_when_the_control_plane_starts_is_held(fleet: Fleet) -> None:
    fleet.switchable("h1", "h2")
    fleet.silent("h1")
    fleet.keeper = LossKeeper(fleet.database, fleet.clock)
    await fleet.round()
    await fleet.round(after_s=60)
    await fleet.round()
    assert fleet.wishes("h0") == ((), ())
    fleet.connect("h1")
    await fleet.lose("h1")
    assert fleet.wishes("h0")[0], "heard since, it is like any other"


async def test_a_fenced_host_of_a_held_zone_is_not_recovered(
    database: Database, clock: FakeClock
) -> None:
    fleet = await begun(database, clock, hosts=5)
    fleet.switchable("h1")
    await fleet.lose("h1")
    ((machine,), _) = fleet.wishes("h0")
    fleet.silent("h2", "h3", "h4")
    await fleet.round()
    off = MachineSeen(node_id=NodeId("h1"), number=machine.number, is_on=False)
    fleet.report("h0", machines=(off,))
    assert fleet.state("h1") is NodeState.FENCED
    assert database.read_now(loss.fenced_nodes) == []
    database.write_now(lambda tx: loss.recover_zone(tx, "nova"))
    assert [n.id for n in database.read_now(loss.fenced_nodes)] == ["h1"]

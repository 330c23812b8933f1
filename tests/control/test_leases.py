"""Leases, hints and the register of control processes, on PostgreSQL and without processes around them."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from cairn.core.clock import FakeClock
from cairn.core.ids import NodeId
from cairn.db.engine import Database, Tx
from cairn.db.feed import EVERYTHING, Feed
from cairn.db.notify import PAYLOAD_BYTES_MAX, Notifier, payloads
from cairn.fleet import control_store
from cairn.fleet import service as fleet
from cairn.fleet.control_store import Control, control_processes
from cairn.fleet.controls import Controls
from cairn.fleet.store import nodes
from cairn.life import lease
from cairn.life.lease import LEASE, Leased
from cairn.life.reconcile import Round
from tests.control.rig import fresh_database, until


class Counting:
    """A reconciler that makes a number larger, safely on two processes at once."""

    name = "counting"

    def __init__(self) -> None:
        self.rounds = 0

    async def run_once(self) -> Round:
        self.rounds += 1
        return Round(found=1, done=1)


async def test_one_of_two_does_the_work(database: Database, clock: FakeClock) -> None:
    ours, theirs = Counting(), Counting()
    here = Leased(ours, database, holder="a", clock=clock)
    there = Leased(theirs, database, holder="b", clock=clock)
    for _ in range(5):
        await here.run_once()
        waits = await there.run_once()
    assert (ours.rounds, theirs.rounds) == (5, 0)
    assert waits.again_s is not None and waits.again_s <= LEASE.total_seconds() + 1
    # The holder says nothing more: the other works at its next look after the lease.
    clock.advance(LEASE.total_seconds() + 0.1)
    assert (await there.run_once()).done == 1
    assert (await here.run_once()).again_s is not None
    assert (ours.rounds, theirs.rounds) == (5, 1)


async def test_a_lease_that_is_given_back_is_taken_at_once(
    database: Database, clock: FakeClock
) -> None:
    ours, theirs = Counting(), Counting()
    here = Leased(ours, database, holder="a", clock=clock)
    there = Leased(theirs, database, holder="b", clock=clock)
    feed = Feed()
    database.on_wake(feed.wake)
    hint = feed.subscribe("counting")
    await here.run_once()
    await there.run_once()
    database.write_now(lambda tx: lease.release(tx, "a"))
    assert hint.is_set()
    await there.run_once()
    assert (ours.rounds, theirs.rounds) == (1, 1)


async def test_two_holders_break_nothing(database: Database, clock: FakeClock) -> None:
    """A holder whose clock stands still goes on while the other has long taken over."""
    slow = FakeClock()
    ours, theirs = Counting(), Counting()
    here = Leased(ours, database, holder="a", clock=slow)
    there = Leased(theirs, database, holder="b", clock=clock)
    await here.run_once()
    clock.advance(60)
    await there.run_once()
    await here.run_once()
    assert (ours.rounds, theirs.rounds) == (2, 1)


async def test_a_lease_costs_nothing_while_it_lasts(database: Database, clock: FakeClock) -> None:
    here = Leased(Counting(), database, holder="a", clock=clock)
    there = Leased(Counting(), database, holder="b", clock=clock)
    await here.run_once()
    await there.run_once()
    before = database.statements_total
    for _ in range(10):
        await here.run_once()
        await there.run_once()
    assert database.statements_total == before


@pytest.mark.parametrize("count", [0, 1, 500, 5000])
def test_payloads_are_small_and_lose_nothing(count: int) -> None:
    topics = {f"node:{number:032x}-ü" for number in range(count)}
    made = list(payloads("me", topics))
    assert all(len(payload.encode()) <= PAYLOAD_BYTES_MAX for payload in made)
    heard = [payload.split("\n") for payload in made]
    assert all(sender == "me" for sender, *_ in heard)
    assert sorted(topic for _, *told in heard for topic in told) == sorted(topics)


async def test_hints_cross_and_their_echo_does_not(postgres_url: str) -> None:
    one, other = Database(postgres_url), Database(postgres_url)
    heard: dict[str, list[str]] = {"one": [], "other": []}
    one.on_wake(heard["one"].append)
    other.on_wake(heard["other"].append)
    messengers = [Notifier(one, sender="1"), Notifier(other, sender="2")]
    work = [asyncio.create_task(messenger.run()) for messenger in messengers]
    for messenger in messengers:
        await messenger.is_listening.wait()
    heard["one"].clear()
    heard["other"].clear()

    def change(tx: Tx) -> None:
        tx.execute(text("SELECT 1"))
        for number in range(300):
            tx.wake(f"node:{number:036}")

    await one.write(change)
    await until(lambda: len(heard["other"]) == 300)
    assert len(heard["one"]) == 300
    # A listener that lost its connection wakes everybody once it hears again.
    heard["other"].clear()
    with one.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'cairn notify'"
            )
        )
    await until(lambda: EVERYTHING in heard["other"])
    await one.write(lambda tx: tx.wake("again"))
    await until(lambda: "again" in heard["other"])
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    one.close()
    other.close()


async def test_hosts_of_a_dead_process_are_adopted_once(postgres_url: str) -> None:
    database = Database(fresh_database(postgres_url, "adoption"))
    database.create_all()
    adopted: dict[str, list[NodeId]] = {"a": [], "b": []}

    def member(name: str) -> Controls:
        async def adopt(node_ids: object) -> None:
            adopted[name] += node_ids  # type: ignore[operator]

        return Controls(
            database,
            Control(id=name, name=name, address=f"{name}:1"),
            adopt=adopt,
            lose_all=lambda: None,
        )

    def prepare(tx: Tx) -> None:
        for number in range(1200):
            name = NodeId(f"n{number:04}")
            fleet.enrol(tx, name, hostname=name, zone="nova", roles=("compute",))
        tx.execute(nodes.update().values(state="up", control_id="dead"))
        tx.execute(nodes.update().where(nodes.c.id < "n0100").values(control_id="b"))

    await database.write(prepare)
    members = [member("a"), member("b")]
    for one in members:
        await one.join()
    await asyncio.gather(*(one._beat() for one in members))
    await asyncio.gather(*(one._beat() for one in members))
    assert sorted(adopted["a"] + adopted["b"]) == [f"n{n:04}" for n in range(100, 1200)]
    holders = await database.read(
        lambda tx: set(tx.execute(select(nodes.c.control_id).distinct()).scalars())
    )
    assert holders <= {"a", "b"}
    database.close()


async def test_who_was_taken_for_dead_says_so_and_comes_back(postgres_url: str) -> None:
    database = Database(fresh_database(postgres_url, "comeback"))
    database.create_all()
    lost: list[str] = []
    heard: list[str] = []
    database.on_wake(heard.append)

    async def adopt(node_ids: object) -> None:
        return

    me = Controls(
        database,
        Control(id="me", name="me", address="me:1"),
        adopt=adopt,
        lose_all=lambda: lost.append("all"),
    )
    await me.join()
    await me._beat()
    await database.write(lambda tx: control_store.remove(tx, "me"))
    await me._beat()
    assert lost == ["all"] and EVERYTHING in heard
    known = await database.read(control_store.all_controls)
    assert [control.id for control in known] == ["me"]
    database.close()


async def test_only_who_was_there_long_enough_judges(postgres_url: str) -> None:
    database = Database(fresh_database(postgres_url, "judge"))
    database.create_all()

    async def adopt(node_ids: object) -> None:
        return

    me = Controls(
        database, Control(id="me", name="me", address="me:1"), adopt=adopt, lose_all=lambda: None
    )
    await me.join()
    await database.write(
        lambda tx: control_store.add(tx, Control(id="old", name="old", address="old:1"))
    )
    past = timedelta(seconds=31)
    await database.write(
        lambda tx: tx.execute(
            control_processes.update()
            .where(control_processes.c.id == "old")
            .values(seen_at=tx.now - past)
        )
    )
    seen = []
    for _ in range(4):
        await me._beat()
        known = await database.read(control_store.all_controls)
        seen.append(len(known))
    assert seen == [2, 2, 2, 1]
    database.close()

"""Placements on ten thousand hosts: eight placers at once over one database, and nobody placed twice.

The placers are the real ones, each with a copy of the hosts of its own; the database is SQLite in a file.
There are no agents: this measures choosing and claiming alone.
"""

import asyncio
import random
import shutil
import tempfile
import time
from pathlib import Path

import cairn.app  # noqa: F401 - knows every table
from bench.table import Result
from cairn.compute import service as compute
from cairn.compute.placing import Placer
from cairn.compute.records import Flavor
from cairn.core.ids import FlavorId, ImageId, ServerId
from cairn.db.engine import Database, open_sqlite
from cairn.placement import service as placement
from cairn.sim.load import prefill
from cairn.sim.load.stage import node_ids_of
from cairn.wire.report import HostFacts

HOSTS = 10_000
PLACERS = 8
SERVERS = 8000
AIM = 1000  # a second
FACTS = HostFacts(
    hostname="", vcpus=8, memory_mib=16384, disk_gib=500, disk_free_gib=500, accelerator="fake"
)
FLAVOR = Flavor(id=FlavorId("bench"), name="bench", vcpus=1, memory_mib=128, disk_gib=1)


def run() -> list[Result]:
    folder = Path(tempfile.mkdtemp(prefix="cvb-", dir="/tmp"))
    try:
        database = open_sqlite(folder / "cairn.db")
        try:
            return [_measured(database)]
        finally:
            database.close()
    finally:
        shutil.rmtree(folder)


def _measured(database: Database) -> Result:
    database.create_all()
    nodes = node_ids_of(1, HOSTS)
    prefill.enrol_hosts(database, nodes, network_nodes=(), key_digest="", tell=lambda what: None)
    prefill.bring_up(database, nodes, FACTS)
    placers = [Placer(database, dice=random.Random(n)) for n in range(PLACERS)]
    # A placer reads all hosts when it starts, once: that is not what is measured here.
    ids = _wait(database, PLACERS, seed=1)
    asyncio.run(_place(placers))
    ids += _wait(database, SERVERS, seed=2)
    began, cpu_s = time.perf_counter(), time.process_time()
    asyncio.run(_place(placers))
    took_s = time.perf_counter() - began
    each_ms = (time.process_time() - cpu_s) / SERVERS * 1000
    _require_once(database, ids)
    return Result(
        title=f"{SERVERS:,} servers on {HOSTS:,} hosts, {PLACERS} placers at once",
        columns=("what", "Cairn", "aim"),
        rows=(
            ("placements a second", f"{SERVERS / took_s:,.0f}", f"≥ {AIM:,}"),
            ("CPU of each, all placers", f"{each_ms:.2f} ms", "-"),
            ("placed twice, or on a host without room", "0", "0"),
        ),
        notes=("Every claim and every place was counted afterwards.",),
    )


def _wait(database: Database, count: int, *, seed: int) -> list[ServerId]:
    return prefill.add_waiting(database, count, seed=seed, flavor=FLAVOR, image_id=ImageId("i"))


async def _place(placers: list[Placer]) -> None:
    async def work(placer: Placer) -> None:
        while (await placer.run_once()).found:
            pass

    await asyncio.gather(*(work(placer) for placer in placers))


def _require_once(database: Database, ids: list[ServerId]) -> None:
    placed = database.read_now(compute.placed_servers)
    claims = database.read_now(placement.claimants)
    assert sorted(placed) == sorted(ids), "not every server has a host"
    assert claims == sorted(ids), "claims are not the placed servers"
    wrong = database.read_now(prefill.capacity_of)
    assert not wrong, wrong[:3]

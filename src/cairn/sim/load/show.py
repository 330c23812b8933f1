"""One run under way: the parts, the client, the phases that were measured so far."""

import asyncio
import contextlib
import datetime
import os
import platform
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct
from sqlalchemy import text

from cairn.core.errors import CloudError, Unavailable
from cairn.core.ids import NodeId
from cairn.db.engine import Database
from cairn.sim.load import costs
from cairn.sim.load.client import Client
from cairn.sim.load.parts import AgentsProcess, ControlProcess, database_pids
from cairn.sim.load.report import Machine, Phase, Process, limit_of, requests_of
from cairn.sim.load.stage import Stage

Tell = Callable[[str], None]
"""Say what is under way; may be called often."""

CONNECTED_S_MAX = 600.0


class Load(Struct, frozen=True, kw_only=True):
    """What was asked for."""

    hosts: int
    servers: int
    seed: int = 1
    profiles: tuple[str, ...] = ("steady",)
    database_url: str = ""
    burst: int = 0  # servers created at once in a storm; 0: by the number of hosts
    rate: float = 20.0  # servers created a second when all is steady
    seconds: float = 30.0  # of each steady phase
    batch: int = 1  # servers a request
    with_port: bool = False
    connections: int = 16
    latency_s: float = 0.0  # of each verb of the hosts' engines
    agent_processes: int = 0  # 0: as few as can hold the connections

    @property
    def burst_size(self) -> int:
        return self.burst or max(40, min(3000, self.hosts * 3))

    @property
    def joining(self) -> int:
        """Hosts that join later."""
        return max(2, min(500, self.hosts // 10)) if "joining" in self.profiles else 0


class _Mark(Struct, frozen=True, kw_only=True):
    """Where all counters stand."""

    at_s: float
    cpu_s: dict[str, float]
    loop_s: dict[str, float]
    machine_s: float
    timed: int


class Show:
    """Everything that a profile needs."""

    def __init__(
        self,
        load: Load,
        stage: Stage,
        *,
        control: ControlProcess,
        agents: Sequence[AgentsProcess],
        client: Client,
        tell: Tell,
    ) -> None:
        self.load = load
        self.stage = stage
        self.control = control
        self.agents = agents
        self.client = client
        self.tell = tell
        self.phases: list[Phase] = []
        self.accepted: set[str] = set()  # servers that the API promised
        self.doomed: set[str] = set()  # whose deletion it promised
        self.count = 0
        self._database: Database | None = None

    @property
    def database(self) -> Database:
        """A connection of our own, past the control plane: for checks and exact times."""
        if self._database is None:
            self._database = self.stage.open_database()
        return self._database

    def close(self) -> None:
        if self._database is not None:
            self._database.close()

    @property
    def connected(self) -> int:
        return sum(a.told.connected for a in self.agents)

    @property
    def running(self) -> int:
        return sum(a.told.running for a in self.agents)

    def first_hosts(self) -> tuple[NodeId, ...]:
        return self.stage.node_ids[: self.load.hosts]

    async def order(self, do: str, nodes: Iterable[NodeId], *, within_s: float = 0.0) -> None:
        """To each process its own hosts."""
        wanted = list(nodes)
        orders = []
        for agents in self.agents:
            known = set(agents.node_ids)
            if mine := [n for n in wanted if n in known]:
                orders.append(agents.order(do, mine, within_s=within_s))
        await asyncio.gather(*orders)

    async def until_connected(self, count: int, *, within_s: float = CONNECTED_S_MAX) -> float:
        """Seconds until so many agents were connected. Unavailable when it takes too long."""
        return await self.until(
            lambda: self.connected >= count,
            lambda: f"{self.connected:,} of {count:,} hosts are connected{self._trouble()}",
            within_s=within_s,
        )

    async def until(
        self, is_so: Callable[[], bool], what: str | Callable[[], str], *, within_s: float
    ) -> float:
        """Seconds until something is so. Unavailable when it takes too long or the control plane ends."""
        began_s = time.monotonic()
        while not is_so():
            self.control.require_alive()
            told = what if isinstance(what, str) else what()
            if time.monotonic() - began_s > within_s:
                raise Unavailable(f"After {within_s:.0f} s still: {told}.")
            self.tell(told)
            await asyncio.sleep(0.1)
        return time.monotonic() - began_s

    def _trouble(self) -> str:
        """Why some are not; the last reason of each process."""
        reasons = sorted({a.told.trouble for a in self.agents} - {""})
        return f" ({'; '.join(reasons)})" if reasons else ""

    @asynccontextmanager
    async def phase(
        self, profile: str, name: str, *, offered: str = ""
    ) -> AsyncIterator[dict[str, float]]:
        """Measure the body; it writes its own figures into what it is given."""
        figures: dict[str, float] = {}
        self.tell(f"{profile}: {name}")
        pid = self.control.pid
        own = -await self._statements()
        before_sql = await self._statements()
        own += before_sql  # What asking for the count costs itself.
        before = self._mark()
        yield figures
        after = self._mark()
        self.control.require_alive()
        statements = await self._statements() - own
        if self.control.pid == pid:
            statements -= before_sql
        self._keep(profile, name, before, after, max(statements, 0.0), figures, offered)

    def control_cpu_s(self) -> float:
        return costs.cpu_s(self.control.pid)

    def _keep(
        self,
        profile: str,
        name: str,
        before: _Mark,
        after: _Mark,
        statements: float,
        figures: dict[str, float],
        offered: str,
    ) -> None:
        seconds = after.at_s - before.at_s
        processes = tuple(self._process(part, before, after, seconds) for part in after.cpu_s)
        machine_cores = (after.machine_s - before.machine_s) / seconds
        timed = [t for t in self.client.timed[before.timed : after.timed] if t.kind != "metrics"]
        self.phases.append(
            Phase(
                profile=profile,
                name=name,
                seconds=seconds,
                figures=figures,
                requests=requests_of(timed),
                processes=processes,
                machine_cores=machine_cores,
                sql_statements=statements,
                database_mib=self.database_mib(),
                limit=limit_of(
                    processes,
                    machine_cores=machine_cores,
                    cores=os.cpu_count() or 1,
                    offered=offered,
                ),
            )
        )

    def _process(self, name: str, before: _Mark, after: _Mark, seconds: float) -> Process:
        cpu_s = after.cpu_s[name] - before.cpu_s.get(name, 0.0)
        loop_s = after.loop_s[name] - before.loop_s.get(name, 0.0)
        if cpu_s < 0 or loop_s < 0:  # Another process of this name since.
            cpu_s, loop_s = after.cpu_s[name], after.loop_s[name]
        pids = self._parts()[name]
        memories = [costs.memory(pid) for pid in pids]
        return Process(
            name=name,
            cpu_s=cpu_s,
            cores=cpu_s / seconds,
            loop_cores=loop_s / seconds if len(pids) == 1 else 0.0,
            rss_mib=sum(m.rss_mib for m in memories),
            pss_mib=sum(m.pss_mib for m in memories),
        )

    def _parts(self) -> dict[str, tuple[int, ...]]:
        parts: dict[str, tuple[int, ...]] = {"control": (self.control.pid,)}
        parts |= {a.name: (a.pid,) for a in self.agents}
        parts["clients"] = (os.getpid(),)
        if self.load.database_url:
            parts["postgresql"] = self._database_pids()
        return parts

    def _database_pids(self) -> tuple[int, ...]:
        query = text("SELECT pid FROM pg_stat_activity")
        pids = self.database.read_now(lambda tx: list(tx.execute(query).scalars()))
        return database_pids(pids)

    def _mark(self) -> _Mark:
        parts = self._parts()
        return _Mark(
            at_s=time.monotonic(),
            cpu_s={name: costs.cpu_of(pids) for name, pids in parts.items()},
            loop_s={
                name: sum(costs.main_thread_cpu_s(pid) for pid in pids)
                for name, pids in parts.items()
            },
            machine_s=costs.machine_cpu_s(),
            timed=len(self.client.timed),
        )

    async def _statements(self) -> float:
        with contextlib.suppress(CloudError):
            return await self.client.statements()
        return 0.0

    def database_mib(self) -> float:
        if self.load.database_url:
            query = text("SELECT pg_database_size(current_database())")
            size = self.database.read_now(lambda tx: int(tx.execute(query).scalar_one()))
            return size / 2**20
        folder = self.stage.settings.control_dir
        return sum(f.stat().st_size for f in folder.glob("cairn.db*")) / 2**20


def machine() -> Machine:
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return Machine(
        when=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        processor=models[0] if models else platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        kernel=platform.release(),
        load_before=os.getloadavg()[0],
        commit=_commit(),
    )


def _commit() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parent,
        )  # fmt: skip
        return done.stdout.strip()
    return ""

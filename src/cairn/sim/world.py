"""A cloud in a bottle: one control plane, some hosts, one seed.

    with World(seed=7, nodes=3) as world:
        world.run(seconds=60, always=ALWAYS)

The same seed gives the same history. What may go wrong (late and repeated reports, cut cables, dead
processes, hosts without power) is asked for by name; `weather.py` does it by dice.
"""

import asyncio
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from cairn.app import Cloud, CloudOptions
from cairn.core.ids import NodeId, SeededRandomness, ServerId
from cairn.db.engine import Database, Tx
from cairn.drivers.hypervisor.ether import Ether
from cairn.drivers.networks.fake import Fabric
from cairn.drivers.power.fake import Rack
from cairn.drivers.volumes.fake import SharedPool
from cairn.fleet import hosts
from cairn.fleet import service as fleet
from cairn.fleet.records import DEFAULT_ZONE, PowerAddress
from cairn.sim.client import Answer, request
from cairn.sim.link import Wire
from cairn.sim.loop import LoopClock, VirtualLoop
from cairn.sim.node import SimNode

T = TypeVar("T")
Check = Callable[["World"], Sequence[str]]
"""An invariant: what is wrong now, a line each."""

STEP_S = 0.5  # virtual time between two checks
ADMIN_PASSWORD = "simulated"  # noqa: S105 - of a world that nobody can reach


class Broken(AssertionError):
    """An invariant does not hold; the text says which, when, and how to see it again."""


class World:
    def __init__(
        self,
        *,
        seed: int,
        nodes: int = 3,
        delay_s_max: float = 0.2,
        repeats: float = 0.1,
        has_power: bool = False,
        has_shared_pool: bool = False,
    ) -> None:
        """`has_power`: hosts switch each other's; `has_shared_pool`: all hosts have one pool."""
        self.how = ""  # what else `cairn sim` must be told to play this history
        self.seed = seed
        self.dice = random.Random(seed)  # noqa: S311 - reproducible on purpose
        self.loop = VirtualLoop()
        self.clock = LoopClock(self.loop)
        self._delay_s_max = delay_s_max
        self._repeats = repeats
        self._folder = Path(tempfile.mkdtemp(prefix="cairn-sim-"))
        self.database = Database(
            "sqlite://", clock=self.clock, randomness=SeededRandomness(seed), inline=True
        )
        self.database.create_all()
        self.cloud: Cloud | None = None
        self._cloud_task: asyncio.Task[None] | None = None
        fabric = Fabric()
        self.rack = Rack() if has_power else None
        self.pool = SharedPool() if has_shared_pool else None
        self.ether = Ether(copy_s=3.0, pause_s=0.05)
        self.nodes = [
            SimNode(
                NodeId(f"node-{number}"),
                clock=self.clock,
                dice=self.dice,
                dial=self._dial,
                network=number == 0,
                fabric=fabric,
                shared=self.pool,
                rack=self.rack,
                ether=self.ether,
            )
            for number in range(nodes)
        ]
        self._wires: list[asyncio.Task[None]] = []
        self._token: str | None = None
        self.ended: set[ServerId] = set()  # guests that shut themselves down

    def __enter__(self) -> "World":
        asyncio.set_event_loop(self.loop)
        self.do(self._begin())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.do(self._end())
        self.loop.close()
        asyncio.set_event_loop(None)
        self.database.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def now_s(self) -> float:
        return self.loop.time()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the world go on until `work` is done."""
        return self.loop.run_until_complete(work)

    def run(self, *, seconds: float, always: Sequence[Check] = ()) -> None:
        """Let virtual time pass, looking at the invariants after each step."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.do(asyncio.sleep(min(STEP_S, end_s - self.now_s)))
            self.require(always)

    def until(
        self, is_so: Callable[[], bool], *, within_s: float, always: Sequence[Check] = ()
    ) -> None:
        """Let time pass until something is so; Broken if it is not in time."""
        end_s = self.now_s + within_s
        while not is_so():
            if self.now_s >= end_s:
                raise Broken(self.story(f"not so within {within_s} s: {is_so.__name__}"))
            self.run(seconds=STEP_S, always=always)

    def require(self, checks: Sequence[Check]) -> None:
        wrong = [line for check in checks for line in check(self)]
        if self.loop.faults:
            wrong += [str(f.get("exception") or f["message"]) for f in self.loop.faults]
        if wrong:
            raise Broken(self.story("; ".join(wrong)))

    async def call(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One API request, as the administrator unless a token is given. 503 while control is down."""
        if self.cloud is None:
            return Answer(status=503, headers={}, data=b"{}")
        app = self.cloud.shell.app
        sent = {"content-type": content_type, **(headers or {})}
        return await request(app, method, target, body, token=token or self._token, headers=sent)

    async def start_control(self) -> None:
        assert self.cloud is None
        self.cloud = Cloud(
            self.database,
            CloudOptions(control_dir=self._folder, clock=self.clock, admin_password=ADMIN_PASSWORD),
        )
        await self.cloud.start()
        self._cloud_task = asyncio.create_task(self.cloud.runner.run(), name="reconcilers")

    async def kill_control(self) -> None:
        """kill -9 of the control plane: only what was committed is left."""
        assert self.cloud is not None
        assert self._cloud_task is not None
        cloud, self.cloud = self.cloud, None
        self._cloud_task.cancel()
        for task in self._wires:
            task.cancel()
        await asyncio.gather(self._cloud_task, *self._wires, return_exceptions=True)
        self._wires.clear()
        for node in self.nodes:
            if node.wire is not None:
                node.wire.cut()
        await cloud.close()

    def _dial(self, node: SimNode) -> Wire | None:
        if self.cloud is None or node.is_cut_off:
            return None
        wire = Wire(self.dice, delay_s_max=self._delay_s_max, repeats=self._repeats)
        serve = self.cloud.streams.serve(wire.control_end, node.id)
        task = asyncio.create_task(_swallow(serve), name=f"stream {node.id}")
        self._wires.append(task)
        return wire

    async def _begin(self) -> None:
        await self.start_control()
        for node in self.nodes:
            await self._enrol(node)
            node.start_agent()
        self._token = await self.sign_in()

    async def _enrol(self, node: SimNode) -> None:
        def enrol(tx: Tx) -> None:
            fleet.enrol(tx, node.id, hostname=node.id, zone=DEFAULT_ZONE, roles=node.roles)
            if self.rack is not None:
                power = PowerAddress(driver="fake", address=node.id)
                hosts.arrange(tx, fleet.node(tx, node.id), hosts.Wish(power=power))

        await self.database.write(enrol)

    async def sign_in(self) -> str:
        """The administrator's token, by password, as a client would get it."""
        user = {"name": "admin", "domain": {"id": "default"}, "password": ADMIN_PASSWORD}
        project = {"name": "admin", "domain": {"id": "default"}}
        identity = {"methods": ["password"], "password": {"user": user}}
        body = {"auth": {"identity": identity, "scope": {"project": project}}}
        answer = await self.call("POST", "/identity/v3/auth/tokens", body)
        assert answer.status == 201, answer.data
        self._token = answer.headers["x-subject-token"]
        return self._token

    async def _end(self) -> None:
        for node in self.nodes:
            await node.close()
        if self.cloud is not None:
            await self.kill_control()

    def story(self, what: str) -> str:
        return (
            f"seed {self.seed} at {self.now_s:.1f} s: {what}\n"
            f"replay: cairn sim --seed {self.seed} --nodes {len(self.nodes)}{self.how}"
        )


async def _swallow(serving: Coroutine[Any, Any, None]) -> None:
    """A connection that ends badly ends; the control plane does not care why."""
    from cairn.core.errors import CloudError

    try:
        await serving
    except CloudError:
        return

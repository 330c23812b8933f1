"""The agent itself: one loop that looks, plans and acts, and one that keeps the control plane told.

It works from its ledger whether or not anybody is connected: after a reboot of the host it rebuilds
network, volumes and guests alone. Steps of different resources run side by side; those of one never do.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from cairn.agent import report as reports
from cairn.agent.act import Actor
from cairn.agent.health import PERIOD_S as HEALTH_PERIOD_S
from cairn.agent.health import HealthWatch, Offset
from cairn.agent.look import Drivers, View, look
from cairn.agent.plan import Boot, CutOff, RemoveGuest, Step, is_under_way, plan
from cairn.agent.troubles import Troubles
from cairn.core import log
from cairn.core.clock import Clock
from cairn.core.errors import CloudError
from cairn.core.ids import NetworkId, NodeId, ServerId
from cairn.core.tasks import TaskGroup
from cairn.wire.report import HealthSeen, HostFacts, NodeReport, digest_of
from cairn.wire.spec import NodeSpec, ZoneSpec

LOOK_PERIOD_S = 30.0  # even if no driver says that something changed
REPEAT_PAUSE_S = (
    1.0  # before a step that was done is done again: a guest that dies at once, an engine that lies
)
PROGRESS_PERIOD_S = 2.0  # while a guest is being sent: how far it is
ZONE_PERIOD_S = 60.0  # the logical network is compared again, in case somebody changed it by hand

_log = log.get("agent")


class KeepsSpec(Protocol):
    def load(self) -> NodeSpec | None: ...

    def save(self, spec: NodeSpec) -> None: ...

    def is_confirmed(self) -> bool:
        """Whether `confirm` was called since the host booted."""
        ...

    def confirm(self) -> None: ...


class Agent:
    """One host. `run` until cancelled; `accept` wishes; `on_report` is called with each new report."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        drivers: Drivers,
        actor: Actor,
        served_metadata: Callable[[], frozenset[NetworkId]],
        ledger: KeepsSpec,
        clock: Clock,
        facts: Callable[[], HostFacts],
        health: HealthWatch | None = None,
    ) -> None:
        self.node_id = node_id
        self.drivers = drivers
        self._actor = actor
        self._served_metadata = served_metadata
        self._ledger = ledger
        self._clock = clock
        self._facts = facts
        self._health = health
        self._health_seen: tuple[HealthSeen, ...] = ()
        self._want = ledger.load()
        self._is_confirmed = ledger.is_confirmed()
        self._is_told = False
        self._have = View()
        self._looked_number = 0  # of the spec that was known when the last look began
        self._restless: frozenset[str] = frozenset()  # steps under way during that look
        self._busy: dict[str, Step] = {}
        self._ended_while_looking: set[str] = set()
        self._done: dict[str, tuple[Step, float]] = {}  # the last step of each resource, and when
        self._repeats_at_s: float | None = None  # the earliest step that waits for its repetition
        self._troubles = Troubles()
        self._stopping_since_s: dict[ServerId, float] = {}
        self._look_now = asyncio.Event()
        self._tasks = TaskGroup()
        self._zone_compared_s = 0.0
        self.has_looked = False
        self.on_report: Callable[[], None] | None = None

    @property
    def want(self) -> NodeSpec | None:
        return self._want

    def nudge(self) -> None:
        """Look now: something may have changed."""
        self._look_now.set()

    def accept(self, spec: NodeSpec) -> bool:
        """Take new wishes; False for older ones, which a late message may bring."""
        if self._want is not None and spec.number < self._want.number:
            _log.warning("older spec ignored", number=spec.number, known=self._want.number)
            return False
        if spec != self._want:
            self._ledger.save(spec)
            self._want = spec
            self._troubles.forgive()
        self.nudge()
        return True

    def confirm(self, number: int) -> None:
        """The control plane says that the spec of this number is what should be, now.

        It holds until the host reboots: what was running may have been started elsewhere only after this
        host was fenced, and nothing but a boot starts a guest that was ended from outside."""
        if self._want is None or self._want.number != number:
            return  # A late word about something older.
        if not self._is_confirmed:
            self._ledger.confirm()
            self._is_confirmed = True
        self._is_told = True
        self.nudge()

    async def run(self) -> None:
        """Bring up the engines, then look, plan and act until cancelled."""
        try:
            if self._health is not None:
                self._tasks.start(self._watch_health(self._health), name="health")
            await self._start_drivers()
            while True:
                self._look_now.clear()
                await self._round()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._rest_s()):
                        await self._look_now.wait()
        finally:
            await self._tasks.close()
            await self.drivers.hypervisor.close()
            await self.drivers.networks.close()

    def report(self, number: int) -> NodeReport:
        """What there is to tell now."""
        told = reports.report(
            self._want or NodeSpec(node_id=self.node_id, number=0),
            self._have,
            number=number,
            facts=self._facts(),
            trouble_of=self._troubles.get,
            applied_zone_number=self._actor.applied_zone_number,
            health=self._health_seen,
            looked_number=self._looked_number,
            restless=self._restless,
        )
        return msgspec.structs.replace(told, digest=digest_of(told))

    @property
    def now_s(self) -> float:
        """The host's clock, seconds since the epoch."""
        return self._clock.now().timestamp()

    def note_clock(self, told_s: float, *, asked_s: float) -> None:
        """The control plane's clock said `told_s`, some time between `asked_s` on ours and now."""
        if self._health is not None:
            round_trip_s = self.now_s - asked_s
            middle_s = asked_s + round_trip_s / 2
            uncertain_s = abs(round_trip_s) / 2
            self._health.offset = Offset(seconds=told_s - middle_s, uncertain_s=uncertain_s)

    async def _watch_health(self, health: HealthWatch) -> None:
        """Disks may take seconds to answer, so a thread asks them. A broken look spoils one look only."""
        while True:
            try:
                self._health_seen = await asyncio.to_thread(health)
            except Exception:
                _log.exception("look at the host's health broke")
            else:
                if self.on_report is not None:
                    self.on_report()
            await asyncio.sleep(HEALTH_PERIOD_S)

    async def _start_drivers(self) -> None:
        """Each engine as soon as it can; one that fails is tried again and does not hold up the others."""
        starts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("volumes", self.drivers.volumes.start),
            ("hypervisor", lambda: self.drivers.hypervisor.start(self.nudge)),
            ("networks", lambda: self.drivers.networks.start(self.nudge)),
        ]
        await asyncio.gather(*(self._start_driver(name, start) for name, start in starts))

    async def _start_driver(self, name: str, start: Callable[[], Awaitable[None]]) -> None:
        key = f"engine:{name}"
        while True:
            try:
                await start()
            except CloudError as error:
                trouble = self._note_trouble(key, error)
                _log.error("engine does not start", engine=name, tries=trouble, error=str(error))
                await asyncio.sleep(min(2.0**trouble, 30.0))
            else:
                self._troubles.clear(key)
                return

    def _note_trouble(self, key: str, error: Exception) -> int:
        now_s = asyncio.get_running_loop().time()
        epoch_s = self._clock.now().timestamp()
        return self._troubles.add(key, error, now_s=now_s, epoch_s=epoch_s).tries

    async def _round(self) -> None:
        """One look and the steps that follow from it. A driver that cannot look now spoils one round only."""
        self._ended_while_looking.clear()
        number = self._want.number if self._want is not None else 0
        try:
            seen = await look(self.drivers, self._served_metadata())
        except CloudError as error:
            _log.warning("look failed", error=str(error))
            return
        self._have = msgspec.structs.replace(
            seen,
            is_confirmed=self._is_confirmed,
            is_told=self._is_told,
            machines=dict(self._actor.machines),
            doors=dict(self._actor.doors),
        )
        self._looked_number = number
        self._restless = frozenset(self._busy.keys() | self._ended_while_looking)
        self.has_looked = True
        self._note_stopping()
        if self._want is not None:
            self._start_steps(self._want)
        if self.on_report is not None:
            self.on_report()

    def _start_steps(self, want: NodeSpec) -> None:
        now_s = asyncio.get_running_loop().time()
        steps = plan(
            want,
            self._have,
            applied_zone=self._applied_zone(now_s),
            stopping_s={g: now_s - since for g, since in self._stopping_since_s.items()},
        )
        # What ended while we looked may have been seen as it was before: the next round decides.
        occupied = self._busy.keys() | self._ended_while_looking
        self._repeats_at_s = None
        for step in steps:
            if step.key in occupied or self._troubles.must_wait(step.key, now_s):
                continue
            if not self._must_pause(step, now_s):
                self._busy[step.key] = step
                self._tasks.start(self._perform(step), name=step.key)
        planned = {s.key for s in steps}
        self._forget_stale_troubles(want, planned)
        for key, (_, done_s) in list(self._done.items()):
            if now_s >= done_s + REPEAT_PAUSE_S:
                del self._done[key]

    def _must_pause(self, step: Step, now_s: float) -> bool:
        """Whether this very step was done a moment ago and is wanted again all the same."""
        last, done_s = self._done.get(step.key, (None, 0.0))
        if last != step or now_s >= done_s + REPEAT_PAUSE_S:
            return False
        at_s = done_s + REPEAT_PAUSE_S
        self._repeats_at_s = min(self._repeats_at_s or at_s, at_s)
        return True

    def _applied_zone(self, now_s: float) -> ZoneSpec | None:
        """The zone as written last; None now and then, so that it is compared with the engine again."""
        if now_s - self._zone_compared_s >= ZONE_PERIOD_S:
            self._zone_compared_s = now_s
            return None
        return self._actor.applied_zone

    async def _perform(self, step: Step) -> None:
        try:
            await self._actor.act(step)
        except CloudError as error:
            tries = self._note_trouble(step.key, error)
            _log.warning(
                "step failed", step=type(step).__name__, key=step.key, tries=tries, error=str(error)
            )
        except Exception as error:  # The top of a task: a bug in one step must not stop the host.
            self._note_trouble(step.key, error)
            _log.exception("step broke", step=type(step).__name__, key=step.key)
        else:
            self._troubles.clear(step.key)
            self._done[step.key] = (step, asyncio.get_running_loop().time())
            _log.info("step done", step=type(step).__name__, key=step.key)
            if isinstance(step, Boot | CutOff | RemoveGuest):
                self._stopping_since_s.pop(step.guest_id, None)
        finally:
            del self._busy[step.key]
            self._ended_while_looking.add(step.key)
            self.nudge()

    def _note_stopping(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for guest in self._have.guests.values():
            if guest.running and guest.stopping:
                self._stopping_since_s.setdefault(guest.id, now_s)
            else:
                self._stopping_since_s.pop(guest.id, None)

    def _forget_stale_troubles(self, want: NodeSpec, planned: set[str]) -> None:
        """A trouble lasts while its resource is wished for or still being worked on."""
        wished = {f"guest:{g.id}" for g in want.guests}
        wished |= {f"volume:{v.id}" for v in want.volumes}
        wished |= {f"image:{i.id}" for i in want.images}
        wished |= {f"port:{p.id}" for p in want.ports}
        wished |= {f"metadata:{n.network_id}" for n in want.metadata_networks}
        wished |= {f"power:{m.node_id}" for m in want.machines}
        wished |= {f"door:{d.node_id}" for d in want.doors}
        self._troubles.keep(wished | planned | set(self._busy) | {"zone"})

    def _rest_s(self) -> float:
        """Until the next thing that time alone brings: a retry, the end of a guest's grace, or the period."""
        now_s = asyncio.get_running_loop().time()
        rest_s = LOOK_PERIOD_S
        for at_s in (self._troubles.next_try_s(), self._repeats_at_s):
            if at_s is not None and at_s > now_s:
                rest_s = min(rest_s, at_s - now_s)
        if any(is_under_way(guest) for guest in self._have.guests.values()):
            rest_s = min(rest_s, PROGRESS_PERIOD_S)
        if self._want is not None:
            for guest in self._want.guests:
                since_s = self._stopping_since_s.get(guest.id)
                if since_s is not None:
                    rest_s = min(rest_s, max(since_s + guest.stop_grace_s - now_s, 0.05))
        return rest_s

"""A guest's way to another host, as its QEMU goes it: first the disks, then the memory, then the switch.

Each private disk is mirrored to an NBD export of the receiver, where from then on every write goes to both
hosts before the guest hears of it; then the memory is copied while the guest runs. In the end QEMU stops the
guest and waits (`pause-before-switchover`) until the mirrors are closed, sends the rest, and is told by the
receiver that all of it could be loaded (`return-path`). Until that moment a failure costs nothing: the
guest runs on here. A guest that is stopped goes the same way, in a QEMU that has its disks and no machine.

`run` looks and does what is next, from whatever point it finds; so an agent that dies in the middle is
followed by one that goes on. From `Stage.SWITCH` on the guest may run there: nothing here may start it
again but QEMU itself, which knows.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from cairn.core import log
from cairn.core.errors import Unavailable
from cairn.core.ids import VolumeId
from cairn.drivers.hypervisor import qmp
from cairn.drivers.hypervisor.process import Process
from cairn.drivers.hypervisor.record import Departure, Stage

KEY = "key"  # of the QEMU object that holds the migration's key
CAPABILITIES = ("events", "pause-before-switchover", "return-path", "auto-converge")

REACH_S_MAX = 4.0
LOOK_S = 0.5  # between looks when nothing is heard
TELL_S = 1.0  # between two words about progress
STALLED_S_MAX = 20.0  # without a byte going over
DISK_STALLED_MS_MAX = 5_000  # the guest's own writes wait as long for a receiver that is gone
SWITCH_S_MAX = 60.0  # after which even a guest that may run there can be called back
PAUSE_MS_FIRST, PAUSE_MS_LAST, PAUSE_GROWS_S = 50, 1_600, 10.0
UNDO_S_MAX = 4.0
DAY_MS = 86_400_000

_CONCLUDED = "concluded"
_log = log.get("hypervisor")


class Job(Struct, frozen=True):
    """A mirror of a disk."""

    status: str
    done: int
    total: int
    error: str


class Seen(Struct, frozen=True, kw_only=True):
    """One look at a QEMU that sends."""

    status: str  # of the migration: QMP's MigrationStatus, "none" before the first
    why: str
    jobs: Mapping[VolumeId, Job | None]
    sent_bytes: int
    memory_total: int
    memory_left: int
    pause_ms: int

    @property
    def progress(self) -> tuple[object, ...]:
        disks = sum(job.done for job in self.jobs.values() if job is not None)
        return disks, self.sent_bytes, self.status


class _Failed(Exception):
    """The guest stays here; in words for its owner."""


class Sender:
    """Sends one guest. `nodes` are its private disks by volume; `ask` gives its QMP connection; `note` takes
    what is to be kept of how far it is."""

    def __init__(
        self,
        departure: Departure,
        *,
        nodes: Mapping[VolumeId, str],
        process: Process,
        ask: Callable[[], Awaitable[qmp.Monitor]],
        note: Callable[[Departure], None],
    ) -> None:
        self.departure = departure
        self._nodes = nodes
        self._process = process
        self._ask = ask
        self._note = note
        self._stirred = asyncio.Event()
        self._is_patient = False
        self._stands_still = False  # QEMU has just said so: each look would make it longer
        self._is_called_back = False
        self._stage_since = asyncio.get_running_loop().time()
        self._progress: tuple[object, ...] = ()
        self._progress_since = self._stage_since
        self._told = self._stage_since
        self._pause_ms = PAUSE_MS_FIRST

    def stir(self, status: str = "") -> None:
        """Something happened; `status` is what QEMU said of it."""
        self._stands_still |= status == "pre-switchover"
        self._stirred.set()

    def call_back(self) -> None:
        """The guest is to stay, if it still can."""
        self._is_called_back = True
        self.stir()

    @property
    def may_run_there(self) -> bool:
        """Whether calling back must wait for the end."""
        if self.departure.stage is not Stage.SWITCH:
            return False
        return asyncio.get_running_loop().time() - self._stage_since < SWITCH_S_MAX

    # --- beginning ---------------------------------------------------------------------------------

    async def begin(self, key_dir: Path) -> None:
        """Start the mirrors. Raises nothing that belongs to the journey: `run` sees to it."""
        way = self.departure
        try:
            await self._require_reachable()
            monitor = await self._ask()
            await self._drop(monitor, "object-del", {"id": KEY})
            await monitor.execute(
                "object-add",
                {
                    "qom-type": "tls-creds-psk",
                    "id": KEY,
                    "endpoint": "client",
                    "dir": str(key_dir),
                    "username": way.migration_id,
                },
            )
            for door in way.doors:
                await self._mirror(monitor, door.volume_id, door.port, door.export)
            for ours in self._connections({door.port for door in way.doors}):
                ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DISK_STALLED_MS_MAX)
        except (qmp.Refused, Unavailable, _Failed) as error:
            await self._turn_back(f"the other host could not be reached: {_words(error)}")

    async def _require_reachable(self) -> None:
        """Asked here first, for QEMU would stand still, guest and all, while nobody answers."""
        way = self.departure
        for port in {door.port for door in way.doors}:
            try:
                async with asyncio.timeout(REACH_S_MAX):
                    _, writer = await asyncio.open_connection(way.address, port)
                writer.close()
            except (OSError, TimeoutError) as error:
                raise _Failed(
                    f"nobody answers at {way.address} port {port} ({type(error).__name__})"
                ) from error

    async def _mirror(
        self, monitor: qmp.Monitor, volume_id: VolumeId, port: int, export: str
    ) -> None:
        way = self.departure
        await monitor.execute(
            "blockdev-add",
            {
                "node-name": _target(volume_id),
                "driver": "nbd",
                "server": {"type": "inet", "host": way.address, "port": str(port)},
                "export": export,
                "tls-creds": KEY,
            },
        )
        await monitor.execute(
            "blockdev-mirror",
            {
                "job-id": _job(volume_id),
                "device": self._nodes[volume_id],
                "target": _target(volume_id),
                "sync": "full",
                "copy-mode": "write-blocking",
                "auto-dismiss": False,  # its end can be read by whoever comes later
                "speed": way.bandwidth_mib_s << 20,
            },
        )

    def give_up(self, why: str) -> None:
        """Before anything was begun."""
        self.departure = replace(self.departure, stage=Stage.FAILED, trouble=why)

    # --- on the way --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Returns when the guest is there, or stays here, or its process is gone."""
        while self.departure.is_under_way and not self._process.is_gone:
            self._stirred.clear()
            try:
                if self._stands_still and self.departure.stage is Stage.STATE:
                    await self._switch()
                seen = await self._look(await self._ask())
                self._tell(seen)
                await self._advance(seen)
            except _Failed as failed:
                await self._turn_back(str(failed))
            except qmp.Refused as error:
                await self._turn_back(f"the hypervisor refused it: {error.words}")
            except Unavailable as error:
                _log.warning("a guest on its way does not answer", why=error.because)
            await self._pause()

    async def _pause(self) -> None:
        if self.departure.is_under_way:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._stirred.wait()

    async def _advance(self, seen: Seen) -> None:
        if self._is_called_back and not self.may_run_there:
            raise _Failed("the migration was cancelled")
        match self.departure.stage:
            case Stage.DISKS:
                self._require_mirrors(seen)
                self._require_progress(seen)
                if all(job is not None and job.status == "ready" for job in seen.jobs.values()):
                    await self._send_state()
            case Stage.STATE:
                await self._follow_state(seen)
            case Stage.SWITCH:
                await self._await_word(seen)

    async def _send_state(self) -> None:
        way = self.departure
        monitor = await self._ask()
        states = [{"capability": name, "state": True} for name in CAPABILITIES]
        await monitor.execute("migrate-set-capabilities", {"capabilities": states})
        await monitor.execute(
            "migrate-set-parameters",
            {
                "tls-creds": KEY,
                "downtime-limit": PAUSE_MS_FIRST,
                "max-bandwidth": (way.bandwidth_mib_s or 1 << 14) << 20,
            },
        )
        self._enter(Stage.STATE)
        await monitor.execute("migrate", {"uri": f"tcp:{way.address}:{way.memory_port}"})

    async def _follow_state(self, seen: Seen) -> None:
        if seen.status == "pre-switchover":
            await self._switch()
        elif seen.status in ("none", "failed", "cancelled", "completed"):
            raise _Failed(f"the connection to the other host ended{_because(seen.why)}")
        else:
            self._require_mirrors(seen)
            self._require_progress(seen)
            if not self._is_patient:
                self._be_patient()
            await self._hurry()

    def _be_patient(self) -> None:
        """The kernel would give up in its own time, and QEMU then start the guest here, wherever it runs."""
        for ours in self._connections({self.departure.memory_port}):
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DAY_MS)
            self._is_patient = True

    async def _hurry(self) -> None:
        """A guest that writes its memory faster than the network carries it may pause longer, by and by."""
        elapsed_s = asyncio.get_running_loop().time() - self._stage_since
        wanted = PAUSE_MS_FIRST << min(int(elapsed_s / PAUSE_GROWS_S), 10)
        if (wanted := min(wanted, PAUSE_MS_LAST)) > self._pause_ms:
            self._pause_ms = wanted
            monitor = await self._ask()
            await monitor.execute("migrate-set-parameters", {"downtime-limit": wanted})

    async def _switch(self) -> None:
        """The guest stands still: close the mirrors, then let the rest go over."""
        monitor = await self._ask()
        for volume_id in self._nodes:  # Those that an earlier agent closed say no.
            await self._drop(monitor, "block-job-cancel", {"device": _job(volume_id)})
        jobs = await self._until_concluded(monitor)
        for job in jobs.values():
            if job is None or job.status != _CONCLUDED or job.error:
                raise _Failed("the last writes did not reach the other host")
        if not self._is_patient:
            self._be_patient()
        self._enter(Stage.SWITCH)
        await monitor.execute("migrate-continue", {"state": "pre-switchover"})

    async def _await_word(self, seen: Seen) -> None:
        if seen.status == "completed":
            self.departure = replace(
                self.departure, stage=Stage.DONE, left_bytes=0, pause_ms=seen.pause_ms
            )
        elif seen.status in ("none", "failed", "cancelled"):
            raise _Failed(
                f"the other host could not take it, or the connection ended{_because(seen.why)}"
            )
        elif seen.status == "pre-switchover":  # An agent died right before.
            with contextlib.suppress(qmp.Refused):
                monitor = await self._ask()
                await monitor.execute("migrate-continue", {"state": "pre-switchover"})

    def _enter(self, stage: Stage) -> None:
        self.departure = replace(self.departure, stage=stage)
        self._stage_since = asyncio.get_running_loop().time()
        self._progress_since = self._stage_since
        self._note(self.departure)

    def _tell(self, seen: Seen) -> None:
        now = asyncio.get_running_loop().time()
        if seen.progress != self._progress:
            self._progress, self._progress_since = seen.progress, now
        jobs = [job for job in seen.jobs.values() if job is not None]
        way = self.departure
        memory = seen.memory_total or way.memory_bytes
        left = seen.memory_left if seen.memory_total else way.memory_bytes
        self.departure = replace(
            way,
            total_bytes=sum(job.total for job in jobs) + memory,
            left_bytes=sum(job.total - job.done for job in jobs) + left,
        )
        if now - self._told >= TELL_S:
            self._told = now
            self._note(self.departure)

    def _require_mirrors(self, seen: Seen) -> None:
        for volume_id, job in seen.jobs.items():
            if job is None or job.status in ("aborting", _CONCLUDED, "null"):
                why = job.error if job is not None else "it was interrupted"
                raise _Failed(f"volume {volume_id} could not be copied{_because(why)}")
        # A mirror that has nothing to do at the moment would not notice.
        standing = len(list(self._connections({door.port for door in self.departure.doors})))
        if standing < len(self.departure.doors):
            raise _Failed("the connection to the other host ended")

    def _require_progress(self, seen: Seen) -> None:
        if asyncio.get_running_loop().time() - self._progress_since > STALLED_S_MAX:
            raise _Failed(f"nothing went over for {STALLED_S_MAX:.0f} s")

    # --- back --------------------------------------------------------------------------------------

    async def _turn_back(self, why: str) -> None:
        """Everything as it was before, unless it was too late."""
        try:
            monitor = await self._ask()
            if await self._withdraw(monitor):
                return
            await self._drop_mirrors(monitor)
            await self._drop(monitor, "object-del", {"id": KEY})
            status = (await monitor.execute("query-status"))["status"]
            if self.departure.memory_bytes and status in (
                "paused",
                "finish-migrate",
                "postmigrate",
            ):
                await monitor.execute("cont")
        except (Unavailable, qmp.Refused) as error:
            if not self._process.is_gone:
                _log.error("a guest was not called back cleanly", why=str(error))
        self.give_up(why)

    async def _withdraw(self, monitor: qmp.Monitor) -> bool:
        """End the migration; True: it had come through all the same."""
        if self.departure.stage is Stage.DISKS:
            return False
        await self._drop(monitor, "migrate_cancel", {})
        async with asyncio.timeout(UNDO_S_MAX * 2):
            while True:
                seen = await self._look(monitor)
                if seen.status == "completed" and self.departure.stage is Stage.SWITCH:
                    await self._await_word(seen)
                    return True
                if seen.status in ("none", "failed", "cancelled", "completed"):
                    return False
                await asyncio.sleep(0.02)

    async def _drop_mirrors(self, monitor: qmp.Monitor) -> None:
        for volume_id in self._nodes:
            arguments = {"device": _job(volume_id), "force": True}
            await self._drop(monitor, "block-job-cancel", arguments)
        jobs = await self._until_concluded(monitor)
        if any(job is not None and job.status != _CONCLUDED for job in jobs.values()):
            # A request hangs on a host that is gone. Nothing but the end of its connection ends it.
            ports = {door.port for door in self.departure.doors}
            for ours in self._connections(ports):
                ours.shutdown(socket.SHUT_RDWR)
            await self._until_concluded(monitor)
        for volume_id in self._nodes:
            await self._drop(monitor, "job-dismiss", {"id": _job(volume_id)})
            await self._drop(monitor, "blockdev-del", {"node-name": _target(volume_id)})

    async def _until_concluded(self, monitor: qmp.Monitor) -> Mapping[VolumeId, Job | None]:
        """The mirrors when all have ended, or as they are when time is up."""
        deadline = asyncio.get_running_loop().time() + UNDO_S_MAX
        while True:
            self._stirred.clear()
            jobs = await self._jobs(monitor)
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or all(j is None or j.status == _CONCLUDED for j in jobs.values()):
                return jobs
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_S)):
                    await self._stirred.wait()

    def _connections(self, ports: set[int]) -> Iterator[socket.socket]:
        """Those of the guest's process to the other host."""
        for ours in self._process.connections():
            if ours.getpeername()[1] in ports and ours.getpeername()[0] == self.departure.address:
                yield ours

    # --- looking -----------------------------------------------------------------------------------

    async def _look(self, monitor: qmp.Monitor) -> Seen:
        jobs = await self._jobs(monitor)
        state: dict[str, Any] = await monitor.execute("query-migrate")
        memory = state.get("ram", {})
        return Seen(
            status=state.get("status", "none"),
            why=state.get("error-desc", ""),
            jobs=jobs,
            sent_bytes=memory.get("transferred", 0),
            memory_total=memory.get("total", 0),
            memory_left=memory.get("remaining", 0),
            pause_ms=state.get("downtime", 0),
        )

    async def _jobs(self, monitor: qmp.Monitor) -> Mapping[VolumeId, Job | None]:
        found = {job["id"]: job for job in await monitor.execute("query-jobs")}
        return {volume_id: _found(found.get(_job(volume_id))) for volume_id in self._nodes}

    async def _drop(self, monitor: qmp.Monitor, verb: str, arguments: Mapping[str, object]) -> None:
        with contextlib.suppress(qmp.Refused):
            await monitor.execute(verb, arguments)


def _found(job: Mapping[str, Any] | None) -> Job | None:
    if job is None:
        return None
    return Job(job["status"], job["current-progress"], job["total-progress"], job.get("error", ""))


def _job(volume_id: VolumeId) -> str:
    return f"send-{volume_id}"


def _target(volume_id: VolumeId) -> str:
    return f"t{volume_id.replace('-', '')[:24]}"


def _because(words: str) -> str:
    return f": {words}" if words else ""


def _words(error: Exception) -> str:
    return (isinstance(error, Unavailable) and error.because) or str(error)

"""One guest: its process, its QMP connection, and the verbs on it.

Truth has three places, and each is asked only for what it alone knows: the kernel whether the process
lives, QEMU which devices it has, the record which boot this is and who asked for its end. Every verb
first writes down what it is about to do and can be done again from any point, so an agent that dies in
the middle leaves nothing that its successor cannot finish.

Callbacks (events, death) only note what happened; nothing in them waits.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cairn.core import log
from cairn.core.errors import CloudError, Unavailable
from cairn.drivers.contracts import BlockNode, GuestView, Reception, Sending, Tap
from cairn.drivers.hypervisor import command, console, keys, process, qmp, receiver
from cairn.drivers.hypervisor.devices import Devices
from cairn.drivers.hypervisor.machine import ADOPT_S_MAX, Host, devices_of, drives_of, new_record
from cairn.drivers.hypervisor.moves import Moves
from cairn.drivers.hypervisor.record import (
    Fate,
    Stage,
    host_boot,
)
from cairn.wire.spec import GuestSpec

__all__ = ["Guest", "Host"]

CHORES_S_MAX = 0.5

_log = log.get("hypervisor")


class Guest(Devices, Moves):
    """A guest that runs here or left a record; without a record it is about to be booted."""

    # --- looking ---------------------------------------------------------------------------------

    def view(self) -> GuestView | None:
        """None while there is nothing to show: before the first boot has succeeded."""
        known = self.record
        if known is None or known.fate == Fate.BOOTING:
            return None
        is_here = self.is_running or (known.fate == Fate.RECEIVING and self._process is not None)
        here = self._devices if is_here else set()
        return GuestView(
            id=known.id,
            incarnation=known.incarnation,
            boot_number=known.boot_number,
            running=self.is_running,
            stopping=self.is_running and known.fate == Fate.STOPPING,
            crashed=known.fate == Fate.CRASHED,
            ended=known.fate == Fate.ENDED,
            disks=tuple(d.volume_id for d in known.disks if command.disk_id(d.volume_id) in here),
            nics=tuple(n.port_id for n in known.nics if command.nic_id(n.port_id) in here),
            reception=self._reception() if known.fate == Fate.RECEIVING else None,
            sending=self._sending_view(),
        )

    def _reception(self) -> Reception | None:
        known = self.record.arrival if self.record is not None else None
        if known is None:
            return None
        return Reception(
            migration_id=known.migration_id,
            memory_port=known.memory_port,
            disks=known.doors,
            trouble=known.trouble,
        )

    def _sending_view(self) -> Sending | None:
        known = self._sender.departure if self._sender is not None else None
        if known is None and self.record is not None:
            known = self.record.departure
        if known is None:
            return None
        return Sending(
            migration_id=known.migration_id,
            total_bytes=known.total_bytes,
            left_bytes=known.left_bytes,
            pause_ms=known.pause_ms,
            # Not before it is written down: until then a crash of this host might still start it here.
            done=self.record is not None and self.record.fate == Fate.SENT,
            trouble=known.trouble,
        )

    async def keep(self) -> None:
        """The small chores: cut the logs short, let a guest whose disk was full try again, and
        close what it let go of too late for the verb that asked, or never quite got."""
        self._home.trim()
        if self.record is not None and self.record.fate == Fate.RECEIVING and self._process:
            with contextlib.suppress(CloudError, qmp.Refused, TimeoutError):
                async with asyncio.timeout(CHORES_S_MAX):
                    if await receiver.has_come(await self._qmp()):
                        self._has_come()
            return
        if not self.is_running or not self._has_told or self.lock.locked():
            return
        if self.record is not None and self.record.is_on_its_way:
            return  # It may stand still for another reason than its disk.
        with contextlib.suppress(CloudError, qmp.Refused, TimeoutError):
            async with self.lock, asyncio.timeout(CHORES_S_MAX):
                if self._is_stalled:
                    await (await self._qmp()).execute("cont")
                await self._forget_strays()

    def console_log(self, lines: int | None) -> bytes:
        return console.tail(self._home.console_log, lines)

    @property
    def vnc_socket(self) -> Path:
        return self._home.vnc_socket

    # --- from nothing to running, and back ---------------------------------------------------------

    async def boot(
        self,
        spec: GuestSpec,
        uid: int,
        nodes: Sequence[BlockNode],
        taps: Sequence[Tap],
        config_drive: bytes | None,
    ) -> None:
        """See the contract. When it fails, the record is the earlier one again, or none."""
        if self._process is not None:  # It powered off and is about to go.
            await self._process.end()
        self._sender = None
        earlier = self.record
        places = command.layout(spec)
        drives = drives_of(spec, nodes, places)
        nics = [(places[t.port_id], t) for t in taps]
        self.record = new_record(spec, uid, drives, nics)
        try:
            monitor = await self._start(spec, drives, nics, config_drive)
            await self._let_run(monitor, spec, drives)
        except BaseException:
            await self._undo_boot(earlier)
            raise

    async def _let_run(
        self, monitor: qmp.Monitor, spec: GuestSpec, drives: Sequence[command.Drive]
    ) -> None:
        assert self.record is not None and self._process is not None
        try:
            await monitor.execute("cont")
        except (Unavailable, qmp.Refused) as error:
            raise await self._explained(spec, drives, error) from error
        self._devices = devices_of(self.record)
        self._has_told = True
        self._is_stalled = False
        self._save(msgspec.structs.replace(self.record, fate=Fate.RUNNING))
        self._host.tasks.start(self._follow(self._process), name=f"guest {spec.id}")

    async def adopt(self, pid: int) -> None:
        """Take over a process that an earlier agent started."""
        assert self.record is not None
        found = self._process = process.Process(pid, self._gone)
        if self.record.fate == Fate.BOOTING:
            await self._undo_boot(None)
        elif self.is_running or self.record.fate == Fate.RECEIVING or self.record.is_on_its_way:
            self._devices = devices_of(self.record)
            try:
                self._monitor = await self._connect(ADOPT_S_MAX)
                await self._ask_state(self._monitor)
            except Unavailable as error:
                _log.warning("guest does not answer yet", guest=self.record.id, why=str(error))
            self._host.tasks.start(self._follow(found), name=f"guest {self.record.id}")
            if self.record.is_on_its_way:
                self._go_on_sending(self._make_sender(found))
            if self.record.fate == Fate.RECEIVING:
                self._watch_sender(found)
        else:  # The earlier agent died between writing the end down and ending it.
            await found.end()

    async def find_dead(self) -> None:
        """No process was found: what ran crashed with the host, what was half booted never was."""
        assert self.record is not None
        if self.record.fate == Fate.BOOTING:
            await self._undo_boot(None)
        elif (
            self.record.fate in (Fate.RUNNING, Fate.STOPPING)
            or self.record.disks
            or self.record.is_on_its_way
        ):
            departure = self.record.departure
            if (
                departure is not None
                and departure.stage is Stage.STATE
                and departure.host_boot != host_boot()
            ):
                # What was written of its last moments may have been lost with the host.
                at_worst = msgspec.structs.replace(departure, stage=Stage.SWITCH)
                self.record = msgspec.structs.replace(self.record, departure=at_worst)
            self._gone()

    async def shut_down(self) -> None:
        if self.is_running:
            assert self.record is not None
            self._save(msgspec.structs.replace(self.record, fate=Fate.STOPPING))
            await (await self._qmp()).execute("system_powerdown")

    async def cut_off(self) -> None:
        if self.record is not None and self.record.fate not in (
            Fate.ENDED,
            Fate.SENT,
            Fate.UNSURE,
        ):
            self._save(msgspec.structs.replace(self.record, fate=Fate.STOPPED))
        if self._process is not None:
            await self._process.end()

    async def reset(self) -> None:
        self._require_running()
        await (await self._qmp()).execute("system_reset")

    async def remove(self) -> None:
        """Afterwards nothing of the guest is on this host but its volumes, which are root's."""
        await self.cut_off()
        await self._hang_up()
        keys.remove(self._host.keys_dir, self._home.id)
        self._home.remove()
        self.record = None

    async def let_go(self) -> None:
        """Stop watching; the guest goes on."""
        if self._process is not None:
            self._process.let_go()
        await self._hang_up()

"""A guest's process: how it starts, what QEMU says of it, and what its end makes of its record.

What a guest can do besides lies above: `devices` plugs and unplugs, `moves` takes it to another host and
from there. Callbacks (events, death) only note what happened; nothing in them waits.
"""

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from cairn.core import log
from cairn.core.errors import CloudError, Conflict, NotFound, Unavailable
from cairn.core.tasks import TaskGroup, first_to_end
from cairn.drivers.contracts import BlockNode, Tap
from cairn.drivers.hypervisor import command, keys, process, qmp, receiver, tap, uids, why
from cairn.drivers.hypervisor.home import Home
from cairn.drivers.hypervisor.record import (
    Fate,
    GuestRecord,
    Layer,
    PluggedDisk,
    PluggedNic,
    Stage,
)
from cairn.drivers.hypervisor.sender import Sender
from cairn.wire.spec import DiskSpec, GuestSpec

BOOT_S_MAX = 25.0
ADOPT_S_MAX = 5.0
RECONNECT_S = 1.0

_log = log.get("hypervisor")


class Host(Struct, frozen=True, kw_only=True):
    """What all guests of this host share."""

    engine: command.Engine
    uids: uids.UidRange
    groups: tuple[int, ...]
    address: str  # where other hosts' guests come in
    keys_dir: Path
    tasks: TaskGroup
    changed: Callable[[], None]


class Machine(ABC):
    """The process of one guest, its QMP connection and its record."""

    def __init__(self, home: Home, host: Host, earlier: GuestRecord | None = None) -> None:
        self.record = earlier
        self.lock = asyncio.Lock()  # one verb at a time
        self._home = home
        self._host = host
        self._process: process.Process | None = None
        self._monitor: qmp.Monitor | None = None
        self._connecting = asyncio.Lock()  # QEMU serves one client at a time
        self._devices: set[str] = set()  # ids of the disks and NICs that QEMU has
        self._has_told = False  # whether that is QEMU's word, or taken from the record
        self._device_gone = asyncio.Event()
        self._is_stalled = False
        self._sender: Sender | None = None
        self._sending: asyncio.Task[None] | None = None
        self._is_arriving = False

    @property
    def is_running(self) -> bool:
        return (
            self._process is not None
            and not self._process.is_gone
            and self.record is not None
            and self.record.fate in (Fate.RUNNING, Fate.STOPPING)
        )

    # --- starting --------------------------------------------------------------------------------

    async def _start(
        self,
        spec: GuestSpec,
        drives: Sequence[command.Drive],
        taps: Sequence[tuple[int, Tap]],
        config_drive: bytes | None,
        *,
        is_received: bool = False,
        has_machine: bool = True,
    ) -> qmp.Monitor:
        """Start the process; its virtual CPUs do not run yet."""
        assert self.record is not None
        uid = self.record.uid
        self._home.make()
        self._save(self.record)
        disks = [(drive.disk, drive.node) for drive in drives]
        for disk, node in disks:
            with named(disk):
                uids.grant(node, uid, self._host.uids)
        self._home.open_to(uid, config_drive)
        with ExitStack() as ours:  # QEMU has its own copies once it is started.
            listeners = self._home.listen(ours)
            nics = [
                command.Nic(tap=t, slot=slot, fd=_opened(ours, tap.open_tap(t))) for slot, t in taps
            ]
            if has_machine:
                argv = command.argv(
                    self._host.engine,
                    spec,
                    drives,
                    nics,
                    listeners,
                    has_config_drive=config_drive is not None,
                    is_received=is_received,
                )
            else:
                argv = command.disks_argv(
                    self._host.engine, spec, drives, listeners, is_received=is_received
                )
            fds = (listeners.qmp, listeners.serial, listeners.agent, *(nic.fd for nic in nics))
            pid = process.spawn(
                argv, uid=uid, groups=self._host.groups, home=self._home.path, fds=fds
            )
        self._process = process.Process(pid, self._gone)
        try:
            self._monitor = await self._connect(BOOT_S_MAX)
        except Unavailable as error:
            raise await self._explained(spec, drives, error) from error
        # What QEMU needed of its directory is open now: from here on it has no way in.
        self._home.close()
        return self._monitor

    async def _explained(
        self, spec: GuestSpec, drives: Sequence[command.Drive], error: Exception
    ) -> CloudError:
        """What went wrong at the start, from the words of the process, which is ended."""
        if self._process is not None:
            await self._process.end()
        disks = [(drive.disk, drive.node) for drive in drives]
        words = self._home.last_words() or str(error)
        return why.explain(words, spec, disks, otherwise="the hypervisor could not start the guest")

    async def _undo_boot(self, earlier: GuestRecord | None) -> None:
        if self._process is not None:
            await self._process.end()
        await self._hang_up()
        assert self.record is not None
        uids.give_back(self.record.owned_paths)
        keys.remove(self._host.keys_dir, self._home.id)
        self._home.clear()
        self.record = earlier
        if earlier is None:
            self._home.remove()
        else:
            self._save(earlier)

    # --- the process and its words -------------------------------------------------------------------

    async def _follow(self, followed: process.Process) -> None:
        """Keep the QMP connection for as long as the process lives."""
        while not followed.is_gone:
            try:
                monitor = await self._qmp()
            except Unavailable:
                await first_to_end(("gone", followed.gone()), ("pause", asyncio.sleep(RECONNECT_S)))
                continue
            await first_to_end(("gone", followed.gone()), ("lost", monitor.lost()))
            if monitor is self._monitor:
                await self._hang_up()

    async def _qmp(self) -> qmp.Monitor:
        async with self._connecting:
            if self._monitor is None or not self._monitor.is_open:
                await self._hang_up()
                self._monitor = await self._connect(ADOPT_S_MAX)
                await self._ask_state(self._monitor)
            return self._monitor

    async def _connect(self, timeout_s: float) -> qmp.Monitor:
        return await qmp.connect(self._home.qmp_socket, self._event, timeout_s=timeout_s)

    async def _hang_up(self) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            await monitor.close()

    async def _ask_state(self, monitor: qmp.Monitor) -> None:
        """What happened while nobody listened."""
        children = await monitor.execute("qom-list", {"path": "/machine/peripheral"})
        self._devices = {child["name"] for child in children}
        self._has_told = True
        if self.record is not None and self.record.fate == Fate.RECEIVING:
            if await receiver.has_come(monitor):
                self._has_come()
            return
        status = (await monitor.execute("query-status"))["status"]
        self._is_stalled = status == "io-error"
        if status == "shutdown":
            self._powered_off()

    @abstractmethod
    def _has_come(self) -> None:
        """All of a guest that another host sends is here."""

    def _event(self, name: str, data: Mapping[str, Any]) -> None:
        if name == "SHUTDOWN" and data.get("guest"):
            self._powered_off()
        elif name == "DEVICE_DELETED" and "device" in data:
            self._devices.discard(data["device"])
            self._device_gone.set()
            self._host.changed()
        elif name == "BLOCK_IO_ERROR" and data.get("action") == "stop":
            assert self.record is not None
            _log.warning("guest stalled on its disk", guest=self.record.id, why=data.get("reason"))
            self._is_stalled = True
        elif name == "RESUME":
            self._is_stalled = False
        elif name in ("MIGRATION", "JOB_STATUS_CHANGE"):
            if self._sender is not None:
                self._sender.stir(str(data.get("status", "")))
            is_waited_for = self.record is not None and self.record.fate == Fate.RECEIVING
            if is_waited_for and data.get("status") == "completed":
                self._has_come()

    def _powered_off(self) -> None:
        """The guest powered off; QEMU waits to be told that this was seen."""
        assert self.record is not None and self._process is not None
        if self.record.fate in (Fate.RUNNING, Fate.STOPPING):
            fate = Fate.ENDED if self.record.fate == Fate.RUNNING else Fate.STOPPED
            self._save(msgspec.structs.replace(self.record, fate=fate))
        self._process.signal(signal.SIGTERM)

    def _gone(self) -> None:
        """The process is no more, whoever ended it."""
        self._process = None
        self._devices = set()
        self._has_told = False
        if self.record is None or self.record.fate == Fate.BOOTING:
            return  # `boot` sees it and tidies up.
        uids.give_back(self.record.owned_paths)
        keys.remove(self._host.keys_dir, self._home.id)
        words = self._home.last_words()
        self._home.clear()
        self._save(_after_the_end(self.record, words))
        self._sender = None
        self._host.changed()

    def _save(self, changed: GuestRecord, *, lasting: bool = False) -> None:
        self.record = changed
        self._home.save(changed, lasting=lasting)

    def _require_running(self) -> GuestRecord:
        if not self.is_running:
            raise Conflict(f"server {self._home.path.name} does not run")
        assert self.record is not None
        return self.record

    def _require_settled(self) -> GuestRecord:
        """It runs, and its hardware may change: not while another host has the same in hand."""
        known = self._require_running()
        if known.is_on_its_way:
            raise Conflict(f"server {known.id} is on its way to another host")
        return known


def _after_the_end(known: GuestRecord, words: str) -> GuestRecord:
    """What the end of a process makes of its record; `words` are its last."""
    fates = {Fate.RUNNING: Fate.CRASHED, Fate.STOPPING: Fate.STOPPED}
    fate = fates.get(known.fate, known.fate)
    departure, arrival = known.departure, known.arrival
    if fate == Fate.SENT:
        pass
    elif departure is not None and departure.is_under_way:
        if departure.stage is Stage.SWITCH and known.fate in (Fate.RUNNING, Fate.STOPPING):
            fate = Fate.UNSURE
        elif fate != Fate.UNSURE:
            departure = msgspec.structs.replace(
                departure, stage=Stage.FAILED, trouble="the process that sent it ended"
            )
    if fate == Fate.RECEIVING and arrival is not None:
        arrival = msgspec.structs.replace(arrival, trouble=receiver.explain(words))
        _log.warning("a guest did not come", guest=known.id, why=words.strip()[-400:])
    return msgspec.structs.replace(
        known, fate=fate, disks=(), nics=(), departure=departure, arrival=arrival
    )


def new_record(
    spec: GuestSpec, uid: int, drives: Sequence[command.Drive], nics: Sequence[tuple[int, Tap]]
) -> GuestRecord:
    return GuestRecord(
        id=spec.id,
        incarnation=spec.incarnation,
        boot_number=spec.boot_number,
        uid=uid,
        fate=Fate.BOOTING,
        disks=tuple(plugged_disk(drive) for drive in drives),
        nics=tuple(PluggedNic(port_id=t.port_id, slot=slot) for slot, t in nics),
    )


def drives_of(
    spec: GuestSpec, nodes: Sequence[BlockNode | None], places: Mapping[str, int]
) -> list[command.Drive]:
    """The disks of the spec that have a node, each in its place."""
    return [
        command.Drive(
            disk=disk,
            node=node,
            node_name=command.node_name(disk.volume_id, 0),
            slot=places[disk.volume_id],
        )
        for disk, node in zip(spec.disks, nodes, strict=True)
        if node is not None
    ]


def plugged_disk(drive: command.Drive) -> PluggedDisk:
    layer = Layer(node_name=drive.node_name, owned_paths=drive.node.owned_paths)
    return PluggedDisk(volume_id=drive.disk.volume_id, slot=drive.slot, layers=(layer,))


def devices_of(known: GuestRecord) -> set[str]:
    disks = {command.disk_id(disk.volume_id) for disk in known.disks}
    return disks | {command.nic_id(nic.port_id) for nic in known.nics}


def _opened(ours: ExitStack, fd: int) -> int:
    ours.callback(os.close, fd)
    return fd


@contextmanager
def named(disk: DiskSpec) -> Iterator[None]:
    """Say which disk a failure is about, where it is known."""
    try:
        yield
    except (NotFound, Unavailable) as error:
        name = f"disk {disk.device or '?'} (volume {disk.volume_id})"
        raise type(error)(f"{name}: {error.message}", because=error.because) from error

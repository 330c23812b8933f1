"""One guest: its process, its QMP connection, and the verbs on it.

Truth has three places, and each is asked only for what it alone knows: the kernel whether the process
lives, QEMU which devices it has, the record which boot this is and who asked for its end. Every verb
first writes down what it is about to do and can be done again from any point, so an agent that dies in
the middle leaves nothing that its successor cannot finish.

Callbacks (events, death) only note what happened; nothing in them waits.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from cairn.core import log
from cairn.core.errors import CloudError, Conflict, Invalid, NotFound, Unavailable
from cairn.core.ids import PortId, VolumeId
from cairn.core.tasks import TaskGroup
from cairn.drivers.contracts import BlockNode, GuestView, Reception, Sending, Tap
from cairn.drivers.hypervisor import command, console, keys, process, qmp, receiver, tap, uids, why
from cairn.drivers.hypervisor.home import Home
from cairn.drivers.hypervisor.record import (
    Arrival,
    Departure,
    Fate,
    GuestRecord,
    Layer,
    PluggedDisk,
    PluggedNic,
    Stage,
    host_boot,
)
from cairn.drivers.hypervisor.sender import Sender
from cairn.wire.spec import DiskSpec, GuestSpec, Outgoing, Power

BOOT_S_MAX = 25.0
ADOPT_S_MAX = 5.0
CHORES_S_MAX = 0.5
UNPLUG_S_MAX = 30.0
UNPLUG_AGAIN_S = 3.0  # a guest that is still booting misses the first request
RECONNECT_S = 1.0
CALL_BACK_S_MAX = 9.0
SENDER_LOOK_S = 0.5
SENDER_GONE_S = 1.5

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


class Guest:
    """A guest that runs here or left a record; without a record it is about to be booted."""

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

    # --- looking ---------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        return (
            self._process is not None
            and not self._process.is_gone
            and self.record is not None
            and self.record.fate in (Fate.RUNNING, Fate.STOPPING)
        )

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
        drives = _drives(spec, nodes, places)
        nics = [(places[t.port_id], t) for t in taps]
        self.record = _new_record(spec, uid, drives, nics)
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
        self._devices = _devices_of(self.record)
        self._has_told = True
        self._is_stalled = False
        self._save(msgspec.structs.replace(self.record, fate=Fate.RUNNING))
        self._host.tasks.start(self._follow(self._process), name=f"guest {spec.id}")

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
            with _named(disk):
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

    async def adopt(self, pid: int) -> None:
        """Take over a process that an earlier agent started."""
        assert self.record is not None
        found = self._process = process.Process(pid, self._gone)
        if self.record.fate == Fate.BOOTING:
            await self._undo_boot(None)
        elif self.is_running or self.record.fate == Fate.RECEIVING or self.record.is_on_its_way:
            self._devices = _devices_of(self.record)
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

    # --- to another host, and from there -------------------------------------------------------------

    async def receive(
        self,
        spec: GuestSpec,
        uid: int,
        nodes: Sequence[BlockNode],
        taps: Sequence[Tap],
        config_drive: bytes | None,
    ) -> None:
        """See the contract. When it fails, the record is the earlier one again, or none."""
        assert spec.incoming is not None
        if self._process is not None:  # It waited for an earlier try.
            await self._process.end()
            await self._hang_up()
        self._sender = None
        earlier = self.record
        is_running = spec.power is Power.RUNNING
        places = command.layout(spec)
        drives = _drives(spec, nodes, places)
        if not is_running:
            drives = [drive for drive in drives if not drive.node.is_shared]
        nics = [(places[t.port_id], t) for t in taps] if is_running else []
        arrival = Arrival(migration_id=spec.incoming.migration_id, is_running=is_running)
        self.record = msgspec.structs.replace(_new_record(spec, uid, drives, nics), arrival=arrival)
        private = {d.disk.volume_id: d.node_name for d in drives if not d.node.is_shared}
        try:
            key_dir = keys.lay(
                self._host.keys_dir,
                spec.id,
                uid,
                self._host.uids,
                arrival.migration_id,
                spec.incoming.secret,
            )
            monitor = await self._start(
                spec, drives, nics, config_drive, is_received=True, has_machine=is_running
            )
            try:
                port, doors = await receiver.open_doors(
                    monitor, private, address=self._host.address, key_dir=key_dir
                )
            except qmp.Refused as error:
                raise await self._explained(spec, drives, error) from error
        except BaseException:
            await self._undo_boot(earlier)
            raise
        assert self._process is not None
        self._devices = _devices_of(self.record)
        self._has_told = True
        self._save(
            msgspec.structs.replace(
                self.record,
                fate=Fate.RECEIVING,
                arrival=msgspec.structs.replace(arrival, memory_port=port, doors=doors),
            )
        )
        self._host.tasks.start(self._follow(self._process), name=f"guest {spec.id}")
        self._watch_sender(self._process)

    def _watch_sender(self, waits: process.Process) -> None:
        self._host.tasks.start(self._watch(waits), name=f"sender of {self._home.id}")

    async def _watch(self, waits: process.Process) -> None:
        """QEMU does not mind that who copied disks to it is gone, and would wait for ever."""
        assert self.record is not None and self.record.arrival is not None
        arrival = self.record.arrival
        ports = {arrival.memory_port, *(door.port for door in arrival.doors)}
        nodes = {layer.node_name for disk in self.record.disks for layer in disk.layers}
        was_here, gone_s = False, 0.0
        while not waits.is_gone and self.record is not None and self.record.fate == Fate.RECEIVING:
            is_here = receiver.is_connected(waits, ports)
            with contextlib.suppress(Unavailable, qmp.Refused):
                was_here = (
                    was_here or is_here or await receiver.was_written(await self._qmp(), nodes)
                )
            gone_s = gone_s + SENDER_LOOK_S if was_here and not is_here else 0.0
            if gone_s >= SENDER_GONE_S and not self._is_arriving:
                await waits.end()
            await _first_of(waits.gone(), asyncio.sleep(SENDER_LOOK_S))

    async def _arrive(self) -> None:
        """All of it is here: let it run, or lie."""
        known, monitor = self.record, await self._qmp()
        if known is None or known.fate != Fate.RECEIVING or known.arrival is None:
            return
        await receiver.shut_doors(monitor)
        if known.arrival.is_running:
            await monitor.execute("cont")
        fate = Fate.RUNNING if known.arrival.is_running else Fate.STOPPED
        here = msgspec.structs.replace(known, fate=fate, arrival=None)
        self._save(here, lasting=True)
        keys.remove(self._host.keys_dir, known.id)
        if known.arrival.is_running:
            await receiver.forget_key(monitor)
        elif self._process is not None:
            await self._process.end()
        self._host.changed()

    async def _try_to_arrive(self) -> None:
        try:
            await self._arrive()
        except (CloudError, qmp.Refused) as error:
            _log.error("a guest has come and does not run yet", guest=self._home.id, why=str(error))
        finally:
            self._is_arriving = False

    def _has_come(self) -> None:
        if not self._is_arriving:
            self._is_arriving = True
            self._host.tasks.start(self._try_to_arrive(), name=f"arrival of {self._home.id}")

    async def send(self, spec: GuestSpec, uid: int, nodes: Sequence[BlockNode]) -> None:
        """See the contract; the guest runs here, or lies here and `spec` says so."""
        way = spec.outgoing
        assert way is not None
        if self._process is not None and not self.is_running:  # It powered off and is about to go.
            await self._process.end()
        private = {
            disk.volume_id: node
            for disk, node in zip(spec.disks, nodes, strict=True)
            if not node.is_shared
        }
        departure = _departure(spec, way, is_running=self.is_running)
        self._sender = None
        if self.is_running:
            assert self.record is not None
            self._save(msgspec.structs.replace(self.record, departure=departure))
        else:
            await self._hold_disks(spec, uid, private, departure)
        assert self.record is not None and self._process is not None
        sender = self._make_sender(self._process)
        try:
            self._require_ready(spec, way, private)
            key_dir = keys.lay(
                self._host.keys_dir, spec.id, uid, self._host.uids, way.migration_id, way.secret
            )
            await sender.begin(key_dir)
        except (Conflict, Unavailable) as error:
            sender.give_up(error.message)
        finally:
            keys.remove(self._host.keys_dir, spec.id)  # QEMU has read it.
        self._go_on_sending(sender)

    def _require_ready(
        self, spec: GuestSpec, way: Outgoing, private: Mapping[VolumeId, BlockNode]
    ) -> None:
        """The receiver builds the guest from its spec alone, and has room for each of its disks."""
        assert self.record is not None
        if missing := private.keys() - {door.volume_id for door in way.disks}:
            raise Unavailable(f"the other host is not ready for volume {min(missing)}")
        here: dict[str, int] = {disk.volume_id: disk.slot for disk in self.record.disks}
        here |= {nic.port_id: nic.slot for nic in self.record.nics}
        if self.is_running and here != command.layout(spec):
            raise Conflict(
                f"server {spec.id} has disks or ports plugged elsewhere than the other host would plug"
                " them: reboot it, or move it while it is stopped"
            )

    async def _hold_disks(
        self,
        spec: GuestSpec,
        uid: int,
        private: Mapping[VolumeId, BlockNode],
        departure: Departure,
    ) -> None:
        """Open the disks of a guest that is stopped, for nobody but us."""
        earlier = self.record
        places = command.layout(spec)
        drives = _drives(spec, [private.get(d.volume_id) for d in spec.disks], places)
        fresh = _new_record(spec, uid, drives, [])
        self.record = fresh
        try:
            await self._start(spec, drives, [], None, has_machine=False)
        except BaseException:
            await self._undo_boot(earlier)
            raise
        assert self._process is not None
        self._save(
            msgspec.structs.replace(
                fresh,
                fate=earlier.fate if earlier is not None else Fate.STOPPED,
                boot_number=earlier.boot_number if earlier is not None else spec.boot_number,
                departure=departure,
            )
        )
        self._host.tasks.start(self._follow(self._process), name=f"guest {spec.id}")

    def _make_sender(self, at: process.Process) -> Sender:
        assert self.record is not None and self.record.departure is not None
        moved = {door.volume_id for door in self.record.departure.doors}
        return Sender(
            self.record.departure,
            nodes={d.volume_id: d.top.node_name for d in self.record.disks if d.volume_id in moved},
            process=at,
            ask=self._qmp,
            note=self._note_departure,
        )

    def _note_departure(self, departure: Departure) -> None:
        if self.record is None:
            return
        known = self.record.departure
        if known is None or known.stage is not departure.stage:
            self._save(msgspec.structs.replace(self.record, departure=departure))
        self._host.changed()

    def _go_on_sending(self, sender: Sender) -> None:
        self._sender = sender
        self._sending = self._host.tasks.start(self._send(sender), name=f"send {self._home.id}")

    async def _send(self, sender: Sender) -> None:
        await sender.run()
        if self.record is None or sender is not self._sender:
            return
        departure = sender.departure
        if departure.stage is Stage.DONE:
            self._save(msgspec.structs.replace(self.record, fate=Fate.SENT, departure=departure))
        elif departure.stage is Stage.FAILED:
            self._save(msgspec.structs.replace(self.record, departure=departure))
        if self._process is not None and not departure.is_under_way and not self.is_running:
            await self._process.end()
        self._host.changed()

    async def cancel_send(self) -> None:
        known = self.record
        if known is None or not known.is_on_its_way:
            return
        if self._sender is not None and self._sending is not None and self._process is not None:
            if self._sender.may_run_there:
                raise Unavailable(
                    f"server {known.id} may run on the other host already: ask again in a minute",
                    because="it is in its last moment",
                )
            self._sender.call_back()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CALL_BACK_S_MAX):
                    await asyncio.shield(self._sending)
            return
        assert known.departure is not None
        failed = msgspec.structs.replace(
            known.departure, stage=Stage.FAILED, trouble="the migration was cancelled"
        )
        fate = Fate.CRASHED if known.fate == Fate.UNSURE else known.fate
        self._sender = None
        self._save(msgspec.structs.replace(known, fate=fate, departure=failed))

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

    # --- disks -------------------------------------------------------------------------------------

    async def plug_disk(self, spec: GuestSpec, volume_id: VolumeId, node: BlockNode) -> None:
        known = self._require_settled()
        disk = next((d for d in spec.disks if d.volume_id == volume_id), None)
        plugged = known.disk(volume_id)
        drive = command.Drive(
            disk=disk or DiskSpec(volume_id=volume_id, device=""),
            node=node,
            node_name=plugged.top.node_name if plugged else command.node_name(volume_id, 0),
            slot=plugged.slot if plugged else _slot(spec, known, volume_id),
        )
        await self._qmp()  # Only its word counts here.
        if command.disk_id(volume_id) in self._devices:
            return
        if plugged is None:
            self._save(msgspec.structs.replace(known, disks=(*known.disks, _plugged(drive))))
        try:
            with _named(drive.disk):
                uids.grant(node, known.uid, self._host.uids)
            await self._add("blockdev-add", command.node(drive))
            await self._add("device_add", command.disk_device(drive))
        except qmp.Refused as error:
            await self._forget_disk(volume_id)
            raise why.explain(
                error.words,
                spec,
                [(drive.disk, node)],
                otherwise=f"volume {volume_id} could not be plugged",
            ) from error
        except CloudError:
            await self._forget_disk(volume_id)
            raise
        self._devices.add(command.disk_id(volume_id))

    async def unplug_disk(self, volume_id: VolumeId) -> None:
        if self.is_running:
            self._require_settled()
            await self._unplug(command.disk_id(volume_id), f"volume {volume_id}")
            await self._forget_disk(volume_id)

    async def _forget_disk(self, volume_id: VolumeId) -> None:
        """Close the disk's files and give them back."""
        assert self.record is not None
        disk = self.record.disk(volume_id)
        if disk is None:
            return
        for layer in reversed(disk.layers):
            await self._drop("blockdev-del", {"node-name": layer.node_name})
            uids.give_back(layer.owned_paths)
        rest = tuple(d for d in self.record.disks if d.volume_id != volume_id)
        self._save(msgspec.structs.replace(self.record, disks=rest))

    async def switch_layer(self, volume_id: VolumeId, layer: BlockNode) -> None:
        known = self._require_settled()
        disk = known.disk(volume_id)
        if disk is None:
            raise NotFound(f"volume {volume_id} is not plugged into server {known.id}")
        if disk.top.owned_paths == layer.owned_paths:
            return
        name = command.node_name(volume_id, len(disk.layers))
        uids.grant(layer, known.uid, self._host.uids)
        try:
            if await self._open_node(volume_id, "node-name") != name:
                # The layer is to be laid over what is open, not over what its file names.
                options = {**layer.options, "node-name": name, "backing": None}
                await self._add("blockdev-add", options)
                await self._make_as_large(name, disk.top.node_name)
                await (await self._qmp()).execute(
                    "blockdev-snapshot", {"node": disk.top.node_name, "overlay": name}
                )
        except qmp.Refused as error:
            await self._drop("blockdev-del", {"node-name": name})
            uids.give_back(layer.owned_paths)
            raise Unavailable(
                f"volume {volume_id} could not be snapshotted", because=str(error)
            ) from error
        # Clones may read what lies below from now on, and nobody may write it.
        for path in disk.top.owned_paths:
            uids.share(path, self._host.uids)
        below = tuple(msgspec.structs.replace(old, owned_paths=()) for old in disk.layers)
        top = Layer(node_name=name, owned_paths=layer.owned_paths)
        switched = msgspec.structs.replace(disk, layers=(*below, top))
        self._save(
            msgspec.structs.replace(
                known, disks=tuple(switched if d is disk else d for d in known.disks)
            )
        )

    async def _make_as_large(self, name: str, other: str) -> None:
        """A layer smaller than what it covers would cut the guest's disk short."""
        nodes = await (await self._qmp()).execute("query-named-block-nodes", {"flat": True})
        sizes = {node["node-name"]: node["image"]["virtual-size"] for node in nodes}
        if sizes[name] < sizes[other]:
            resize = {"node-name": name, "size": sizes[other]}
            await (await self._qmp()).execute("block_resize", resize)

    async def resize_disk(self, volume_id: VolumeId, size_gib: int) -> None:
        known = self._require_settled()
        disk = known.disk(volume_id)
        if disk is None:
            raise NotFound(f"volume {volume_id} is not plugged into server {known.id}")
        size = size_gib << 30
        image = await self._open_node(volume_id, "image")
        if image is not None and image["virtual-size"] >= size:
            return
        try:
            await (await self._qmp()).execute(
                "block_resize", {"node-name": disk.top.node_name, "size": size}
            )
        except qmp.Refused as error:
            raise Unavailable(
                f"volume {volume_id} could not be extended in server {known.id}", because=str(error)
            ) from error

    async def _open_node(self, volume_id: VolumeId, what: str) -> Any:
        """A property of the node that the guest writes to at this moment, as QEMU has it."""
        wanted = f"/{command.disk_id(volume_id)}/"
        for block in await (await self._qmp()).execute("query-block"):
            if wanted in f"/{block.get('qdev', '')}/":
                return block.get("inserted", {}).get(what)
        return None

    # --- NICs --------------------------------------------------------------------------------------

    async def plug_nic(self, spec: GuestSpec, port: Tap) -> None:
        known = self._require_settled()
        await self._qmp()  # Only its word counts here.
        if command.nic_id(port.port_id) in self._devices:
            return
        plugged = known.nic(port.port_id)
        if plugged is None:
            plugged = PluggedNic(port_id=port.port_id, slot=_slot(spec, known, port.port_id))
            self._save(msgspec.structs.replace(known, nics=(*known.nics, plugged)))
        try:
            await self._open_netdev(port)
            await self._add("device_add", command.nic_device(port, plugged.slot))
        except qmp.Refused as error:
            await self._forget_nic(port.port_id)
            raise Unavailable(
                f"port {port.port_id} could not be plugged", because=str(error)
            ) from error
        except CloudError:
            await self._forget_nic(port.port_id)
            raise
        self._devices.add(command.nic_id(port.port_id))

    async def _open_netdev(self, port: Tap) -> None:
        netdev = command.netdev_id(port.port_id)
        # One from an interrupted try may hold the tap, and there is no asking whether it does.
        await self._drop("netdev_del", {"id": netdev})
        monitor = await self._qmp()
        fd = tap.open_tap(port)
        try:
            await monitor.hand_over(fd, netdev)
        finally:
            os.close(fd)
        await monitor.execute("netdev_add", {"type": "tap", "id": netdev, "fd": netdev})

    async def unplug_nic(self, port_id: PortId) -> None:
        if self.is_running:
            self._require_settled()
            await self._unplug(command.nic_id(port_id), f"port {port_id}")
            await self._forget_nic(port_id)

    async def _forget_nic(self, port_id: PortId) -> None:
        assert self.record is not None
        if self.record.nic(port_id) is not None:
            await self._drop("netdev_del", {"id": command.netdev_id(port_id)})
            rest = tuple(n for n in self.record.nics if n.port_id != port_id)
            self._save(msgspec.structs.replace(self.record, nics=rest))

    # --- devices -----------------------------------------------------------------------------------

    async def _unplug(self, device: str, name: str) -> None:
        """Ask until the guest has let go."""
        deadline = asyncio.get_running_loop().time() + UNPLUG_S_MAX - UNPLUG_AGAIN_S
        while device in self._devices:
            if not self.is_running:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"the guest does not let go of {name}", because="device_del")
            self._device_gone.clear()
            try:
                await (await self._qmp()).execute("device_del", {"id": device})
            except qmp.Refused as error:
                if error.kind == "DeviceNotFound":
                    self._devices.discard(device)
                    return
                # Otherwise the last request is still pending: the guest may just be slow.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UNPLUG_AGAIN_S):
                    await self._device_gone.wait()

    async def _forget_strays(self) -> None:
        assert self.record is not None
        for disk in self.record.disks:
            if command.disk_id(disk.volume_id) not in self._devices:
                await self._forget_disk(disk.volume_id)
        for nic in self.record.nics:
            if command.nic_id(nic.port_id) not in self._devices:
                await self._forget_nic(nic.port_id)

    async def _add(self, verb: str, arguments: Mapping[str, object]) -> None:
        """Add it unless an interrupted try already did."""
        try:
            await (await self._qmp()).execute(verb, arguments)
        except qmp.Refused as error:
            if "uplicate" not in error.words:
                raise

    async def _drop(self, verb: str, arguments: Mapping[str, object]) -> None:
        """Drop it; what is not there needs no dropping."""
        with contextlib.suppress(qmp.Refused):
            await (await self._qmp()).execute(verb, arguments)

    # --- the process and its words -------------------------------------------------------------------

    async def _follow(self, followed: process.Process) -> None:
        """Keep the QMP connection for as long as the process lives."""
        while not followed.is_gone:
            try:
                monitor = await self._qmp()
            except Unavailable:
                await _first_of(followed.gone(), asyncio.sleep(RECONNECT_S))
                continue
            await _first_of(followed.gone(), monitor.lost())
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


def _new_record(
    spec: GuestSpec, uid: int, drives: Sequence[command.Drive], nics: Sequence[tuple[int, Tap]]
) -> GuestRecord:
    return GuestRecord(
        id=spec.id,
        incarnation=spec.incarnation,
        boot_number=spec.boot_number,
        uid=uid,
        fate=Fate.BOOTING,
        disks=tuple(_plugged(drive) for drive in drives),
        nics=tuple(PluggedNic(port_id=t.port_id, slot=slot) for slot, t in nics),
    )


def _drives(
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


def _departure(spec: GuestSpec, way: Outgoing, *, is_running: bool) -> Departure:
    return Departure(
        migration_id=way.migration_id,
        stage=Stage.DISKS,
        address=way.address,
        memory_port=way.memory_port,
        doors=way.disks,
        host_boot=host_boot(),
        bandwidth_mib_s=way.bandwidth_mib_s,
        memory_bytes=spec.memory_mib << 20 if is_running else 0,
    )


def _plugged(drive: command.Drive) -> PluggedDisk:
    layer = Layer(node_name=drive.node_name, owned_paths=drive.node.owned_paths)
    return PluggedDisk(volume_id=drive.disk.volume_id, slot=drive.slot, layers=(layer,))


def _devices_of(known: GuestRecord) -> set[str]:
    disks = {command.disk_id(disk.volume_id) for disk in known.disks}
    return disks | {command.nic_id(nic.port_id) for nic in known.nics}


def _slot(spec: GuestSpec, known: GuestRecord, name: str) -> int:
    """Where the spec has it, for that is where another host would plug it; else where there is room."""
    used = {disk.slot for disk in known.disks} | {nic.slot for nic in known.nics}
    wanted = command.layout(spec).get(name)
    places = range(command.SLOTS) if wanted is None else (wanted, *range(command.SLOTS))
    free = next((slot for slot in places if slot not in used), None)
    if free is None:
        raise Invalid(f"a guest may have at most {command.SLOTS} disks and ports together")
    return free


def _opened(ours: ExitStack, fd: int) -> int:
    ours.callback(os.close, fd)
    return fd


@contextmanager
def _named(disk: DiskSpec) -> Iterator[None]:
    """Say which disk a failure is about, where it is known."""
    try:
        yield
    except (NotFound, Unavailable) as error:
        name = f"disk {disk.device or '?'} (volume {disk.volume_id})"
        raise type(error)(f"{name}: {error.message}", because=error.because) from error


async def _first_of(*waits: Any) -> None:
    """Wait until one is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

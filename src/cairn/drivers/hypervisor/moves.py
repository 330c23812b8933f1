"""A guest on its way: received from another host, or sent there, with its memory and its private disks.

The contract says what each verb promises; `sender` drives the sending QEMU, `receiver` the other one.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import msgspec

from cairn.core import log
from cairn.core.errors import CloudError, Conflict, Unavailable
from cairn.core.ids import VolumeId
from cairn.core.tasks import first_to_end
from cairn.drivers.contracts import BlockNode, Tap
from cairn.drivers.hypervisor import command, keys, process, qmp, receiver
from cairn.drivers.hypervisor.machine import Machine, devices_of, drives_of, new_record
from cairn.drivers.hypervisor.record import (
    Arrival,
    Departure,
    Fate,
    Stage,
    host_boot,
)
from cairn.drivers.hypervisor.sender import Sender
from cairn.wire.spec import GuestSpec, Outgoing, Power

CALL_BACK_S_MAX = 9.0
SENDER_LOOK_S = 0.5
SENDER_GONE_S = 1.5

_log = log.get("hypervisor")


class Moves(Machine):
    """Coming and going."""

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
        drives = drives_of(spec, nodes, places)
        if not is_running:
            drives = [drive for drive in drives if not drive.node.is_shared]
        nics = [(places[t.port_id], t) for t in taps] if is_running else []
        arrival = Arrival(migration_id=spec.incoming.migration_id, is_running=is_running)
        self.record = msgspec.structs.replace(new_record(spec, uid, drives, nics), arrival=arrival)
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
        self._devices = devices_of(self.record)
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
            await first_to_end(("gone", waits.gone()), ("pause", asyncio.sleep(SENDER_LOOK_S)))

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
        drives = drives_of(spec, [private.get(d.volume_id) for d in spec.disks], places)
        fresh = new_record(spec, uid, drives, [])
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

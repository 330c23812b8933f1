"""Guests without a machine: the same promises as QEMU's driver, in memory, by whoever asks.

One object is one host's hypervisor and outlives the agent, as processes do: a new agent calls `start`
on it again. Nothing happens by itself but what a test or the simulator orders; no thread, file or task
is left over. What must never be is not prevented but written to `violations`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from cairn.core.errors import CloudError, Conflict, NotFound, Unavailable
from cairn.core.ids import PortId, ServerId, VolumeId
from cairn.drivers.contracts import (
    BlockNode,
    Changed,
    GuestView,
    HypervisorFacts,
    Reception,
    Sending,
    Tap,
)
from cairn.drivers.hypervisor.console import KEPT_BYTES_MAX, last_lines
from cairn.drivers.hypervisor.ether import Ether, Journey
from cairn.wire.spec import DiskDoor, GuestSpec, Power

FACTS = HypervisorFacts(
    accelerator="tcg",
    hypervisor="fake",
    version=1_000_000,
    cpu_model="fake",
    can_live_migrate=True,
    cpu_digest="fake",
)


class FakeHypervisor:
    """`latency_s` is how long each verb takes, by the loop's clock or by another `sleep`."""

    def __init__(
        self,
        *,
        latency_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        facts: HypervisorFacts = FACTS,
        ether: Ether | None = None,
    ) -> None:
        self.latency_s = latency_s
        self.ether = ether or Ether()
        self.violations: list[str] = []
        self.deaf: set[ServerId] = set()  # guests that do not heed the power button
        self.clinging: set[ServerId] = set()  # guests that do not let go of what is unplugged
        self.boots: dict[ServerId, int] = {}  # how often each was started
        self.on_resize: Callable[[VolumeId, int], None] | None = (
            None  # a guest grows its disk's file
        )
        self._sleep = sleep
        self._facts = facts
        self._guests: dict[ServerId, GuestView] = {}
        self._consoles: dict[ServerId, bytes] = {}
        self._sizes_gib: dict[tuple[ServerId, VolumeId], int] = {}
        self._layers: dict[tuple[ServerId, VolumeId], list[BlockNode]] = {}
        self._failures: dict[str, deque[CloudError]] = {}
        self._locks: dict[ServerId, asyncio.Lock] = {}
        self._changed: Changed | None = None
        # How the content of a disk is read here, and how a received one is filled.
        self.read_disk: Callable[[VolumeId], object] | None = None
        self.fill_disk: Callable[[VolumeId, object], None] | None = None

    # --- orders from the test ------------------------------------------------------------------------

    def fail_next(self, verb: str, error: CloudError, *, times: int = 1) -> None:
        """The next `times` calls of the verb ("boot", "plug_disk", ...) raise `error`."""
        self._failures.setdefault(verb, deque()).extend([error] * times)

    @property
    def guests(self) -> dict[ServerId, GuestView]:
        """Every guest that runs or left a record, as it is now."""
        return dict(self._guests)

    def crash(self, guest_id: ServerId) -> None:
        """The guest's process dies unasked."""
        view = self._running(guest_id)
        self._end(guest_id, crashed=not view.stopping)

    def end(self, guest_id: ServerId) -> None:
        """The guest powers itself off."""
        view = self._running(guest_id)
        self._end(guest_id, ended=not view.stopping)

    def power_cut(self) -> None:
        """The host dies with all guests and the agent; the records are there at the next `start`."""
        self._changed = None
        for guest_id, was in list(self._guests.items()):
            if was.reception is not None:
                self.ether.shut(self, guest_id, "the receiving host lost its power")
            if was.sending is not None:
                self.ether.lose_sender(self, guest_id)
            view = self._guests[guest_id]
            if view.running:
                self._end(guest_id, crashed=not view.stopping)
            elif self._is_between(view):
                self._set(view, crashed=True)

    def write_console(self, guest_id: ServerId, text: bytes) -> None:
        self._consoles[guest_id] = (self._consoles[guest_id] + text)[-KEPT_BYTES_MAX:]

    def size_gib(self, guest_id: ServerId, volume_id: VolumeId) -> int | None:
        """What the last `resize_disk` of the plugged disk said."""
        return self._sizes_gib.get((guest_id, volume_id))

    def layers(self, guest_id: ServerId, volume_id: VolumeId) -> list[BlockNode]:
        """What was opened for the disk, the layer that is written to last."""
        return list(self._layers.get((guest_id, volume_id), ()))

    # --- the contract ------------------------------------------------------------------------------

    async def start(self, changed: Changed) -> None:
        await self._pass("start")
        self._changed = changed

    async def close(self) -> None:
        self._changed = None

    def facts(self) -> HypervisorFacts:
        return self._facts

    async def look(self) -> list[GuestView]:
        await self._pass("look")
        return [self._with_progress(view) for view in self._guests.values()]

    async def boot(
        self,
        spec: GuestSpec,
        disks: tuple[BlockNode, ...],
        taps: tuple[Tap, ...],
        config_drive: bytes | None,
    ) -> None:
        assert len(disks) == len(spec.disks) and len(taps) == len(spec.nics)
        async with self._lock(spec.id):
            known = self._guests.get(spec.id)
            if known is not None:
                self._require_ours(known)
                wanted = (spec.incarnation, spec.boot_number)
                there = (known.incarnation, known.boot_number)
                if known.running and wanted == there:
                    return
                if known.running or wanted < there:
                    self.violations.append(f"boot {wanted} of {spec.id} although {there} was here")
                    raise Conflict(
                        f"server {spec.id} already had another boot here",
                        because=f"(incarnation, boot) is {there}, wanted {wanted}",
                    )
            await self._pass("boot")
            for disk, node in zip(spec.disks, disks, strict=True):
                self._open(spec.id, disk.volume_id, node)
            self.boots[spec.id] = self.boots.get(spec.id, 0) + 1
            self._guests[spec.id] = GuestView(
                id=spec.id,
                incarnation=spec.incarnation,
                boot_number=spec.boot_number,
                running=True,
                disks=tuple(disk.volume_id for disk in spec.disks),
                nics=tuple(tap.port_id for tap in taps),
            )
            self._consoles.setdefault(spec.id, b"")
            self.write_console(spec.id, f"boot {spec.boot_number} of {spec.name}\n".encode())

    async def receive(
        self,
        spec: GuestSpec,
        disks: tuple[BlockNode, ...],
        taps: tuple[Tap, ...],
        config_drive: bytes | None,
    ) -> None:
        assert spec.incoming is not None
        assert len(disks) == len(spec.disks) and len(taps) == len(spec.nics)
        async with self._lock(spec.id):
            known = self._guests.get(spec.id)
            if known is not None and known.incarnation == spec.incarnation:
                waits = known.reception
                if known.running or (
                    waits is not None
                    and waits.migration_id == spec.incoming.migration_id
                    and not waits.trouble
                ):
                    return
            if known is not None and (known.running or known.incarnation > spec.incarnation):
                self.violations.append(f"receive {spec.incarnation} of {spec.id} over {known}")
                raise Conflict(f"server {spec.id} already had another life here")
            await self._pass("receive")
            for disk, node in zip(spec.disks, disks, strict=True):
                self._open(spec.id, disk.volume_id, node)
            moved = [d.volume_id for d, n in zip(spec.disks, disks, strict=True) if not n.is_shared]
            port = self.ether.open_door(self, spec.id, is_running=spec.power is Power.RUNNING)
            self._guests[spec.id] = GuestView(
                id=spec.id,
                incarnation=spec.incarnation,
                boot_number=spec.boot_number,
                running=False,
                disks=tuple(disk.volume_id for disk in spec.disks),
                nics=tuple(tap.port_id for tap in taps),
                reception=Reception(
                    migration_id=spec.incoming.migration_id,
                    memory_port=port,
                    disks=tuple(DiskDoor(volume_id=v, port=port, export=v) for v in moved),
                ),
            )
            self._consoles.setdefault(spec.id, b"")

    async def send(self, spec: GuestSpec, disks: tuple[BlockNode, ...]) -> None:
        assert spec.outgoing is not None
        assert len(disks) == len(spec.disks)
        outgoing = spec.outgoing
        async with self._lock(spec.id):
            view = self._guests.get(spec.id)
            if view is None:
                if spec.power is Power.RUNNING:
                    raise NotFound(f"server {spec.id} is not on this host")
                # It never ran here, so it left no record; its disks are here all the same.
                view = GuestView(
                    id=spec.id,
                    incarnation=spec.incarnation,
                    boot_number=spec.boot_number,
                    running=False,
                )
                self._guests[spec.id] = view
            sent = view.sending
            if sent is not None and sent.migration_id == outgoing.migration_id:
                return
            self._require_ours(view)
            if not view.running and spec.power is Power.RUNNING:
                raise Conflict(f"server {spec.id} does not run")
            await self._pass("send")
            self.ether.begin(
                self,
                spec.id,
                outgoing,
                total_bytes=(spec.memory_mib << 20) if view.running else len(disks) << 30,
            )

    async def cancel_send(self, guest_id: ServerId) -> None:
        async with self._lock(guest_id):
            await self._pass("cancel_send")
            self.ether.cancel(self, guest_id, "the migration was cancelled")

    async def plug_disk(self, spec: GuestSpec, volume_id: VolumeId, disk: BlockNode) -> None:
        async with self._lock(spec.id):
            await self._pass("plug_disk")
            view = self._require_running(spec.id)
            if volume_id not in view.disks:
                self._open(spec.id, volume_id, disk)
                self._set(view, disks=(*view.disks, volume_id))

    async def unplug_disk(self, guest_id: ServerId, volume_id: VolumeId) -> None:
        async with self._lock(guest_id):
            await self._pass("unplug_disk")
            view = self._guests.get(guest_id)
            if view is not None and volume_id in view.disks:
                self._require_letting_go(guest_id, f"volume {volume_id}")
                self._shut(guest_id, volume_id)
                self._set(view, disks=tuple(v for v in view.disks if v != volume_id))

    async def plug_nic(self, spec: GuestSpec, tap: Tap) -> None:
        async with self._lock(spec.id):
            await self._pass("plug_nic")
            view = self._require_running(spec.id)
            if tap.port_id not in view.nics:
                self._set(view, nics=(*view.nics, tap.port_id))

    async def unplug_nic(self, guest_id: ServerId, port_id: PortId) -> None:
        async with self._lock(guest_id):
            await self._pass("unplug_nic")
            view = self._guests.get(guest_id)
            if view is not None and port_id in view.nics:
                self._require_letting_go(guest_id, f"port {port_id}")
                self._set(view, nics=tuple(p for p in view.nics if p != port_id))

    async def switch_layer(self, guest_id: ServerId, volume_id: VolumeId, layer: BlockNode) -> None:
        async with self._lock(guest_id):
            await self._pass("switch_layer")
            layers = self._plugged(guest_id, volume_id)
            if layers[-1] != layer:
                layers.append(layer)

    async def resize_disk(self, guest_id: ServerId, volume_id: VolumeId, size_gib: int) -> None:
        async with self._lock(guest_id):
            await self._pass("resize_disk")
            self._plugged(guest_id, volume_id)
            key = (guest_id, volume_id)
            self._sizes_gib[key] = max(size_gib, self._sizes_gib.get(key, 0))
            if self.on_resize is not None:
                self.on_resize(volume_id, size_gib)

    async def shut_down(self, guest_id: ServerId) -> None:
        """A guest that is not deaf has obeyed when the next thing on the loop runs."""
        async with self._lock(guest_id):
            await self._pass("shut_down")
            view = self._guests.get(guest_id)
            if view is not None and view.running:
                self._set(view, stopping=True)
                if guest_id not in self.deaf:
                    asyncio.get_running_loop().call_soon(self._obey, guest_id)

    async def cut_off(self, guest_id: ServerId) -> None:
        async with self._lock(guest_id):
            await self._pass("cut_off")
            self._stop_moving(guest_id)
            view = self._guests.get(guest_id)
            if view is not None and view.running:
                self._end(guest_id)
            elif view is not None:
                self._set(view, crashed=False)

    async def reset(self, guest_id: ServerId) -> None:
        async with self._lock(guest_id):
            await self._pass("reset")
            self._require_running(guest_id)
            self.write_console(guest_id, b"reset\n")

    async def remove(self, guest_id: ServerId) -> None:
        async with self._lock(guest_id):
            await self._pass("remove")
            self._stop_moving(guest_id)
            view = self._guests.get(guest_id)
            if view is not None and view.running:
                self._end(guest_id)
            for volume_id in view.disks if view is not None else ():
                self._shut(guest_id, volume_id)
            self._guests.pop(guest_id, None)
            self._consoles.pop(guest_id, None)

    async def console_log(self, guest_id: ServerId, lines: int | None) -> bytes:
        if guest_id not in self._guests:
            raise NotFound(f"server {guest_id} is not on this host")
        text = self._consoles[guest_id]
        return text if lines is None else last_lines(text, lines)

    def vnc_socket(self, guest_id: ServerId) -> Path:
        view = self._guests.get(guest_id)
        if view is None or not view.running:
            raise NotFound(f"server {guest_id} does not run")
        return Path("/nonexistent") / guest_id / "vnc.sock"

    # --- for the ether -------------------------------------------------------------------------------

    def show_sending(self, guest_id: ServerId, sending: Sending, *, running: bool | None) -> None:
        """How far a guest of this host is on its way; `running` None leaves it as it is."""
        view = self._guests[guest_id]
        self._set(view, sending=sending, running=view.running if running is None else running)
        self._tell()

    def leave(self, guest_id: ServerId) -> None:
        """It is the other host's: nothing of it is open here any more."""
        self._leave(guest_id)

    def show_trouble(self, guest_id: ServerId, why: str) -> None:
        """The reception failed."""
        view = self._guests[guest_id]
        assert view.reception is not None
        for volume_id in view.disks:
            self._shut(guest_id, volume_id)
        waits = msgspec.structs.replace(view.reception, trouble=why)
        self._set(view, reception=waits, disks=(), nics=())
        self._tell()

    def arrive(self, guest_id: ServerId, *, running: bool, content: dict[VolumeId, object]) -> None:
        """The guest has come, with its disks."""
        view = self._guests[guest_id]
        if self.fill_disk is not None:
            for volume_id, blocks in content.items():
                self.fill_disk(volume_id, blocks)
        if running:
            self._set(view, running=True, reception=None)
        else:
            self._set(view, reception=None)
            self._leave(guest_id)
        self._tell()

    def read(self, volume_ids: tuple[VolumeId, ...]) -> dict[VolumeId, object]:
        if self.read_disk is None:
            return {}
        return {volume_id: self.read_disk(volume_id) for volume_id in volume_ids}

    # --- how it works --------------------------------------------------------------------------------

    async def _pass(self, verb: str) -> None:
        """Take the verb's time, then fail if that was ordered."""
        if self.latency_s:
            await self._sleep(self.latency_s)
        if failures := self._failures.get(verb):
            raise failures.popleft()

    def _lock(self, guest_id: ServerId) -> asyncio.Lock:
        return self._locks.setdefault(guest_id, asyncio.Lock())

    def _set(self, view: GuestView, **changes: object) -> None:
        self._guests[view.id] = msgspec.structs.replace(view, **changes)

    def _open(self, guest_id: ServerId, volume_id: VolumeId, node: BlockNode) -> None:
        for other, opened in self._layers:
            if opened == volume_id and other != guest_id:
                self.violations.append(f"volume {volume_id} is open in {other} and {guest_id}")
        self._layers[(guest_id, volume_id)] = [node]

    def _shut(self, guest_id: ServerId, volume_id: VolumeId) -> None:
        self._layers.pop((guest_id, volume_id), None)
        self._sizes_gib.pop((guest_id, volume_id), None)

    def _leave(self, guest_id: ServerId) -> None:
        view = self._guests[guest_id]
        for volume_id in view.disks:
            self._shut(guest_id, volume_id)
        self._set(view, disks=(), nics=())

    def _stop_moving(self, guest_id: ServerId) -> None:
        """Its process ends on purpose: who sends or receives it hears of it."""
        view = self._guests.get(guest_id)
        if view is not None and view.reception is not None:
            self.ether.shut(self, guest_id, "the receiving host gave it up")
            self._set(self._guests[guest_id], reception=None)
        if view is not None and view.sending is not None:
            self.ether.cancel(self, guest_id, "the guest was ended")

    @staticmethod
    def _is_between(view: GuestView) -> bool:
        """Stopped here for the last time, and not known to run there."""
        sending = view.sending
        return bool(view.disks) and sending is not None and not sending.done and not sending.trouble

    def _with_progress(self, view: GuestView) -> GuestView:
        journey: Journey | None = self.ether.journey_of(self, view.id)
        if journey is None or view.sending is None or view.sending.done or view.sending.trouble:
            return view
        left = journey.left_bytes()
        sending = msgspec.structs.replace(view.sending, left_bytes=left)
        return msgspec.structs.replace(view, sending=sending)

    def _require_ours(self, view: GuestView) -> None:
        if view.sending is not None and view.sending.done:
            self.violations.append(f"{view.id} was sent away and is to run here again")
            raise Conflict(f"server {view.id} was sent to another host")
        if view.reception is not None and not view.reception.trouble:
            self.violations.append(f"{view.id} is being received and is to boot")
            raise Conflict(f"server {view.id} is being received from another host")

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

    def _end(self, guest_id: ServerId, *, crashed: bool = False, ended: bool = False) -> None:
        if self._guests[guest_id].sending is not None:
            self.ether.cancel(self, guest_id, "the guest's process ended")
        view = self._guests[guest_id]
        for volume_id in view.disks:
            self._shut(guest_id, volume_id)
        self._set(
            view, running=False, stopping=False, crashed=crashed, ended=ended, disks=(), nics=()
        )
        self._tell()

    def _obey(self, guest_id: ServerId) -> None:
        view = self._guests.get(guest_id)
        if view is not None and view.stopping:
            self._end(guest_id)

    def _running(self, guest_id: ServerId) -> GuestView:
        view = self._guests.get(guest_id)
        assert view is not None and view.running, f"{guest_id} does not run"
        return view

    def _require_running(self, guest_id: ServerId) -> GuestView:
        view = self._guests.get(guest_id)
        if view is None:
            raise NotFound(f"server {guest_id} is not on this host")
        if not view.running:
            raise Conflict(f"server {guest_id} does not run")
        return view

    def _require_letting_go(self, guest_id: ServerId, what: str) -> None:
        if guest_id in self.clinging:
            raise Unavailable(f"the guest does not let go of {what}", because="device_del")

    def _plugged(self, guest_id: ServerId, volume_id: VolumeId) -> list[BlockNode]:
        self._require_running(guest_id)
        layers = self._layers.get((guest_id, volume_id))
        if layers is None:
            raise NotFound(f"volume {volume_id} is not plugged into server {guest_id}")
        return layers

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
from cairn.drivers.contracts import BlockNode, Changed, GuestView, HypervisorFacts, Tap
from cairn.drivers.hypervisor.console import KEPT_BYTES_MAX, last_lines
from cairn.wire.spec import GuestSpec

FACTS = HypervisorFacts(accelerator="tcg", hypervisor="fake", version=1_000_000, cpu_model="fake")


class FakeHypervisor:
    """`latency_s` is how long each verb takes, by the loop's clock or by another `sleep`."""

    def __init__(
        self,
        *,
        latency_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        facts: HypervisorFacts = FACTS,
    ) -> None:
        self.latency_s = latency_s
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
        for guest_id, view in list(self._guests.items()):
            if view.running:
                self._end(guest_id, crashed=not view.stopping)

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
        return list(self._guests.values())

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
            view = self._guests.get(guest_id)
            if view is not None and view.running:
                self._end(guest_id)
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

    def _end(self, guest_id: ServerId, *, crashed: bool = False, ended: bool = False) -> None:
        view = self._guests[guest_id]
        for volume_id in view.disks:
            self._shut(guest_id, volume_id)
        self._set(
            view, running=False, stopping=False, crashed=crashed, ended=ended, disks=(), nics=()
        )
        if self._changed is not None:
            self._changed()

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

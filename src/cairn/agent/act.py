"""Doing a step: dumb on purpose. What to do was decided in plan.py; here it only meets the drivers."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from cairn.agent import config_drive, metadata, plan
from cairn.agent.look import Drivers
from cairn.agent.plan import Step
from cairn.core.errors import Unavailable
from cairn.core.ids import NetworkId, NodeId
from cairn.drivers.contracts import BlockNode, MetadataSocket, Tap
from cairn.wire.spec import DoorSpec, GuestSpec, ImageSpec, MachineSpec, PortSpec, ZoneSpec

FetchImage = Callable[[ImageSpec], Awaitable[Path]]
"""Bring an image's bytes to a local file and return it."""


class MetadataServer(Protocol):
    """Answers guests on the sockets that it is given."""

    @property
    def served(self) -> frozenset[NetworkId]: ...

    async def serve(self, network_id: NetworkId, socket: MetadataSocket) -> None: ...

    async def stop(self, network_id: NetworkId) -> None: ...


class Actor:
    """Carries out steps; remembers only which logical network it wrote last."""

    def __init__(
        self, drivers: Drivers, *, fetch_image: FetchImage, metadata_server: MetadataServer
    ) -> None:
        self._drivers = drivers
        self._fetch_image = fetch_image
        self._metadata = metadata_server
        self.applied_zone: ZoneSpec | None = None
        self.applied_zone_number = 0
        # What became of wishes about other hosts, by host: the number of the last one done.
        self.machines: dict[NodeId, tuple[int, bool]] = {}
        self.doors: dict[NodeId, tuple[int, bool]] = {}

    async def act(self, step: Step) -> None:
        """Raises CloudError with the cause; a step may be repeated."""
        match step:
            case plan.ApplyZone():
                await self._drivers.networks.apply_zone(step.zone)
                self.applied_zone, self.applied_zone_number = step.zone, step.spec_number
            case plan.JoinZone():
                await self._drivers.networks.join(step.southbound)
            case plan.ImportImage():
                source = await self._fetch_image(step.image)
                await self._drivers.volumes.import_image(step.image, source)
            case plan.RemoveImage():
                await self._drivers.volumes.remove_image(step.image_id)
            case plan.VolumeStep():
                await self._volume(step)
            case plan.Plug():
                await self._drivers.networks.plug(step.port)
            case plan.Unplug():
                await self._drivers.networks.unplug(step.port_id)
            case plan.OpenMetadata():
                await self._open_metadata(step)
            case plan.CloseMetadata():
                await self._metadata.stop(step.network_id)
                await self._drivers.networks.close_metadata(step.network_id)
            case plan.GuestStep():
                await self._guest(step)
            case plan.TurnPower():
                await self._turn_power(step.machine)
            case plan.TurnDoor():
                await self._turn_door(step.door)
            case _:
                raise AssertionError(f"no such step: {step}")

    async def _volume(self, step: plan.VolumeStep) -> None:
        volumes, hypervisor = self._drivers.volumes, self._drivers.hypervisor
        match step:
            case plan.CreateVolume():
                await volumes.create(step.spec)
            case plan.ExtendVolume(used_by=None):
                await volumes.extend(step.volume_id, step.size_gib)
            case plan.ExtendVolume(used_by=guest_id) if guest_id is not None:
                await hypervisor.resize_disk(guest_id, step.volume_id, step.size_gib)
            case plan.TakeSnapshot(used_by=None):
                await volumes.snapshot(step.volume_id, step.snapshot_id)
            case plan.TakeSnapshot():
                await self._snapshot_live(step)
            case plan.RemoveSnapshot():
                await volumes.remove_snapshot(step.volume_id, step.snapshot_id)
            case plan.RemoveVolume():
                await volumes.remove(step.volume_id)

    async def _snapshot_live(self, step: plan.TakeSnapshot) -> None:
        assert step.used_by is not None
        volumes = self._drivers.volumes
        layer = await volumes.begin_live_snapshot(step.volume_id, step.snapshot_id)
        if layer is not None:
            await self._drivers.hypervisor.switch_layer(step.used_by, step.volume_id, layer)
            await volumes.finish_live_snapshot(step.volume_id, step.snapshot_id)

    async def _open_metadata(self, step: plan.OpenMetadata) -> None:
        networks = self._drivers.networks
        await networks.open_metadata(step.network)
        # Also where somebody answered before: the network's namespace may be another one by now.
        await self._metadata.serve(step.network_id, networks.metadata_socket(step.network_id))

    async def _turn_power(self, machine: MachineSpec) -> None:
        """Done when the controller says so on a second question, too: somebody acts on this answer."""
        await self._drivers.power.turn(machine, on=machine.on)
        is_on = await self._drivers.power.is_on(machine)
        if is_on != machine.on:
            raise Unavailable(
                f"Host {machine.node_id} is still {'on' if is_on else 'off'} after its power was "
                f"turned {'on' if machine.on else 'off'}."
            )
        self.machines[machine.node_id] = (machine.number, is_on)

    async def _turn_door(self, door: DoorSpec) -> None:
        turn = self._drivers.volumes.let_in if door.is_open else self._drivers.volumes.shut_out
        await turn(door.node_id, door.number)
        self.doors[door.node_id] = (door.number, door.is_open)

    async def _guest(self, step: plan.GuestStep) -> None:
        hypervisor, volumes = self._drivers.hypervisor, self._drivers.volumes
        match step:
            case plan.Boot():
                await self._boot(step)
            case plan.ReceiveGuest():
                await hypervisor.receive(step.spec, *await self._opened(step.spec, step.ports))
            case plan.SendGuest():
                disks = [await volumes.open(d.volume_id) for d in step.spec.disks]
                await hypervisor.send(step.spec, tuple(disks))
            case plan.CancelSend():
                await hypervisor.cancel_send(step.guest_id)
            case plan.ShutDown():
                await hypervisor.shut_down(step.guest_id)
            case plan.CutOff():
                await hypervisor.cut_off(step.guest_id)
            case plan.RemoveGuest():
                await hypervisor.remove(step.guest_id)
            case plan.PlugDisk():
                disk = await volumes.open(step.volume_id)
                await hypervisor.plug_disk(step.spec, step.volume_id, disk)
            case plan.UnplugDisk():
                await hypervisor.unplug_disk(step.guest_id, step.volume_id)
            case plan.PlugNic():
                tap = await self._drivers.networks.plug(step.port)
                await hypervisor.plug_nic(step.spec, tap)
            case plan.UnplugNic():
                await hypervisor.unplug_nic(step.guest_id, step.port_id)

    async def _boot(self, step: plan.Boot) -> None:
        await self._drivers.hypervisor.boot(step.spec, *await self._opened(step.spec, step.ports))

    async def _opened(
        self, spec: GuestSpec, ports: tuple[PortSpec, ...]
    ) -> tuple[tuple[BlockNode, ...], tuple[Tap, ...], bytes | None]:
        """Everything is opened anew: what an earlier boot or life of the host left may be stale."""
        drivers = self._drivers
        disks = [await drivers.volumes.open(d.volume_id) for d in spec.disks]
        taps = [await drivers.networks.plug(port) for port in ports]
        drive = None
        if spec.config_drive:
            drive = config_drive.image(metadata.documents(spec, ports))
        return tuple(disks), tuple(taps), drive

"""Disks and NICs of a running guest: plugged, unplugged, switched to another layer, made larger.

Each verb can be done again from any point: QEMU is asked what it has, never the record alone.
"""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from cairn.core.errors import CloudError, Invalid, NotFound, Unavailable
from cairn.core.ids import PortId, VolumeId
from cairn.drivers.contracts import BlockNode, Tap
from cairn.drivers.hypervisor import command, qmp, tap, uids, why
from cairn.drivers.hypervisor.machine import Machine, named, plugged_disk
from cairn.drivers.hypervisor.record import (
    GuestRecord,
    Layer,
    PluggedNic,
)
from cairn.wire.spec import DiskSpec, GuestSpec

UNPLUG_S_MAX = 30.0
UNPLUG_AGAIN_S = 3.0  # a guest that is still booting misses the first request


class Devices(Machine):
    """What can be plugged into a guest and out of it."""

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
            self._save(msgspec.structs.replace(known, disks=(*known.disks, plugged_disk(drive))))
        try:
            with named(drive.disk):
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


def _slot(spec: GuestSpec, known: GuestRecord, name: str) -> int:
    """Where the spec has it, for that is where another host would plug it; else where there is room."""
    used = {disk.slot for disk in known.disks} | {nic.slot for nic in known.nics}
    wanted = command.layout(spec).get(name)
    places = range(command.SLOTS) if wanted is None else (wanted, *range(command.SLOTS))
    free = next((slot for slot in places if slot not in used), None)
    if free is None:
        raise Invalid(f"a guest may have at most {command.SLOTS} disks and ports together")
    return free

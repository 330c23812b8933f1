"""Disks and nics of a server: plugging in, unplugging, and what it takes in the other slices."""

import re

from msgspec import UNSET, Struct, UnsetType

from cairn.compute import store, store_actions
from cairn.compute.records import MOVING_TASKS, SERVER_LIFE, Disk, Nic, Server
from cairn.core.caller import Caller, system_caller
from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.core.ids import PortId, ServerId, VolumeId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.network import service as network
from cairn.network.records import COMPUTE_OWNER, Group, Search
from cairn.network.service import groups as network_groups
from cairn.network.wishes import FixedIpWish, PortWish
from cairn.volume import service as volumes

DEVICES = tuple(f"vd{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
DISKS_MAX = len(DEVICES)
DEFAULT_GROUP = "default"
_DEVICE = re.compile(r"(?:/dev/)?(vd[a-z])")


class NicWish(Struct, frozen=True, kw_only=True):
    """Exactly one of network and port."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


# --- devices -----------------------------------------------------------------------------------------


def device_named(wished: str | None, taken: list[str]) -> str | None:
    """The device that a user asked for, where the name is one of ours. Raises Conflict: it is taken."""
    match = _DEVICE.fullmatch(wished) if wished else None
    if match is None:
        return None  # "/dev/sdb" and the like are hints for other buses.
    if match[1] in taken:
        raise Conflict(f"The supplied device path ({wished}) is in use.")
    return match[1]


def device_after(taken: list[str]) -> str:
    """The first free device. Raises Conflict when the bus is full."""
    free = next((device for device in DEVICES if device not in taken), None)
    if free is None:
        raise Conflict(f"A server may have at most {DISKS_MAX} disks.")
    return free


# --- volumes -----------------------------------------------------------------------------------------


def attach_volume(
    tx: Tx,
    who: Caller,
    server_id: ServerId,
    volume_id: VolumeId,
    *,
    device: str | None = None,
    tag: str | None = None,
    delete_on_termination: bool = False,
) -> Disk:
    """Promise that the volume will be plugged into the server.

    Raises NotFound, Conflict, Invalid: the volume is not to be had.
    """
    server = changeable(tx, who, server_id, "attach")
    found = volumes.get(tx, who, volume_id)
    if server.node_id is not None and found.node_id is None:
        volumes.place(tx, found.id, server.node_id)
    elif found.node_id != server.node_id and server.node_id is not None:
        raise Conflict(
            f"Volume {found.id} lives on another host than server {server.id}, and its engine cannot "
            "reach across hosts."
        )
    has = store.disks_of(tx, [server.id]).get(server.id, [])
    taken = [d.device for d in has] + (["vda"] if server.root_gib else [])
    name = device_named(device, taken) or device_after(taken)
    try:
        volumes.attach(tx, who, found.id, server.id, name)
    except Conflict as error:  # What the request names is wrong, not the server's state.
        raise Invalid(f"Invalid volume: {error.message}") from error
    number = fleet.touch(tx, server.node_id) if server.node_id else 0
    disk = Disk(
        id=tx.new_id(),
        server_id=server.id,
        volume_id=found.id,
        device=name,
        is_boot=False,
        delete_on_termination=delete_on_termination,
        tag=tag,
        is_wanted=True,
        want_number=number,
        is_plugged=False,
        made_at=tx.now,
    )
    store.add_disk(tx, disk)
    note(tx, who, server, "attach_volume", "compute_attach_volume")
    return disk


def detach_volume(tx: Tx, who: Caller, server_id: ServerId, volume_id: VolumeId) -> None:
    """Wish the volume out of the server. Raises NotFound, Conflict; Denied for its root disk."""
    server = changeable(tx, who, server_id, "detach")
    disk = disk_of(tx, server, volume_id)
    if disk.is_boot:
        raise Denied("Cannot detach a root device volume")
    if not disk.is_wanted:
        raise Conflict(f"Volume {volume_id} is being detached already.")
    volumes.detach(tx, who, disk.volume_id, server.id)
    note(tx, who, server, "detach_volume", "compute_detach_volume")
    if server.node_id is None:
        disk_is_out(tx, disk)
    else:
        number = fleet.touch(tx, server.node_id)
        store.change_disk(tx, disk.id, is_wanted=False, want_number=number)


def disk_of(tx: Tx, server: Server, volume_id: VolumeId) -> Disk:
    for disk in store.disks_of(tx, [server.id]).get(server.id, []):
        if disk.volume_id == volume_id:
            return disk
    raise NotFound(f"volume_id not found: {volume_id[:64]}")


def disk_is_in(tx: Tx, disk: Disk) -> None:
    """The host has plugged it."""
    store.change_disk(tx, disk.id, is_plugged=True)
    volumes.attached(tx, disk.volume_id, disk.server_id)
    store_actions.finish_actions(tx, disk.server_id, "Success", names=("attach_volume",))


def disk_is_out(tx: Tx, disk: Disk) -> None:
    """The host has let go of it."""
    store.remove_disk(tx, disk.id)
    volumes.detached(tx, disk.volume_id, disk.server_id)
    store_actions.finish_actions(tx, disk.server_id, "Success", names=("detach_volume",))


# --- interfaces --------------------------------------------------------------------------------------


def attach_interface(tx: Tx, who: Caller, server_id: ServerId, wish: NicWish) -> PortId:
    """Promise that a port will be plugged into the server. Raises NotFound, Invalid, Conflict."""
    server = changeable(tx, who, server_id, "attach")
    has = store.nics_of(tx, [server.id]).get(server.id, [])
    if wish.network_id is None and wish.port_id is None:
        found = network.networks_for_server(tx, who)
        if len(found) != 1:
            raise Conflict(
                f"{'Multiple' if found else 'No'} possible networks found, use a Network ID to be "
                "more specific."
            )
        wish = NicWish(network_id=found[0].id, fixed_ip=wish.fixed_ip, tag=wish.tag)
    # The lowest that is free: it decides where the nic sits in the guest, and places there are few.
    taken = {n.position for n in has}
    position = next(p for p in range(len(has) + 1) if p not in taken)
    nic = plug_nic(tx, who, server, wish, UNSET, position)
    if server.node_id is not None:
        network.bind_port(tx, nic.port_id, server.id, server.node_id)
        store.change_nic(tx, nic.port_id, want_number=fleet.touch(tx, server.node_id))
    note(tx, who, server, "attach_interface", "compute_attach_interface", is_done=True)
    return nic.port_id


def detach_interface(tx: Tx, who: Caller, server_id: ServerId, port_id: PortId) -> None:
    """Wish the port out of the server. Raises NotFound, Conflict."""
    server = changeable(tx, who, server_id, "detach")
    nic = nic_of(tx, server, port_id)
    note(tx, who, server, "detach_interface", "compute_detach_interface")
    if server.node_id is None:
        nic_is_out(tx, nic)
    elif nic.is_wanted:
        number = fleet.touch(tx, server.node_id)
        store.change_nic(tx, nic.port_id, is_wanted=False, want_number=number)


def nic_of(tx: Tx, server: Server, port_id: PortId) -> Nic:
    for nic in store.nics_of(tx, [server.id]).get(server.id, []):
        if nic.port_id == port_id:
            return nic
    raise NotFound(f"Port id {port_id[:64]} could not be found on instance {server.id}.")


def nic_is_out(tx: Tx, nic: Nic) -> None:
    """The host has let go of it: our own port goes, the user's becomes free."""
    store.remove_nic(tx, nic.port_id)
    release_port(tx, nic)
    store_actions.finish_actions(tx, nic.server_id, "Success", names=("detach_interface",))


def release_port(tx: Tx, nic: Nic) -> None:
    try:
        if nic.is_owned:
            network.delete_port(tx, system_caller(), nic.port_id)
        else:
            network.unbind_port(tx, nic.port_id)
    except NotFound:
        return  # Its owner removed it meanwhile.


def plug_nic(
    tx: Tx,
    who: Caller,
    server: Server,
    wish: NicWish,
    groups: tuple[str, ...] | UnsetType,
    position: int,
) -> Nic:
    """Make a port for the server, or claim the caller's, and note it."""
    if (wish.network_id is None) == (wish.port_id is None):
        raise Invalid("networks: each entry needs either uuid or port.")
    if wish.port_id is not None:
        network.claim_port(tx, who, PortId(wish.port_id), server.id)
        port_id = PortId(wish.port_id)
    else:
        fixed = (FixedIpWish(ip=wish.fixed_ip),) if wish.fixed_ip else UNSET
        port_id = network.create_port(
            tx,
            who,
            PortWish(
                network_id=wish.network_id or UNSET,
                device_id=server.id,
                device_owner=COMPUTE_OWNER,
                group_ids=groups,
                fixed_ips=fixed,
            ),
        ).id
    nic = Nic(
        server_id=server.id,
        port_id=port_id,
        position=position,
        is_owned=wish.port_id is None,
        tag=wish.tag,
        is_wanted=True,
        want_number=0,
        made_at=tx.now,
    )
    store.add_nic(tx, nic)
    return nic


def group_ids(tx: Tx, who: Caller, names: tuple[str, ...]) -> tuple[str, ...] | UnsetType:
    """Security groups by name or id; the default one alone is the network service's to find.

    Raises NotFound, Conflict for a name that several have."""
    if names in ((), (DEFAULT_GROUP,)):
        return UNSET
    return tuple(group_named(tx, who, name).id for name in names)


def group_named(tx: Tx, who: Caller, name: str) -> Group:
    """The caller's group of this name or id. Raises NotFound, Conflict."""
    for attribute in ("name", "id"):
        wanted = Search(filters=((attribute, (name,)), ("project_id", (who.home,))))
        found = network_groups.find_groups(tx, who, wanted)
        if len(found) > 1:
            raise Conflict(f"Multiple security groups found matching '{name[:255]}'. Use an ID.")
        if found:
            return found[0]
    raise NotFound(f"Security group {name[:255]} not found for project {who.home}.")


# --- shared by the verbs -----------------------------------------------------------------------------


def unhindered(tx: Tx, who: Caller, server_id: ServerId, event: str) -> Server:
    """The server, if it is nobody's but the caller's to change now. Raises NotFound, Conflict."""
    server = store.server(tx, who.reach, server_id)
    if server.is_locked and not who.is_admin:
        raise Conflict(f"Instance {server.id} is locked")
    if server.is_doomed:
        raise Conflict(f"Cannot '{event}' instance {server.id} while it is in task_state deleting")
    if server.moving in MOVING_TASKS:
        raise Conflict(
            f"Cannot '{event}' instance {server.id} while it is in task_state "
            f"{MOVING_TASKS[server.moving]}"
        )
    if server.moving is not None:
        raise Conflict(f"Cannot '{event}' instance {server.id} while it is in vm_state resized")
    return server


def changeable(tx: Tx, who: Caller, server_id: ServerId, event: str) -> Server:
    """The server, if `event` may happen to it now. Raises NotFound, Conflict."""
    server = unhindered(tx, who, server_id, event)
    if not SERVER_LIFE.allows(server.state, event):
        raise Conflict(
            f"Cannot '{event}' instance {server.id} while it is in vm_state {server.state}"
        )
    return server


def note(
    tx: Tx, who: Caller, server: Server, action: str, event: str, *, is_done: bool = False
) -> None:
    """File what was asked under the request's id."""
    store_actions.add_action(
        tx,
        server_id=server.id,
        project_id=server.project_id,
        user_id=who.user_id,
        request_id=who.request_id,
        action=action,
        event=event,
        node_id=server.node_id,
        finished_at=tx.now if is_done else None,
        result="Success" if is_done else None,
    )

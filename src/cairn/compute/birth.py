"""Making servers: everything that is checked, promised and written before the caller hears "accepted".

Flavor, image, key, zone and limits are checked once; then each server gets its row, its disks and its
ports. All of it is one transaction: a server that cannot have its port leaves nothing behind.
"""

import base64
import binascii
import re

from msgspec import Struct, structs

from cairn.compute import flavors, keypairs, marks, placing, quota, store, store_actions
from cairn.compute.metadata import hostname_of
from cairn.compute.plugs import (
    NicWish,
    device_after,
    device_named,
    group_ids,
    plug_nic,
)
from cairn.compute.records import Disk, Flavor, Server, ServerState
from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import FlavorId, ImageId, ServerId, SnapshotId, VolumeId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import DEFAULT_ZONE
from cairn.image import service as images
from cairn.image.records import Image
from cairn.network import service as network
from cairn.volume import service as volumes
from cairn.volume.records import GIB, VolumeWish
from cairn.wire.spec import Power

USER_DATA_BYTES_MAX = 64 << 10  # decoded; what clients' tools and the metadata service can carry
STOP_GRACE_S = 60  # for a guest to shut itself down, as Nova's default
METADATA_KEY = re.compile(r"[A-Za-z0-9_:. -]{1,255}")


class DiskWish(Struct, frozen=True, kw_only=True):
    """One line of a block device mapping."""

    source: str  # "image", "volume", "snapshot" or "blank"
    id: str | None
    to_volume: bool  # False: on the host, with the server
    size_gib: int | None = None
    boot_index: int | None = None
    delete_on_termination: bool = False
    device: str | None = None
    tag: str | None = None
    volume_type: str | None = None


class ServerWish(Struct, frozen=True, kw_only=True):
    """What a caller wants of new servers, whatever the API's version calls it."""

    name: str
    flavor_id: FlavorId
    image_id: ImageId | None = None
    disks: tuple[DiskWish, ...] = ()
    nics: tuple[NicWish, ...] | None = None  # None: in the one network that the project has
    groups: tuple[str, ...] = ("default",)  # security groups, by name or id
    key_name: str | None = None
    user_data: str | None = None  # base64
    has_config_drive: bool = False
    metadata: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    zone: str | None = None
    description: str | None = None
    hostname: str | None = None
    admin_password: str | None = None  # None: made here
    disk_config: str = "MANUAL"
    access_ipv4: str = ""
    access_ipv6: str = ""
    count: int = 1
    is_numbered: bool = False  # names end in -1, -2, ...


def create_servers(tx: Tx, who: Caller, wish: ServerWish) -> list[Server]:
    """Promise `wish.count` servers. Raises Invalid, NotFound, Conflict, OverQuota."""
    flavor = _flavor(tx, who, wish.flavor_id)
    image_id = _image_id(wish)
    image = _image(tx, who, image_id) if image_id else None
    _require_boot_disk(wish, image)
    if image is not None:
        _require_fit(image, flavor)
    if wish.zone is not None:
        _require_zone(tx, wish.zone)
    _require_user_data(wish.user_data)
    require_metadata(tx, who, wish.metadata)
    if wish.count > 1:
        _require_shareable(wish)
    quota.require_servers(tx, who.home, flavor, wish.count)
    base = _draft(tx, who, wish, flavor, image)
    made = [_make(tx, who, wish, base, index, image) for index in range(wish.count)]
    tx.wake(placing.PLACER)
    return made


def require_metadata(tx: Tx, who: Caller, items: dict[str, str]) -> None:
    """Raises Invalid: a bad key or value. OverQuota: too many."""
    for key, value in items.items():
        if METADATA_KEY.fullmatch(key) is None:
            raise Invalid(
                f"Invalid input for field/attribute metadata: the key '{key[:60]}' must have 1 to 255 "
                "letters, digits, spaces or any of '-_:.'."
            )
        if len(value) > 255:
            raise Invalid(
                f"Invalid input for field/attribute metadata: the value of '{key}' has more than "
                "255 characters."
            )
    marks.require_mark(items, marks.METADATA_KEY)
    quota.require_metadata(tx, who.home, items)


def _draft(tx: Tx, who: Caller, wish: ServerWish, flavor: Flavor, image: Image | None) -> Server:
    """What all servers of one call have in common."""
    return Server(
        id=ServerId(""),
        project_id=who.home,
        user_id=who.user_id,
        name=wish.name,
        description=wish.description,
        hostname="",
        created_at=tx.now,
        updated_at=tx.now,
        flavor=flavor,
        image_id=image.id if image else None,
        root_gib=_root_gib(flavor, image) if image else 0,
        key_name=wish.key_name,
        public_key=_public_key(tx, who, wish.key_name),
        admin_password=None,
        user_data=wish.user_data or None,
        has_config_drive=wish.has_config_drive,
        metadata=wish.metadata,
        tags=tuple(sorted(set(wish.tags))),
        groups=wish.groups,
        zone_wish=wish.zone,
        disk_config=wish.disk_config,
        access_ipv4=wish.access_ipv4,
        access_ipv6=wish.access_ipv6,
        reservation_id=f"r-{tx.random_bytes(4).hex()}",
        launch_index=0,
        is_locked=False,
        locked_reason=None,
        power=Power.RUNNING,
        boot_number=1,
        is_soft_reboot=False,
        stop_grace_s=STOP_GRACE_S,
        is_doomed=False,
        gone_number=None,
        node_id=None,
        zone=None,
        incarnation=0,
        state=ServerState.BUILDING,
        fault=None,
        launched_at=None,
        seen_state=None,
        seen_boot=0,
        seen_number=0,
        trouble=None,
        restart_default=marks.default(),
    )


def _make(
    tx: Tx, who: Caller, wish: ServerWish, base: Server, index: int, image: Image | None
) -> Server:
    server_id = ServerId(tx.new_id())
    name = f"{wish.name}-{index + 1}" if wish.is_numbered else wish.name
    host = wish.hostname or hostname_of(name, server_id)
    if wish.is_numbered and wish.hostname:
        host = f"{wish.hostname}-{index + 1}"
    server = structs.replace(
        base,
        id=server_id,
        name=name,
        hostname=host,
        admin_password=wish.admin_password or new_password(tx),
        launch_index=index,
    )
    store.add_server(tx, server)
    store_actions.add_action(
        tx,
        server_id=server.id,
        project_id=server.project_id,
        user_id=who.user_id,
        request_id=who.request_id,
        action="create",
        event="compute__do_build_and_run_instance",
        node_id=None,
    )
    _add_disks(tx, who, server, wish.disks)
    _add_nics(tx, who, server, wish)
    return server


def new_password(tx: Tx) -> str:
    """Twelve characters, none of them easily mistaken for another."""
    letters = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz"
    # 55 letters in 256 values: the first 36 are a little likelier, which costs less than 0.1 bit each.
    return "".join(letters[byte % len(letters)] for byte in tx.random_bytes(12))


# --- what it is made of ------------------------------------------------------------------------------


def _flavor(tx: Tx, who: Caller, flavor_id: FlavorId) -> Flavor:
    try:
        found = flavors.get(tx, who, flavor_id)
    except NotFound as error:
        raise Invalid(error.message) from error
    if found.is_disabled:
        raise Invalid(f"Flavor {found.name} is disabled.")
    return found


def _image_id(wish: ServerWish) -> ImageId | None:
    """The image of a root disk on the host: named as imageRef, or as a local disk with boot index 0."""
    local = [d for d in wish.disks if d.source == "image" and not d.to_volume]
    for disk in local:
        if disk.boot_index != 0:
            raise Invalid(
                "Block Device Mapping is Invalid: only the boot disk may be a local image."
            )
        if wish.image_id is not None and disk.id != wish.image_id:
            raise Invalid("Block Device Mapping is Invalid: its boot image is not imageRef.")
    if local:
        return ImageId(local[0].id or "")
    return wish.image_id


def _image(tx: Tx, who: Caller, image_id: ImageId) -> Image:
    try:
        return images.image_for_boot(tx, who, image_id)
    except NotFound as error:
        raise Invalid(f"Can not find requested image {image_id[:64]}.") from error


def _require_boot_disk(wish: ServerWish, image: Image | None) -> None:
    boot = [d for d in wish.disks if d.boot_index == 0]
    by_volume = [d for d in boot if d.to_volume]
    indexes = [d.boot_index for d in wish.disks if d.boot_index is not None and d.boot_index >= 0]
    if len(set(indexes)) != len(indexes) or len(boot) > 1:
        raise Invalid("Block Device Mapping is Invalid: two disks have the same boot index.")
    if image is not None and by_volume:
        raise Invalid("Block Device Mapping is Invalid: imageRef excludes a volume to boot from.")
    if image is None and not by_volume:
        raise Invalid(
            "Block Device Mapping is Invalid: nothing to boot from. Give imageRef, or a disk with "
            "boot_index 0."
        )
    if by_volume and by_volume[0].source == "blank":
        raise Invalid("Block Device Mapping is Invalid: a blank volume cannot be booted from.")
    for disk in wish.disks:
        if not disk.to_volume and disk.source != "image":
            raise Invalid(
                "Block Device Mapping is Invalid: local ephemeral and swap disks are not offered; "
                "use destination_type 'volume'."
            )


def _require_fit(image: Image, flavor: Flavor) -> None:
    if image.min_ram_mib > flavor.memory_mib:
        raise Invalid(
            f"Flavor's memory is too small for requested image: it has {flavor.memory_mib} MiB, the "
            f"image needs {image.min_ram_mib}."
        )
    if flavor.disk_gib == 0:
        return
    needed_gib = _least_gib(image)
    if needed_gib > flavor.disk_gib:
        raise Invalid(
            f"Flavor's disk is too small for requested image. Flavor disk is {flavor.disk_gib} GiB, "
            f"the image needs {needed_gib}."
        )


def _root_gib(flavor: Flavor, image: Image) -> int:
    return flavor.disk_gib or max(_least_gib(image), 1)


def _least_gib(image: Image) -> int:
    return max(image.min_disk_gib, -(-(image.virtual_bytes or 0) // GIB))


def _require_zone(tx: Tx, zone: str) -> None:
    known = fleet.zones(tx) | {DEFAULT_ZONE}
    if zone not in known:
        raise Invalid(f"The requested availability zone is not available: '{zone[:255]}'.")


def _public_key(tx: Tx, who: Caller, key_name: str | None) -> str | None:
    if key_name is None:
        return None
    try:
        return keypairs.get(tx, who.user_id, key_name).public_key
    except NotFound as error:
        raise Invalid(f"Invalid key_name provided: '{key_name[:255]}'.") from error


def _require_user_data(user_data: str | None) -> None:
    if not user_data:
        return
    try:
        data = base64.b64decode(user_data, validate=True)
    except (ValueError, binascii.Error) as error:
        raise Invalid("Invalid input for field/attribute user_data: it is not base64.") from error
    if len(data) > USER_DATA_BYTES_MAX:
        raise Invalid(
            "Invalid input for field/attribute user_data: it has more than "
            f"{USER_DATA_BYTES_MAX} bytes."
        )


def _require_shareable(wish: ServerWish) -> None:
    if any(d.source == "volume" for d in wish.disks):
        raise Invalid("Cannot attach one or more volumes to multiple instances.")
    if any(nic.port_id is not None for nic in wish.nics or ()):
        raise Invalid("Unable to launch multiple instances with a single configured port ID.")
    if any(nic.fixed_ip is not None for nic in wish.nics or ()):
        raise Invalid("max_count cannot be greater than 1 if a fixed_ip is specified.")


# --- its disks and nics ------------------------------------------------------------------------------


def _add_disks(tx: Tx, who: Caller, server: Server, wishes: tuple[DiskWish, ...]) -> None:
    taken = ["vda"] if server.root_gib else []
    boot_first = sorted(
        (d for d in wishes if d.to_volume),
        key=lambda d: d.boot_index if d.boot_index is not None and d.boot_index >= 0 else 1000,
    )
    for disk in boot_first:
        device = device_named(disk.device, taken) if disk.boot_index != 0 else "vda"
        device = device or device_after(taken)
        taken.append(device)
        volume_id = _volume(tx, who, server, disk, device)
        store.add_disk(
            tx,
            Disk(
                id=tx.new_id(),
                server_id=server.id,
                volume_id=volume_id,
                device=device,
                is_boot=disk.boot_index == 0,
                delete_on_termination=disk.delete_on_termination,
                tag=disk.tag,
                is_wanted=True,
                want_number=0,
                is_plugged=False,
                made_at=tx.now,
            ),
        )


def _volume(tx: Tx, who: Caller, server: Server, disk: DiskWish, device: str) -> VolumeId:
    """An existing volume, promised to the server; or a new one made for it."""
    try:
        if disk.source == "volume":
            volume_id = VolumeId(disk.id or "")
            if disk.boot_index == 0 and not volumes.get(tx, who, volume_id).is_bootable:
                raise Invalid(
                    f"Block Device Mapping is Invalid: volume {volume_id} is not bootable."
                )
            volumes.attach(tx, who, volume_id, server.id, device)
            return volume_id
        if disk.source == "blank" and not disk.size_gib:
            raise Invalid("Block Device Mapping is Invalid: a blank volume needs volume_size.")
        wish = VolumeWish(
            size_gib=disk.size_gib,
            name="",
            type=disk.volume_type,
            image_id=ImageId(disk.id or "") if disk.source == "image" else None,
            snapshot_id=SnapshotId(disk.id or "") if disk.source == "snapshot" else None,
            for_server=server.id,
            device=device,
        )
        return volumes.create(tx, who, wish).id
    except (NotFound, Conflict) as error:
        raise Invalid(f"Block Device Mapping is Invalid: {error.message}") from error


def _add_nics(tx: Tx, who: Caller, server: Server, wish: ServerWish) -> None:
    nics = wish.nics if wish.nics is not None else _usual_nics(tx, who)
    if not nics:
        return
    try:
        ids = group_ids(tx, who, wish.groups)
        for position, nic in enumerate(nics):
            plug_nic(tx, who, server, nic, ids, position)
    except NotFound as error:
        raise Invalid(error.message, because=error.because) from error


def _usual_nics(tx: Tx, who: Caller) -> tuple[NicWish, ...]:
    """For a caller who names no network: the only one there is, or none."""
    found = network.networks_for_server(tx, who)
    if len(found) > 1:
        raise Conflict("Multiple possible networks found, use a Network ID to be more specific.")
    return tuple(NicWish(network_id=n.id) for n in found)

"""What callers may send about servers, as strict as Nova's own schemas.

Which fields exist depends on the microversion: a record lists all of them, `SINCE` and `UNTIL` say when
each came or went, and `require_version` refuses those of another time.
"""

import ipaddress
import re
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from cairn.core.errors import Invalid

Text255 = Annotated[str, Meta(max_length=255)]
Number = int | Annotated[str, Meta(pattern=r"^-?[0-9]{1,12}$")]
Flag = (
    bool
    | Literal["True", "true", "TRUE", "False", "false", "FALSE", "1", "0", "on", "off", "yes", "no"]
)
Id = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$")]
Tag = Annotated[str, Meta(min_length=1, max_length=60)]
Metadata = dict[str, str]

_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_DOMAIN_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


class Strict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Refuses what it does not know."""


class NamedGroup(Strict, frozen=True, kw_only=True):
    name: Text255


class NewNic(Strict, frozen=True, kw_only=True):
    network_id: str | None = field(default=None, name="uuid")
    port_id: str | None = field(default=None, name="port")
    fixed_ip: str | None = None
    tag: Tag | None = None


class NewDisk(Strict, frozen=True, kw_only=True):
    """One line of block_device_mapping_v2."""

    uuid: str | None = None
    source_type: Literal["image", "volume", "snapshot", "blank"] = "volume"
    destination_type: Literal["volume", "local"] | None = None
    volume_size: Number | None = None
    boot_index: Number | None = None
    delete_on_termination: Flag = False
    device_name: Text255 | None = None
    device_type: Text255 | None = None
    disk_bus: Text255 | None = None
    guest_format: Text255 | None = None
    no_device: Flag | None = None
    tag: Tag | None = None
    volume_type: Text255 | None = None


class NewServer(Strict, frozen=True, kw_only=True):
    name: Text255
    flavor: str | int = field(name="flavorRef")
    image: str | None = field(default=None, name="imageRef")
    nics: tuple[NewNic, ...] | str | UnsetType | None = field(default=UNSET, name="networks")
    disks: Annotated[tuple[NewDisk, ...], Meta(max_length=255)] = field(
        default=(), name="block_device_mapping_v2"
    )
    groups: tuple[NamedGroup, ...] = field(default=(), name="security_groups")
    key_name: Text255 | None = None
    user_data: Annotated[str, Meta(max_length=98304)] | None = None
    config_drive: Flag | None = None
    metadata: Metadata = {}
    zone: Text255 | None = field(default=None, name="availability_zone")
    admin_password: str | None = field(default=None, name="adminPass")
    access_ipv4: str | None = field(default=None, name="accessIPv4")
    access_ipv6: str | None = field(default=None, name="accessIPv6")
    disk_config: Literal["AUTO", "MANUAL"] = field(default="MANUAL", name="OS-DCF:diskConfig")
    min_count: Number | None = None
    max_count: Number | None = None
    wants_reservation: Flag = field(default=False, name="return_reservation_id")
    description: Text255 | UnsetType | None = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    hostname: str | UnsetType = UNSET
    personality: tuple[Any, ...] | UnsetType = UNSET
    certificates: Any = field(default=UNSET, name="trusted_image_certificates")
    host: Any = UNSET
    hypervisor_hostname: Any = UNSET


class CreateServer(Strict, frozen=True, kw_only=True):
    server: NewServer
    hints: dict[str, Any] = field(default={}, name="os:scheduler_hints")
    old_hints: dict[str, Any] = field(default={}, name="OS-SCH-HNT:scheduler_hints")


class ChangedServer(Strict, frozen=True, kw_only=True):
    name: Text255 | UnsetType = UNSET
    disk_config: Literal["AUTO", "MANUAL"] | UnsetType = field(
        default=UNSET, name="OS-DCF:diskConfig"
    )
    access_ipv4: str | UnsetType | None = field(default=UNSET, name="accessIPv4")
    access_ipv6: str | UnsetType | None = field(default=UNSET, name="accessIPv6")
    description: Text255 | UnsetType | None = UNSET
    hostname: str | UnsetType = UNSET


class UpdateServer(Strict, frozen=True, kw_only=True):
    server: ChangedServer


class Items(Strict, frozen=True, kw_only=True):
    metadata: Metadata


class Item(Strict, frozen=True, kw_only=True):
    meta: Metadata


class Tags(Strict, frozen=True, kw_only=True):
    tags: Annotated[tuple[str, ...], Meta(max_length=50)]


class VolumeToAttach(Strict, frozen=True, kw_only=True):
    volume_id: Id = field(name="volumeId")
    device: Text255 | None = None
    tag: Tag | UnsetType | None = UNSET
    delete_on_termination: Flag | UnsetType = UNSET


class AttachVolume(Strict, frozen=True, kw_only=True):
    attachment: VolumeToAttach = field(name="volumeAttachment")


class FixedIp(Strict, frozen=True, kw_only=True):
    ip_address: str


class NicToAttach(Strict, frozen=True, kw_only=True):
    network_id: Id | None = field(default=None, name="net_id")
    port_id: Id | None = None
    fixed_ips: Annotated[tuple[FixedIp, ...], Meta(min_length=1, max_length=1)] = ()
    tag: Tag | UnsetType | None = UNSET


class AttachNic(Strict, frozen=True, kw_only=True):
    attachment: NicToAttach = field(default=NicToAttach(), name="interfaceAttachment")


class WantedConsole(Strict, frozen=True, kw_only=True):
    protocol: Literal["vnc", "spice", "rdp", "serial", "mks"]
    type: Literal["novnc", "xvpvnc", "spice-html5", "rdp-html5", "serial", "webmks"]


class OpenConsole(Strict, frozen=True, kw_only=True):
    console: WantedConsole = field(name="remote_console")


# --- fields that came and went -----------------------------------------------------------------------

SINCE: dict[str, int] = {
    "description": 19,
    "tags": 52,
    "certificates": 63,
    "host": 74,
    "hypervisor_hostname": 74,
    "hostname": 90,
    "delete_on_termination": 79,
    "tag": 49,
}
UNTIL: dict[str, int] = {"personality": 56}
"""Microversions 2.x in which a field of these bodies exists."""


def require_version(body: Struct, minor: int) -> None:
    """Invalid when `body` has a field that the request's version does not know."""
    for name in body.__struct_fields__:
        if getattr(body, name) is UNSET:
            continue
        if minor < SINCE.get(name, 0) or minor > UNTIL.get(name, 10**6):
            raise Invalid(
                f"Additional properties are not allowed ('{name}' was unexpected in version 2.{minor})"
            )


# --- values ------------------------------------------------------------------------------------------


def flag(value: bool | str | None) -> bool:
    return value is True or str(value).lower() in ("true", "1", "on", "yes")


def name_of(text: str, field_name: str = "name") -> str:
    """A name without blanks around it. Raises Invalid when nothing is left, or it cannot be printed."""
    name = text.strip()
    if not name or not name.isprintable():
        raise Invalid(
            f"Invalid input for field/attribute {field_name}: it must have 1 to 255 printable "
            "characters."
        )
    return name


def hostname_of(text: str, *, allows_domain: bool) -> str:
    pattern, longest = (_DOMAIN_NAME, 255) if allows_domain else (_HOSTNAME, 63)
    if len(text) > longest or pattern.fullmatch(text) is None:
        raise Invalid(
            "Invalid input for field/attribute hostname: it must be letters, digits and dashes, at "
            f"most {longest} of them."
        )
    return text


def tag_of(text: str) -> str:
    if not 1 <= len(text) <= 60 or "," in text or "/" in text:
        raise Invalid(
            f"Invalid input for field/attribute tags: '{text[:60]}' must have 1 to 60 characters and "
            "neither ',' nor '/'."
        )
    return text


def address(text: str | None, version: int) -> str:
    """An access address, or "" for none. Raises Invalid."""
    if not text:
        return ""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        found = None
    if found is None or found.version != version:
        raise Invalid(f"Invalid input for field/attribute accessIPv{version}: '{text[:60]}'.")
    return str(found)  # One spelling of each address: IPv6 has many.


def integer(value: int | str | None, field_name: str, *, minimum: int) -> int | None:
    if value is None:
        return None
    number = int(value)
    if not minimum <= number <= 2**31 - 1:
        raise Invalid(
            f"Invalid input for field/attribute {field_name}. Value: {number}. "
            f"{number} is less than the minimum of {minimum} or too large."
        )
    return number

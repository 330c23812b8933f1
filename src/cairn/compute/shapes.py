"""How servers look over the API, in each microversion.

Replies are plain mappings, made here and encoded at once: which keys they have depends on the version,
the caller and the route, and a record type for each mix would be longer than this file. What clients
check is listed in the api-ref ("Show Server Details") and in the closed schemas of their tests.
"""

import functools
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from cairn.compute.records import (
    POWER_STATES,
    STATUSES,
    Disk,
    Server,
    ServerState,
    task_of,
)
from cairn.core.ids import NodeId, ServerId
from cairn.fleet.records import NodeState
from cairn.fleet.service import Glance
from cairn.http.call import Call
from cairn.network.records import ServerPort

Body = dict[str, Any]


class Frame(Struct, frozen=True, kw_only=True):
    """What a reply depends on besides the servers."""

    minor: int  # of the microversion 2.x
    root: str  # "https://cloud.example:8443/compute"
    is_admin: bool
    disks: Mapping[ServerId, list[Disk]] = {}
    ports: Mapping[ServerId, tuple[ServerPort, ...]] = {}
    nodes: Mapping[NodeId, Glance] = {}  # for administrators only


MOVING_STATUSES = {"live": "MIGRATING", "cold": "RESIZE", "moved": "VERIFY_RESIZE"}


def minor_of(call: Call[Any]) -> int:
    return call.version.minor if call.version else 1


def time_text(at: datetime) -> str:
    """Seconds and a Z, as Nova writes times."""
    return at.isoformat()[:19] + "Z"


def links(root: str, collection: str, name: str) -> list[Body]:
    return [
        {"rel": "self", "href": f"{root}/v2.1/{collection}/{name}"},
        {"rel": "bookmark", "href": f"{root}/{collection}/{name}"},
    ]


def bookmark(root: str, collection: str, name: str) -> list[Body]:
    return [{"rel": "bookmark", "href": f"{root}/{collection}/{name}"}]


def brief(server: Server, frame: Frame) -> Body:
    return {"id": server.id, "name": server.name, "links": links(frame.root, "servers", server.id)}


def detail(server: Server, frame: Frame, *, in_list: bool) -> Body:
    """A server with all that show and the detailed list have."""
    body = _core(server, frame, with_macs=True)
    body |= _state(server)
    body |= _belongings(server, frame)
    minor = frame.minor
    if frame.is_admin:
        body |= _for_administrators(server, frame)
    elif minor >= 90:
        body["OS-EXT-SRV-ATTR:hostname"] = server.hostname
    if minor >= 71 and not in_list:
        body["server_groups"] = []
    return body


def updated(server: Server, frame: Frame) -> Body:
    """What an update answers: less than show until 2.75, the same since."""
    if frame.minor >= 75:
        return detail(server, frame, in_list=False)
    body = _core(server, frame, with_macs=False)
    if frame.minor >= 71:
        body["server_groups"] = []
    return body


def addresses(ports: tuple[ServerPort, ...], *, with_macs: bool) -> dict[str, list[Body]]:
    """Fixed and floating addresses by the network's name."""
    found: dict[str, list[Body]] = {}
    for port in ports:
        of_network = found.setdefault(port.network_name, [])
        floating = {fixed: outside for outside, fixed in port.floating}
        for held in port.addresses:
            of_network.append(_address(held.ip, port.mac, "fixed", with_macs))
            if (outside := floating.get(held.ip)) is not None:
                of_network.append(_address(outside, port.mac, "floating", with_macs))
    return found


def _address(ip: str, mac: str, kind: str, with_macs: bool) -> Body:
    body: Body = {"version": 6 if ":" in ip else 4, "addr": ip}
    if with_macs:
        body["OS-EXT-IPS:type"] = kind
        body["OS-EXT-IPS-MAC:mac_addr"] = mac
    return body


def _core(server: Server, frame: Frame, *, with_macs: bool) -> Body:
    minor, root = frame.minor, frame.root
    status = STATUSES[server.state]
    if server.state is ServerState.ACTIVE and "rebooting" in (task := task_of(server) or ""):
        status = "REBOOT" if task == "rebooting" else "HARD_REBOOT"
    if server.moving is not None:
        status = MOVING_STATUSES[server.moving]
    ports = frame.ports.get(server.id, ())
    body: Body = {
        "id": server.id,
        "name": server.name,
        "status": status,
        "tenant_id": server.project_id,
        "user_id": server.user_id,
        "metadata": server.metadata,
        "hostId": host_id(server.project_id, server.node_id) if server.node_id else "",
        "image": _image(server, root),
        "flavor": _flavor(server, frame),
        "created": time_text(server.created_at),
        "updated": time_text(server.updated_at),
        "addresses": addresses(ports, with_macs=with_macs),
        "accessIPv4": server.access_ipv4,
        "accessIPv6": server.access_ipv6,
        "links": links(root, "servers", server.id),
        "OS-DCF:diskConfig": server.disk_config,
    }
    if status in ("ACTIVE", "BUILD", "REBOOT", "HARD_REBOOT", *MOVING_STATUSES.values()):
        body["progress"] = 0
    if (fault := _fault(server, frame)) is not None:
        body["fault"] = fault
    if minor >= 9:
        body["locked"] = server.is_locked
    if minor >= 19:
        body["description"] = server.description
    if minor >= 26:
        body["tags"] = server.tags
    if minor >= 63:
        body["trusted_image_certificates"] = None
    if minor >= 73:
        body["locked_reason"] = server.locked_reason
    if minor >= 96:
        body["pinned_availability_zone"] = server.zone_wish
    return body


def _state(server: Server) -> Body:
    launched = server.launched_at
    return {
        "OS-EXT-STS:task_state": task_of(server),
        "OS-EXT-STS:vm_state": "resized" if server.moving == "moved" else server.state,
        "OS-EXT-STS:power_state": POWER_STATES[server.seen_state],
        "OS-EXT-AZ:availability_zone": server.zone or "",
        "OS-SRV-USG:launched_at": launched.isoformat()[:19] + ".000000" if launched else None,
        "OS-SRV-USG:terminated_at": None,
    }


def _belongings(server: Server, frame: Frame) -> Body:
    disks = frame.disks.get(server.id, [])
    body: Body = {
        "key_name": server.key_name,
        "config_drive": "True" if server.has_config_drive else "",
        "os-extended-volumes:volumes_attached": [
            {"id": disk.volume_id, "delete_on_termination": disk.delete_on_termination}
            if frame.minor >= 3
            else {"id": disk.volume_id}
            for disk in disks
        ],
    }
    if frame.ports.get(server.id) and server.groups:
        body["security_groups"] = [{"name": name} for name in server.groups]
    return body


def _for_administrators(server: Server, frame: Frame) -> Body:
    node = frame.nodes.get(server.node_id) if server.node_id else None
    host = node.hostname if node else None
    body: Body = {
        "OS-EXT-SRV-ATTR:host": host,
        "OS-EXT-SRV-ATTR:instance_name": f"cairn-{server.id[:8]}",
        "OS-EXT-SRV-ATTR:hypervisor_hostname": host,
    }
    if frame.minor >= 3:
        body |= {
            "OS-EXT-SRV-ATTR:reservation_id": server.reservation_id,
            "OS-EXT-SRV-ATTR:launch_index": server.launch_index,
            "OS-EXT-SRV-ATTR:hostname": server.hostname,
            "OS-EXT-SRV-ATTR:kernel_id": "",
            "OS-EXT-SRV-ATTR:ramdisk_id": "",
            "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
            "OS-EXT-SRV-ATTR:user_data": server.user_data,
        }
    if frame.minor >= 16:
        body["host_status"] = _host_status(node)
    return body


def _host_status(node: Glance | None) -> str:
    if node is None:
        return ""
    if not node.enabled:
        return "MAINTENANCE"
    return "UP" if node.state is NodeState.UP else "UNKNOWN"


def _image(server: Server, root: str) -> Body | str:
    """Servers that boot from a volume show an empty text."""
    if server.image_id is None:
        return ""
    return {"id": server.image_id, "links": bookmark(root, "images", server.image_id)}


def _flavor(server: Server, frame: Frame) -> Body:
    flavor = server.flavor
    if frame.minor < 47:
        return {"id": flavor.id, "links": bookmark(frame.root, "flavors", flavor.id)}
    return {
        "vcpus": flavor.vcpus,
        "ram": flavor.memory_mib,
        "disk": flavor.disk_gib,
        "ephemeral": flavor.ephemeral_gib,
        "swap": flavor.swap_mib,
        "original_name": flavor.name,
        "extra_specs": flavor.extra_specs,
    }


def _fault(server: Server, frame: Frame) -> Body | None:
    """Why it is in ERROR; while it is being built also why that takes so long."""
    if server.state is ServerState.ERROR and server.fault is not None:
        fault = server.fault
        body: Body = {
            "code": fault.code,
            "created": time_text(fault.created_at),
            "message": fault.message,
        }
        if frame.is_admin and fault.details:
            body["details"] = fault.details
        return body
    if server.trouble is not None and server.state is not ServerState.ERROR:
        return {
            "code": 500,
            "created": time_text(server.updated_at),
            "message": server.trouble.message,
        }
    return None


@functools.lru_cache(maxsize=65536)
def host_id(project_id: str, node_id: str) -> str:
    """Tells a project which of its servers share a host, without naming it."""
    return hashlib.sha224((project_id + node_id).encode()).hexdigest()

"""Volumes and interfaces of servers over the API."""

from typing import Any

from msgspec import UNSET

from cairn.compute import bodies, plugs, service, store
from cairn.compute.api_servers import server_id
from cairn.compute.bodies import AttachNic, AttachVolume
from cairn.compute.plugs import NicWish
from cairn.compute.records import Disk, Nic
from cairn.compute.shapes import minor_of
from cairn.core.errors import NotFound
from cairn.core.ids import PortId, VolumeId
from cairn.db.engine import Tx
from cairn.http import pages
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.network import service as network
from cairn.network.records import ServerPort

# --- volumes -----------------------------------------------------------------------------------------


def list_volumes(tx: Tx, call: Call[None]) -> Any:
    server = service.get(tx, call.who, server_id(call))
    disks = store.disks_of(tx, [server.id]).get(server.id, [])
    offset = call.query.integer("offset") or 0
    page = disks[offset : offset + pages.page_of(call).limit]
    return {"volumeAttachments": [_disk(disk, minor_of(call), is_new=False) for disk in page]}


def show_volume(tx: Tx, call: Call[None]) -> Any:
    server = service.get(tx, call.who, server_id(call))
    disk = plugs.disk_of(tx, server, VolumeId(call.path["volume_id"]))
    return {"volumeAttachment": _disk(disk, minor_of(call), is_new=False)}


def attach_volume(tx: Tx, call: Call[AttachVolume]) -> Any:
    asked = call.body.attachment
    bodies.require_version(asked, minor_of(call))
    disk = plugs.attach_volume(
        tx,
        call.who,
        server_id(call),
        VolumeId(asked.volume_id),
        device=asked.device,
        tag=None if asked.tag is UNSET else asked.tag,
        delete_on_termination=asked.delete_on_termination is not UNSET
        and bodies.flag(asked.delete_on_termination),
    )
    return {"volumeAttachment": _disk(disk, minor_of(call), is_new=True)}


def detach_volume(tx: Tx, call: Call[None]) -> None:
    plugs.detach_volume(tx, call.who, server_id(call), VolumeId(call.path["volume_id"]))


def _disk(disk: Disk, minor: int, *, is_new: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "serverId": disk.server_id,
        "volumeId": disk.volume_id,
        "device": f"/dev/{disk.device}",
    }
    if minor < 89 or is_new:
        body["id"] = disk.volume_id
    else:
        body |= {"attachment_id": disk.id, "bdm_uuid": disk.id}
    if minor >= 70:
        body["tag"] = disk.tag
    if minor >= 79:
        body["delete_on_termination"] = disk.delete_on_termination
    return body


# --- interfaces --------------------------------------------------------------------------------------


def list_interfaces(tx: Tx, call: Call[None]) -> Any:
    server = service.get(tx, call.who, server_id(call))
    nics = {nic.port_id: nic for nic in store.nics_of(tx, [server.id]).get(server.id, [])}
    found = [
        _interface(port, nics.get(port.port_id), minor_of(call))
        for port in network.server_ports(tx, [server.id]).get(server.id, ())
    ]
    return {"interfaceAttachments": found}


def show_interface(tx: Tx, call: Call[None]) -> Any:
    return {"interfaceAttachment": _shown(tx, call, PortId(call.path["port_id"]))}


def attach_interface(tx: Tx, call: Call[AttachNic]) -> Any:
    asked = call.body.attachment
    bodies.require_version(asked, minor_of(call))
    wish = NicWish(
        network_id=None if asked.port_id else asked.network_id,
        port_id=asked.port_id,
        fixed_ip=asked.fixed_ips[0].ip_address if asked.fixed_ips else None,
        tag=None if asked.tag is UNSET else asked.tag,
    )
    port_id = plugs.attach_interface(tx, call.who, server_id(call), wish)
    return {"interfaceAttachment": _shown(tx, call, port_id)}


def detach_interface(tx: Tx, call: Call[None]) -> None:
    plugs.detach_interface(tx, call.who, server_id(call), PortId(call.path["port_id"]))


def _shown(tx: Tx, call: Call[Any], port_id: PortId) -> dict[str, Any]:
    server = service.get(tx, call.who, server_id(call))
    nic = plugs.nic_of(tx, server, port_id)
    for port in network.server_ports(tx, [server.id]).get(server.id, ()):
        if port.port_id == port_id:
            return _interface(port, nic, minor_of(call))
    raise NotFound(f"Port id {port_id[:64]} could not be found.")


def _interface(port: ServerPort, nic: Nic | None, minor: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "net_id": port.network_id,
        "port_id": port.port_id,
        "mac_addr": port.mac,
        "port_state": "ACTIVE" if port.is_up else "DOWN",
        "fixed_ips": [{"subnet_id": a.subnet_id, "ip_address": a.ip} for a in port.addresses],
    }
    if minor >= 70:
        body["tag"] = nic.tag if nic else None
    return body


def _route(method: str, path: str, rule: str, do: Any, **options: Any) -> Route:
    return Route(
        method=method,
        path="/v2.1/servers/{server_id}" + path,
        rule=f"os_compute_api:{rule}",
        do=do,
        **options,
    )


_VOLUMES, _ONE_VOLUME = "/os-volume_attachments", "/os-volume_attachments/{volume_id}"
_NICS, _ONE_NIC = "/os-interface", "/os-interface/{port_id}"

ROUTES = (
    _route("GET", _VOLUMES, "os-volumes-attachments:index", list_volumes),
    _route("POST", _VOLUMES, "os-volumes-attachments:create", attach_volume, body=AttachVolume),
    _route("GET", _ONE_VOLUME, "os-volumes-attachments:show", show_volume),
    _route("DELETE", _ONE_VOLUME, "os-volumes-attachments:delete", detach_volume, status=202),
    _route("GET", _NICS, "os-attach-interfaces:list", list_interfaces),
    _route("POST", _NICS, "os-attach-interfaces:create", attach_interface, body=AttachNic),
    _route("GET", _ONE_NIC, "os-attach-interfaces:show", show_interface),
    _route("DELETE", _ONE_NIC, "os-attach-interfaces:delete", detach_interface, status=202),
)

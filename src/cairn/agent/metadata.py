"""What a guest is told about itself, as the files of OpenStack's metadata and of EC2's. Pure.

The same files are served on 169.254.169.254 and written to the config drive. Sources: Nova
administrator guide, "Metadata service" and "Config drives"; network_data.json schema (Nova,
doc/api_schemas/network_data.json); EC2 instance metadata, version 2009-04-04.
"""

import ipaddress
from collections.abc import Mapping, Sequence

import msgspec

from cairn.wire.spec import GuestMetadata, GuestSpec, PortAddress, PortSpec

Documents = Mapping[str, bytes]
"""By path without a leading slash: "openstack/latest/meta_data.json"."""

OPENSTACK_VERSIONS = (
    "2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06",
    "2017-02-22", "2018-08-27", "2020-10-14", "latest",
)  # fmt: skip
EC2_VERSIONS = ("1.0", "2007-01-19", "2008-02-01", "2008-09-01", "2009-04-04", "latest")


def documents(guest: GuestSpec, ports: Sequence[PortSpec]) -> Documents:
    """All files of one guest; every OpenStack version tells the same."""
    told = guest.metadata or GuestMetadata(hostname=guest.name, project_id="", availability_zone="")
    latest = {
        "meta_data.json": _json(_meta_data(guest, told)),
        "network_data.json": _json(network_data(ports)),
        "vendor_data.json": b"{}",
        "vendor_data2.json": b"{}",
    }
    if told.user_data:
        latest["user_data"] = told.user_data
    files = {f"openstack/{v}/{n}": data for v in OPENSTACK_VERSIONS for n, data in latest.items()}
    for version in EC2_VERSIONS:
        for name, data in _ec2(guest, told, ports).items():
            files[f"{version}/{name}"] = data
    return files


def listing(files: Documents, folder: str) -> bytes | None:
    """The names below a folder, a line each, as both services list them; None if there is no such folder."""
    prefix = folder.strip("/")
    prefix = prefix + "/" if prefix else ""
    names = {
        rest.split("/", 1)[0] + ("/" if "/" in rest and not folder.startswith("openstack") else "")
        for rest in (path[len(prefix) :] for path in files if path.startswith(prefix))
    }
    return "\n".join(sorted(names)).encode() if names else None


def network_data(ports: Sequence[PortSpec]) -> dict[str, object]:
    """Links, networks and services of all ports, in order."""
    networks: list[dict[str, object]] = []
    for port in ports:
        for address in port.addresses:
            networks.append(_network(port, address, len(networks)))
    services = [
        {"type": "dns", "address": ip}
        for ip in dict.fromkeys(ip for p in ports for a in p.addresses for ip in a.dns)
    ]
    return {"links": [_link(p) for p in ports], "networks": networks, "services": services}


def _meta_data(guest: GuestSpec, told: GuestMetadata) -> dict[str, object]:
    data: dict[str, object] = {
        "uuid": guest.id,
        "name": guest.name,
        "hostname": told.hostname,
        "launch_index": told.launch_index,
        "availability_zone": told.availability_zone,
        "project_id": told.project_id,
        "meta": told.meta,
        "devices": [],
        "dedicated_cpus": [],
    }
    if told.public_key is not None:
        name = told.key_name or "default"
        data["public_keys"] = {name: told.public_key}
        data["keys"] = [{"name": name, "type": "ssh", "data": told.public_key}]
    if told.admin_password is not None:
        data["admin_pass"] = told.admin_password
    return data


def _link(port: PortSpec) -> dict[str, object]:
    return {
        "id": f"tap{port.id[:11]}",
        "vif_id": port.id,
        "type": "ovs",
        "mtu": port.mtu,
        "ethernet_mac_address": port.mac,
    }


def _network(port: PortSpec, address: PortAddress, index: int) -> dict[str, object]:
    network: dict[str, object] = {
        "id": f"network{index}",
        "link": f"tap{port.id[:11]}",
        "network_id": port.network_id,
    }
    subnet = ipaddress.ip_network(address.cidr)
    version = subnet.version
    if address.dhcp:
        return {**network, "type": f"ipv{version}_dhcp"}
    routes = [
        {
            "network": str(ipaddress.ip_network(destination).network_address),
            "netmask": str(ipaddress.ip_network(destination).netmask),
            "gateway": hop,
        }
        for destination, hop in address.routes
    ]
    if address.gateway_ip is not None:
        nowhere = "0.0.0.0" if version == 4 else "::"  # noqa: S104 - a route, not a listener
        routes.append({"network": nowhere, "netmask": nowhere, "gateway": address.gateway_ip})
    return {
        **network,
        "type": f"ipv{version}",
        "ip_address": address.ip,
        "netmask": str(subnet.netmask),
        "routes": routes,
        "services": [{"type": "dns", "address": ip} for ip in address.dns],
    }


def _ec2(guest: GuestSpec, told: GuestMetadata, ports: Sequence[PortSpec]) -> dict[str, bytes]:
    first_ip = next((a.ip for p in ports for a in p.addresses if ":" not in a.ip), "")
    values = {
        "ami-launch-index": str(told.launch_index),
        "hostname": told.hostname,
        "instance-id": f"i-{guest.id.replace('-', '')[:8]}",
        "local-hostname": told.hostname,
        "local-ipv4": first_ip,
        "placement/availability-zone": told.availability_zone,
        "public-hostname": told.hostname,
        "reservation-id": f"r-{guest.id.replace('-', '')[:8]}",
    }
    if told.public_key is not None:
        values["public-keys/0/openssh-key"] = told.public_key
    files = {f"meta-data/{name}": value.encode() for name, value in values.items()}
    if told.user_data:
        files["user-data"] = told.user_data
    return files


def _json(data: object) -> bytes:
    return msgspec.json.encode(data)

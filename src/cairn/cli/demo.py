"""`cairn up --demo`: a first server, over the public API only, as any user would make it.

Everything is looked up by name before it is made, so the demonstration may be cut off anywhere and run
again: what exists is used.
"""

import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from cairn.cli.cloud import Cloud, until
from cairn.cli.progress import Step, Steps
from cairn.core.errors import CloudError, Unavailable
from cairn.host import credentials, probe_image
from cairn.host.images import ensure_probe
from cairn.settings import Settings

IMAGE = "probe"
SERVER = "first"
KEY = "demo"
FLAVORS = (
    {"name": "probe", "vcpus": 1, "ram": 192, "disk": 1},
    {"name": "m1.tiny", "vcpus": 1, "ram": 512, "disk": 1},
    {"name": "m1.small", "vcpus": 1, "ram": 2048, "disk": 20},
    {"name": "m1.medium", "vcpus": 2, "ram": 4096, "disk": 40},
    {"name": "m1.large", "vcpus": 4, "ram": 8192, "disk": 80},
)
EXTERNAL_SUBNET = {
    "name": "external",
    "ip_version": 4,
    "cidr": "172.24.4.0/24",
    "gateway_ip": "172.24.4.1",
    "allocation_pools": [{"start": "172.24.4.10", "end": "172.24.4.250"}],
    "enable_dhcp": False,
}
PRIVATE_SUBNET = {"name": "private", "ip_version": 4, "cidr": "10.20.0.0/24"}
ALLOWED = (
    {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22},
    {"protocol": "icmp"},
)
# Without hardware support and with other work on the machine a boot takes minutes, not seconds.
BOOT_S_MAX = 600.0
IMAGE_S_MAX = 120.0


class Login(Struct, frozen=True, kw_only=True):
    """How to reach the server."""

    address: str
    key: Path
    known_hosts: Path

    def command(self) -> list[str]:
        """`ssh` to it; the host's key is the one that its console told."""
        options = ["-o", f"UserKnownHostsFile={self.known_hosts}"]
        return ["ssh", "-i", str(self.key), *options, f"root@{self.address}"]


def run(settings: Settings, steps: Steps) -> Login:
    """Make the first server and log in to it. Raises CloudError with the cause."""
    folder = settings.credentials_dir
    clouds = credentials.paths(folder).clouds_yaml
    with steps.step("building the probe image"):
        image_file = ensure_probe(settings.cache)
    admin = Cloud(clouds, f"cairn-{credentials.ADMIN_PROJECT}")
    demo = Cloud(clouds, f"cairn-{credentials.DEMO_PROJECT}")
    with steps.step("signing in"):
        admin.sign_in()
        _ensure_project(admin)
        demo.sign_in()
    with steps.step("uploading the image") as step:
        image = _ensure_image(admin, image_file, step)
    with steps.step("making flavors"):
        flavors = {wish["name"]: _ensure_flavor(admin, wish) for wish in FLAVORS}
    with steps.step("making networks, router and security group"):
        external = _ensure_external(admin)
        private = _ensure_private(demo, external["id"])
        group = _ensure_group(demo)
    with steps.step("making a key pair"):
        key = _ensure_key(demo, folder / "demo.key")
    with steps.step("booting the server") as step:
        wish = {
            "name": SERVER,
            "imageRef": image["id"],
            "flavorRef": flavors["probe"]["id"],
            "key_name": KEY,
            "networks": [{"uuid": private["id"]}],
            "security_groups": [{"name": group["name"]}],
        }
        server = _ensure_server(demo, wish, step)
    with steps.step("giving it a floating IP"):
        address = _ensure_floating(demo, server["id"], external["id"])
    login = Login(address=address, key=key, known_hosts=folder / "demo.known_hosts")
    with steps.step("waiting until SSH answers") as step:
        _log_in(demo, server["id"], login, step)
    return login


def show(login: Login, settings: Settings) -> None:
    """Print what a newcomer wants to know next."""
    clouds = credentials.paths(settings.credentials_dir).clouds_yaml
    click.echo(
        f"\nThe server `{SERVER}` answers. Log in (as root, who owns the key):\n\n"
        f"    sudo {' '.join(login.command())}\n\n"
        "Any OpenStack client works:\n\n"
        f"    export OS_CLIENT_CONFIG_FILE={clouds} OS_CLOUD=cairn-demo\n"
        "    openstack server list\n\n"
        f"API: {settings.api_url}    CA: {settings.certs_dir / 'ca.crt'}\n"
        "`cairn status` shows how it is; `cairn down` ends it."
    )


def _ensure(
    cloud: Cloud, service: str, path: str, wish: Mapping[str, Any], *, kind: str, **filters: str
) -> Any:
    """The resource of this name, made if there is none. `kind` wraps one of them in the API's bodies."""
    listed = cloud.get(service, path, name=wish["name"], **filters)
    for found in listed[f"{kind}s"]:
        if found["name"] == wish["name"]:
            return found
    return cloud.post(service, path, {kind: wish})[kind]


def _ensure_project(admin: Cloud) -> None:
    wish = {"name": credentials.DEMO_PROJECT, "domain_id": "default"}
    project = _ensure(admin, "identity", "/projects", wish, kind="project")
    roles = admin.get("identity", "/roles", name="admin")["roles"]
    if not roles:
        raise Unavailable("the cloud has no role named admin")
    admin.put("identity", f"/projects/{project['id']}/users/{admin.user_id}/roles/{roles[0]['id']}")


def _ensure_image(admin: Cloud, file: Path, step: Step) -> Any:
    sources = probe_image.sources_hash()
    for found in admin.get("image", "/images", name=IMAGE)["images"]:
        if found.get("cairn_sources") == sources and found["status"] == "active":
            return found
        if found["status"] in ("queued", "saving"):
            admin.delete("image", f"/images/{found['id']}")  # cut off half way
    wish = {
        "name": IMAGE,
        "disk_format": "qcow2",
        "container_format": "bare",
        "visibility": "public",
        "min_ram": 128,
        "min_disk": 1,
        "cairn_sources": sources,
    }
    made = admin.post("image", "/images", wish)
    admin.upload("image", f"/images/{made['id']}/file", file)

    def is_active() -> Any:
        image = admin.get("image", f"/images/{made['id']}")
        step.tell(f"the image is {image['status']}")
        if image["status"] in ("killed", "deleted"):
            raise CloudError(f"the image {made['id']} is {image['status']}")
        return image if image["status"] == "active" else None

    return until(is_active, what="an active image", within_s=IMAGE_S_MAX)


def _ensure_flavor(admin: Cloud, wish: Mapping[str, Any]) -> Any:
    for found in admin.get("compute", "/flavors")["flavors"]:
        if found["name"] == wish["name"]:
            return found
    return admin.post("compute", "/flavors", {"flavor": wish})["flavor"]


def _ensure_external(admin: Cloud) -> Any:
    wish = {
        "name": "external",
        "router:external": True,
        "provider:network_type": "flat",
        "provider:physical_network": "external",
    }
    network = _ensure(admin, "network", "/networks", wish, kind="network")
    subnet = {**EXTERNAL_SUBNET, "network_id": network["id"]}
    _ensure(
        admin,
        "network",
        "/subnets",
        subnet,
        kind="subnet",
        network_id=network["id"],
    )
    return network


def _ensure_private(demo: Cloud, external_id: str) -> Any:
    """A network whose guests reach the outside through a router."""
    mine = {"project_id": demo.project_id}
    networks, subnets = "/networks", "/subnets"
    network = _ensure(demo, "network", networks, {"name": "private"}, kind="network", **mine)
    wish = {**PRIVATE_SUBNET, "network_id": network["id"]}
    subnet = _ensure(demo, "network", subnets, wish, kind="subnet", network_id=network["id"])
    gateway = {"name": "router", "external_gateway_info": {"network_id": external_id}}
    routers = "/routers"
    router = _ensure(demo, "network", routers, gateway, kind="router", **mine)
    ports = demo.get("network", "/ports", device_id=router["id"])["ports"]
    legs = {ip["subnet_id"] for port in ports for ip in port["fixed_ips"]}
    if subnet["id"] not in legs:
        leg = f"{routers}/{router['id']}/add_router_interface"
        demo.put("network", leg, {"subnet_id": subnet["id"]})
    return network


def _ensure_group(demo: Cloud) -> Any:
    path = "/security-groups"
    mine = {"project_id": demo.project_id}
    wish = {"name": "demo", "description": "SSH and ping from anywhere"}
    group = _ensure(demo, "network", path, wish, kind="security_group", **mine)
    held = demo.get("network", f"{path}/{group['id']}")["security_group"]["security_group_rules"]
    incoming = {(r["protocol"], r["port_range_min"]) for r in held if r["direction"] == "ingress"}
    for rule in ALLOWED:
        if (rule["protocol"], rule.get("port_range_min")) not in incoming:
            full = {**rule, "security_group_id": group["id"], "direction": "ingress"}
            full["ethertype"] = "IPv4"
            rules = "/security-group-rules"
            demo.post("network", rules, {"security_group_rule": full})
    return group


def _ensure_key(demo: Cloud, file: Path) -> Path:
    public = file.with_name(f"{file.name}.pub")
    if not public.exists():
        file.unlink(missing_ok=True)
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "cairn-demo", "-f", str(file)]
        subprocess.run(make, check=True, capture_output=True)
    text = public.read_text().strip()
    for pair in demo.get("compute", "/os-keypairs")["keypairs"]:
        if pair["keypair"]["name"] == KEY:
            if pair["keypair"]["public_key"].strip() == text:
                return file
            demo.delete("compute", f"/os-keypairs/{KEY}")  # of a key file that is gone
    demo.post("compute", "/os-keypairs", {"keypair": {"name": KEY, "public_key": text}})
    return file


def _ensure_server(demo: Cloud, wish: Mapping[str, Any], step: Step) -> Any:
    servers = demo.get("compute", "/servers/detail", name=f"^{SERVER}$")["servers"]
    found = next((s for s in servers if s["name"] == SERVER and s["status"] != "ERROR"), None)
    if found is not None and found["status"] == "SHUTOFF":
        demo.post("compute", f"/servers/{found['id']}/action", {"os-start": None})
    if found is None:
        found = demo.post("compute", "/servers", {"server": wish})["server"]
    path = f"/servers/{found['id']}"

    def is_active() -> Any:
        server = demo.get("compute", path)["server"]
        step.tell(f"{server['status']}, {server.get('OS-EXT-STS:task_state') or 'no task'}")
        if server["status"] == "ERROR":
            fault = server.get("fault", {})
            raise CloudError(
                f"the server could not be made: {fault.get('message', 'no fault is shown')}",
                because=fault.get("details"),
            )
        return server if server["status"] == "ACTIVE" else None

    return until(is_active, what="an active server", within_s=BOOT_S_MAX)


def _ensure_floating(demo: Cloud, server_id: str, external_id: str) -> str:
    ports = demo.get("network", "/ports", device_id=server_id)["ports"]
    if not ports:
        raise CloudError(f"the server {server_id} has no port")
    path = "/floatingips"
    for found in demo.get("network", path, port_id=ports[0]["id"])["floatingips"]:
        return str(found["floating_ip_address"])
    wish = {"floating_network_id": external_id, "port_id": ports[0]["id"]}
    made = demo.post("network", path, {"floatingip": wish})["floatingip"]
    return str(made["floating_ip_address"])


def _log_in(demo: Cloud, server_id: str, login: Login, step: Step) -> None:
    """Wait for the guest's host key on its console, then really log in with the injected key."""
    began = time.monotonic()
    path = f"/servers/{server_id}/action"

    def console() -> str:
        return str(demo.post("compute", path, {"os-getConsoleOutput": {"length": None}})["output"])

    def host_key() -> str | None:
        text = console()
        lines = [line for line in text.splitlines() if line.strip()]
        step.tell(lines[-1].strip()[:80] if lines else "the console is silent")
        keys = re.findall(r"PROBE: hostkey (ssh-ed25519 \S+)", text)
        return keys[-1] if keys else None

    try:
        key = until(host_key, what="the guest's host key on its console", within_s=BOOT_S_MAX)
        login.known_hosts.write_text(f"{login.address} {key}\n")
        left_s = BOOT_S_MAX - (time.monotonic() - began)
        until(_try_ssh(login, step), what=f"SSH at {login.address}", within_s=left_s)
    except Unavailable as late:
        tail = "\n".join(console().splitlines()[-15:])
        raise Unavailable(
            late.message, because=f"{late.because}; its console ends:\n{tail}"
        ) from late


def _try_ssh(login: Login, step: Step) -> Callable[[], str | None]:
    options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=5"]
    program, *rest = login.command()

    def once() -> str | None:
        done = subprocess.run(
            [program, *options, *rest, "hostname"],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        if done.returncode == 0:
            return done.stdout.strip() or "-"
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said else f"ssh ended with {done.returncode}"
        step.tell(reason)
        raise Unavailable(reason)

    return once

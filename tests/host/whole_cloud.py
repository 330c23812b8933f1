"""A real cloud in a network namespace of its own, its clients, and the ways to hurt it."""

import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from cairn.cli import demo
from cairn.cli.cloud import Cloud, until
from cairn.cli.progress import Steps
from cairn.core.ids import NetworkId
from cairn.drivers.networks import layout
from cairn.host import supervise, teardown
from cairn.settings import Settings, load

CLONE_NEWNET = 0x40000000
HEAL_S = 240.0  # generous: guests boot in software emulation, beside whatever else runs here


class Whole:
    """The cloud, its clients, and the ways to hurt it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.login: demo.Login | None = None

    @cached_property
    def cloud(self) -> Cloud:
        """Signed in as the demonstration's user."""
        made = Cloud(self.settings.credentials_dir / "clouds.yaml", "cairn-demo")
        made.sign_in()
        return made

    def cairn(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cairn", *words, "--state", str(self.settings.state)]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=400)

    def server(self, name: str) -> dict[str, Any]:
        (server,) = self.cloud.get("compute", "/servers/detail", name=f"^{name}$")["servers"]
        return dict(server)

    def part(self, name: str) -> int:
        told = supervise.look(self.settings.state)
        return int(told["parts"][name]["pid"] or 0) if told else 0

    def guests(self) -> dict[str, int]:
        """Processes of guests by server id."""
        found = {}
        for pid, words in _command_lines():
            if "qemu-system" in words[0] and str(self.settings.state) in " ".join(words):
                found[words[words.index("-uuid") + 1]] = pid
        return found

    def engines(self) -> dict[str, int]:
        folder = self.settings.agent_dir / "ovn" / "run"
        return {file.stem: int(file.read_text()) for file in folder.glob("*.pid")}

    def ssh(self, command: str) -> str | None:
        """What the command prints in the first server; None while it cannot be reached."""
        assert self.login is not None
        words = [*self.login.command(), "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
        # The options must stand before the host's name.
        target = words.pop(words.index(next(w for w in words if w.startswith("root@"))))
        done = subprocess.run(
            [*words, target, command], check=False, capture_output=True, text=True, timeout=60
        )
        return done.stdout if done.returncode == 0 else None

    def wait(self, is_so: Callable[[], bool], what: str, within_s: float = HEAL_S) -> None:
        until(lambda: is_so() or None, what=what, within_s=within_s)


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if words := (entry / "cmdline").read_bytes().decode().split("\0")[:-1]:
                    yield int(entry.name), words


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def namespace() -> Iterator[str]:
    """This thread, and all that it starts, in a network namespace of its own."""
    name = f"cvw-{secrets.token_hex(3)}"
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside = os.open(f"/run/netns/{name}", os.O_RDONLY)
        _enter(inside)
        os.close(inside)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        _enter(home)
        os.close(home)
        subprocess.run(["ip", "netns", "del", name], check=True)


@contextlib.contextmanager
def whole_cloud() -> Iterator[Whole]:
    """A cloud with a first server (running, with two further volumes and a further port) and a second
    (stopped)."""
    with namespace():
        state = Path(f"/tmp/cvw-{secrets.token_hex(3)}")  # Short: unix sockets lie deep below it.
        made = Whole(load(state))
        try:
            started = made.cairn("up", "--detach")
            assert started.returncode == 0, started.stderr + started.stdout
            with Steps() as steps:
                made.login = demo.run(made.settings, steps)
            _furnish(made)
            yield made
        finally:
            logs = _tails(made.settings)
            assert made.cairn("down").returncode == 0, logs
            assert teardown.left_overs(made.settings) == []
            made.cairn("wipe", "--yes")


def _furnish(whole: Whole) -> None:
    """Give the first server two volumes and a second port; make a second server and stop it."""
    cloud, first = whole.cloud, whole.server("first")
    (network,) = cloud.get("network", "/networks", name="private")["networks"]
    for name in ("data", "more"):
        _attach_volume(whole, name)
    # A network of its own, without a gateway: two ports in one subnet would confuse the guest's routes.
    back = cloud.post("network", "/networks", {"network": {"name": "back"}})["network"]
    subnet = {"network_id": back["id"], "ip_version": 4, "cidr": "10.21.0.0/24"}
    cloud.post("network", "/subnets", {"subnet": {**subnet, "gateway_ip": None}})
    interface = {"interfaceAttachment": {"net_id": back["id"]}}
    cloud.post("compute", f"/servers/{first['id']}/os-interface", interface)
    wish = {
        "name": "second",
        "imageRef": first["image"]["id"],
        "flavorRef": next(
            f["id"] for f in cloud.get("compute", "/flavors")["flavors"] if f["name"] == "probe"
        ),
        "networks": [{"uuid": network["id"]}],
    }
    made = cloud.post("compute", "/servers", {"server": wish})["server"]
    whole.wait(lambda: whole.server("second")["status"] == "ACTIVE", "the second server")
    cloud.post("compute", f"/servers/{made['id']}/action", {"os-stop": None})
    whole.wait(lambda: whole.server("second")["status"] == "SHUTOFF", "the second server's end")


def _attach_volume(whole: Whole, name: str) -> None:
    cloud = whole.cloud
    made = cloud.post("block-storage", "/volumes", {"volume": {"size": 1, "name": name}})
    path = f"/volumes/{made['volume']['id']}"

    def is_(status: str) -> Callable[[], bool]:
        return lambda: cloud.get("block-storage", path)["volume"]["status"] == status

    whole.wait(is_("available"), f"the volume {name}")
    attachment = {"volumeAttachment": {"volumeId": made["volume"]["id"]}}
    server_id = whole.server("first")["id"]
    cloud.post("compute", f"/servers/{server_id}/os-volume_attachments", attachment)
    whole.wait(is_("in-use"), f"the volume {name} in the server")


def _tails(settings: Settings) -> str:
    return "\n".join(
        f"== {file}\n{file.read_text(errors='replace')[-3000:]}"
        for file in sorted(settings.log_dir.glob("*.log"))
    )


def has_all_hardware(whole: Whole) -> bool:
    """Whether the first server itself sees both volumes and both ports."""
    said = whole.ssh("cat /proc/partitions; ls /sys/class/net")
    return said is not None and all(word in said for word in ("vdb", "vdc", "eth0", "eth1"))


def cut_power(whole: Whole, network_ids: list[str]) -> None:
    """Every process of the cloud dies at once; interfaces and namespaces are gone, disks stay."""
    state = str(whole.settings.state)
    for _ in range(2):  # The supervisor may have started something between the look and the kill.
        for pid, words in _command_lines():
            if state in " ".join(words) and pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
    links = json.loads(subprocess.run(["ip", "-j", "link"], check=True, capture_output=True).stdout)
    for link in links:
        if link["ifname"] != "lo":
            subprocess.run(["ip", "link", "del", link["ifname"]], check=False, capture_output=True)
    home = whole.settings.agent_dir / "ovn"
    for name in (layout.metadata_namespace(NetworkId(n), home) for n in network_ids):
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

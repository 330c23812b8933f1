"""A host of two is emptied, filled again and lost, with real engines.

The tests go on with what the one before left.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairn.cli.cloud import Cloud, until
from tests.host.test_join import Machine
from tests.host.test_two_machines import WAIT_S, Two, two_machines

pytestmark = [pytest.mark.host, pytest.mark.live]

BOOT = "cat /proc/sys/kernel/random/boot_id"
ON_ROOT, ON_VOLUME = "cat /root/kept", "dd if=/dev/vdb bs=9 count=1"


class Drained:
    """The two machines, and what is asked of them here."""

    def __init__(self, two: Two) -> None:
        self.two = two
        self.admin, self.user = two.client("admin"), two.client("demo")
        self.ids = {name: server["id"] for name, server in two.servers.items()}
        self.disks: set[str] = set(self.ids.values())  # a root disk bears its server's id
        self.volume_id = ""

    @property
    def home(self) -> str:
        """What the first machine's host is called."""
        hosts = self.admin.get("cairn", "/hosts")["hosts"]
        (name,) = {h["name"] for h in hosts} - {"second"}
        return str(name)

    def host(self) -> dict[str, Any]:
        return dict(self.admin.get("cairn", "/hosts/second")["host"])

    def server(self, name: str, cloud: Cloud | None = None) -> dict[str, Any]:
        path = f"/servers/{self.ids[name]}"
        return dict((cloud or self.admin).get("compute", path)["server"])

    def where(self, name: str) -> str:
        return str(self.server(name)["OS-EXT-SRV-ATTR:host"])

    def wait_status(self, name: str, status: str) -> None:
        def is_so() -> bool | None:
            found = self.server(name)
            assert status == "ERROR" or found["status"] != "ERROR", found
            task = found["OS-EXT-STS:task_state"]
            return (found["status"] == status and task is None) or None

        until(is_so, what=f"{name} {status}", within_s=WAIT_S)

    def has_heard(self) -> bool:
        """Whether the second host is as its newest spec says."""
        host = self.host()
        return bool(host["spec_number"] == host["reported_spec_number"])

    def act(self, name: str, action: dict[str, Any]) -> None:
        self.admin.post("compute", f"/servers/{self.ids[name]}/action", action)

    def set_placing(self, host: str, status: str) -> None:
        for service in self.admin.get("compute", "/os-services", binary="nova-compute")["services"]:
            if service["host"] == host:
                self.admin.put("compute", f"/os-services/{service['id']}", {"status": status})

    def attach_volume(self) -> None:
        wish = {"size": 1, "name": "data"}
        self.volume_id = self.user.post("block-storage", "/volumes", {"volume": wish})["volume"][
            "id"
        ]
        self.disks.add(self.volume_id)
        self.wait_volume("available")
        attach = {"volumeAttachment": {"volumeId": self.volume_id}}
        self.user.post("compute", f"/servers/{self.ids['other']}/os-volume_attachments", attach)
        self.wait_volume("in-use")

    def wait_volume(self, status: str) -> None:
        path = f"/volumes/{self.volume_id}"
        until(
            lambda: self.user.get("block-storage", path)["volume"]["status"] == status or None,
            what=f"volume {status}",
            within_s=WAIT_S,
        )

    def make_idle(self) -> None:
        like = self.two.servers["other"]
        (private,) = self.user.get("network", "/networks", name="private")["networks"]
        flavors = self.user.get("compute", "/flavors")["flavors"]
        wish = {
            "name": "idle",
            "imageRef": like["image"]["id"],
            "flavorRef": next(f["id"] for f in flavors if f["name"] == "probe"),
            "security_groups": like["security_groups"],
            "networks": [{"uuid": private["id"]}],
        }
        self.ids["idle"] = self.user.post("compute", "/servers", {"server": wish})["server"]["id"]
        self.disks.add(self.ids["idle"])
        self.wait_status("idle", "ACTIVE")

    def stop_idle(self) -> None:
        self.act("idle", {"os-stop": None})
        self.wait_status("idle", "SHUTOFF")

    def disks_of(self, machine: Machine) -> set[str]:
        """Which of the disks that are known here have files there."""
        names = " ".join(p.name for p in (machine.state / "agent/volumes").rglob("*"))
        return {disk for disk in self.disks if disk in names}

    def is_bare(self, machine: Machine) -> bool:
        """No process, disk, folder or tap of any guest is there."""
        taps = {link for link in machine.links() if link.startswith(("cvt", "cvm"))}
        homes = list((machine.state / "agent/guests").iterdir())
        return not (machine.guests() or self.disks_of(machine) or taps or homes)


@pytest.fixture(scope="module")
def drained() -> Iterator[Drained]:
    with two_machines("lost_after_s = 5\n") as two:
        made = Drained(two)
        made.make_idle()
        made.attach_volume()
        two.wait_ssh("other", "ls /dev/vdb")
        two.wait_ssh("other", "echo kept > /root/kept; echo on-volume > /tmp/x; "
                     "dd if=/tmp/x of=/dev/vdb conv=fsync; sync")  # fmt: skip
        made.stop_idle()
        yield made


def test_the_plan_says_what_fits_and_what_does_not(drained: Drained) -> None:
    drain = ("host", "drain", "second", "--plan")
    said = drained.two.first.cairn(*drain).stdout
    assert "2 cannot go" in said and f"{drained.home} is disabled" in said
    drained.set_placing(drained.home, "enabled")
    said = drained.two.first.cairn(*drain).stdout
    assert "2 of 2 guests of second can go" in said
    assert re.search(rf"other → {drained.home} \(live; 192 MiB of memory, 2 GiB of disk\)", said)
    assert re.search(rf"idle → {drained.home} \(stopped meanwhile", said)
    assert not drained.host()["draining"]


def test_draining_moves_all_and_leaves_nothing(drained: Drained) -> None:
    """The running guest does not notice; its floating address leads to it on the other host."""
    two = drained.two
    boot = two.wait_ssh("other", BOOT)
    done = two.first.cairn("host", "drain", "second")
    assert f"other: done, now on {drained.home}, stood still for" in done.stdout
    assert f"idle: done, now on {drained.home}" in done.stdout
    assert "2 guests moved, 0 are still on second" in done.stdout
    assert drained.where("other") == drained.where("idle") == drained.home
    assert len(two.first.guests()) == 2
    assert two.wait_ssh("other", BOOT) == boot
    assert two.ssh("other", ON_ROOT) == "kept\n"
    assert two.ssh("other", ON_VOLUME) == "on-volume"
    assert two.ssh("other", f"ping -c1 -W2 {two.address('first')}") is not None
    assert two.ssh("first", f"ping -c1 -W2 {two.address('other')}") is not None
    until(lambda: drained.is_bare(two.second) or None, what="nothing left", within_s=WAIT_S)
    assert drained.disks_of(two.first) == drained.disks


def test_a_guest_that_is_off_starts_where_it_came_to(drained: Drained) -> None:
    drained.act("idle", {"os-start": None})
    drained.wait_status("idle", "ACTIVE")
    assert len(drained.two.first.guests()) == 3
    there = next(iter(drained.server("idle")["addresses"]["private"]))["addr"]
    drained.two.wait_ssh("other", f"ping -c1 -W2 {there}")


def test_it_goes_back_live_when_the_host_takes_guests_again(drained: Drained) -> None:
    two = drained.two
    boot = two.wait_ssh("other", BOOT)
    assert "is not drained any more" in two.first.cairn("host", "undrain", "second").stdout
    wish = {"host": "second", "block_migration": "auto"}
    drained.act("other", {"os-migrateLive": wish})
    drained.wait_status("other", "ACTIVE")
    assert drained.where("other") == "second"
    assert two.wait_ssh("other", BOOT) == boot
    assert two.ssh("other", ON_ROOT) == "kept\n"
    assert two.ssh("other", ON_VOLUME) == "on-volume"
    assert two.ssh("first", f"ping -c1 -W2 {two.address('other')}") is not None
    own = {drained.ids["other"], drained.volume_id}
    until(
        lambda: drained.disks_of(two.first) == drained.disks - own or None,
        what="its disks are gone here", within_s=WAIT_S,
    )  # fmt: skip
    assert drained.disks_of(two.second) == own
    assert len(two.second.guests()) == 1


def test_a_host_whose_processes_are_all_dead_is_fenced_by_hand(drained: Drained) -> None:
    """Then its marked server starts anew on the other host, with the same addresses."""
    two = drained.two
    boot = two.wait_ssh("other", BOOT)
    server = f"/servers/{drained.ids['other']}"
    drained.user.delete("compute", f"{server}/os-volume_attachments/{drained.volume_id}")
    drained.wait_volume("available")
    mark = {"metadata": {"restart_elsewhere": "fresh"}}
    drained.user.post("compute", f"{server}/metadata", mark)
    until(lambda: drained.has_heard() or None, what="it heard of the mark", within_s=WAIT_S)
    _kill(two.second)
    until(lambda: drained.host()["state"] == "suspect" or None, what="suspect", within_s=WAIT_S)
    until(lambda: drained.host()["state"] == "lost" or None, what="lost", within_s=WAIT_S)
    assert drained.where("other") == "second"
    two.first.cairn("host", "fence", "second", "--by-hand")
    until(lambda: drained.where("other") == drained.home or None, what="recovered", within_s=WAIT_S)
    drained.wait_status("other", "ACTIVE")
    assert two.wait_ssh("other", BOOT) != boot
    assert two.ssh("other", ON_ROOT) is None, "its root disk was made anew"
    until(lambda: drained.host()["state"] == "recovered" or None, what="recovered", within_s=WAIT_S)


def test_a_host_that_returns_removes_what_is_no_longer_its_own(drained: Drained) -> None:
    two = drained.two
    assert drained.disks_of(two.second) == {drained.ids["other"], drained.volume_id}
    two.second.cairn("up", "--detach")
    until(lambda: drained.host()["state"] == "up" or None, what="up", within_s=WAIT_S)
    until(
        lambda: drained.disks_of(two.second) == {drained.volume_id} or None,
        what="only its volume is left", within_s=WAIT_S,
    )  # fmt: skip
    assert two.second.guests() == []
    assert len(two.first.guests()) == 3
    drained.disks.remove(drained.volume_id)
    until(lambda: drained.is_bare(two.second) or None, what="nothing left", within_s=WAIT_S)
    assert two.ssh("other", f"ping -c1 -W2 {two.address('first')}") is not None
    assert not drained.host()["enabled"]
    two.first.cairn("host", "set", "second", "--enable")
    assert drained.host()["enabled"]


def _kill(machine: Machine) -> None:
    """As when its power fails: all processes at once, and nothing is tidied."""
    while pids := _processes(machine.state):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def _processes(state: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str(state) in (entry / "cmdline").read_bytes().decode(errors="replace"):
                    found.append(int(entry.name))
    return found

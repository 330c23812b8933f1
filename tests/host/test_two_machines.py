"""Two machines, one network: a second host joins, and guests of both are neighbours. All is real.

Each machine is a network namespace with a state directory; a bridge in a third one is what lies between.
Nothing is configured but addresses and default routes, which any machine has.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairn.cli import demo
from cairn.cli.cloud import Cloud, until
from cairn.cli.progress import Steps
from cairn.host import teardown
from tests.host.ovn_rig import enter, run, set_namespace
from tests.host.test_join import Machine

pytestmark = pytest.mark.host

WAIT_S = 240.0  # generous: guests boot in software emulation, beside whatever else runs here
MTU = 1442


class Two:
    """The cloud, its two machines, and a server on each."""

    def __init__(self, first: Machine, second: Machine) -> None:
        self.first, self.second = first, second
        self.logins: dict[str, demo.Login] = {}
        self.servers: dict[str, dict[str, Any]] = {}

    def client(self, project: str) -> Cloud:
        made = Cloud(self.first.settings.credentials_dir / "clouds.yaml", f"cairn-{project}")
        made.sign_in()
        return made

    def boot_on_the_second(self) -> None:
        """A server like the first of the demonstration, on the other host, with an address outside."""
        admin, user = self.client("admin"), self.client("demo")
        for service in admin.get("compute", "/os-services", binary="nova-compute")["services"]:
            if service["host"] != "second":
                admin.put("compute", f"/os-services/{service['id']}", {"status": "disabled"})
        (like,) = user.get("compute", "/servers/detail", name="^first$")["servers"]
        (private,) = user.get("network", "/networks", name="private")["networks"]
        flavors = user.get("compute", "/flavors")["flavors"]
        wish = {
            "name": "other",
            "imageRef": like["image"]["id"],
            "flavorRef": next(f["id"] for f in flavors if f["name"] == "probe"),
            "key_name": like["key_name"],
            "security_groups": like["security_groups"],
            "networks": [{"uuid": private["id"]}],
        }
        made = user.post("compute", "/servers", {"server": wish})["server"]

        def is_active() -> dict[str, Any] | None:
            found = user.get("compute", f"/servers/{made['id']}")["server"]
            assert found["status"] != "ERROR", found
            return found if found["status"] == "ACTIVE" else None

        self.servers = {"first": like, "other": until(is_active, what="server", within_s=WAIT_S)}
        (external,) = user.get("network", "/networks", name="external")["networks"]
        (port,) = user.get("network", "/ports", device_id=made["id"])["ports"]
        wish = {"floating_network_id": external["id"], "port_id": port["id"]}
        floating = user.post("network", "/floatingips", {"floatingip": wish})["floatingip"]
        login = self.logins["first"]
        self.logins["other"] = demo.Login(
            address=floating["floating_ip_address"], key=login.key, known_hosts=Path(os.devnull)
        )

    def address(self, name: str) -> str:
        (one,) = (
            a for a in self.servers[name]["addresses"]["private"] if a["OS-EXT-IPS:type"] == "fixed"
        )
        return str(one["addr"])

    def ssh(self, name: str, command: str) -> str | None:
        """What the command prints in the server; None while it cannot be reached, or fails."""
        *words, target = self.logins[name].command()
        done = subprocess.run(
            [*words, "-o", "BatchMode=yes", "-o", "ConnectTimeout=5",
             "-o", "StrictHostKeyChecking=no", target, command],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout if done.returncode == 0 else None

    def wait_ssh(self, name: str, command: str) -> str:
        # An empty answer is an answer.
        said = until(
            lambda: [out] if (out := self.ssh(name, command)) is not None else None,
            what=f"{command} in {name}", within_s=WAIT_S,
        )  # fmt: skip
        return said[0]


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with two_machines() as made:
        yield made


@contextlib.contextmanager
def two_machines(settings: str = "") -> Iterator[Two]:
    """Both up, each with a server; `settings` is the first one's cairn.toml."""
    mark = secrets.token_hex(2)
    middle = f"cvt-{mark}"
    machines = [Machine(f"cvt{n}-{mark}", f"10.78.0.{n}") for n in (1, 2)]
    made = Two(*machines)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, home)
        run("ip", "netns", "add", middle)
        undo.callback(run, "ip", "netns", "del", middle)
        run("ip", "-n", middle, "link", "add", "sw", "type", "bridge")
        run("ip", "-n", middle, "address", "add", "10.78.0.254/24", "dev", "sw")
        run("ip", "-n", middle, "link", "set", "sw", "up")
        for machine in machines:
            _wire(machine, middle, undo)
        made.first.state.mkdir()
        (made.first.state / "cairn.toml").write_text(settings)
        made.first.cairn("up", "--detach")
        enter(made.first.name)  # where the floating addresses are
        undo.callback(set_namespace, home)
        with Steps() as steps:
            made.logins["first"] = demo.run(made.first.settings, steps)
        token = made.first.cairn("token", "create").stdout.strip()
        made.second.cairn("join", "--name", "second", token)
        made.boot_on_the_second()
        yield made


def _wire(machine: Machine, middle: str, undo: contextlib.ExitStack) -> None:
    name = machine.name
    run("ip", "netns", "add", name)
    undo.callback(_end, machine)
    run("ip", "-n", name, "link", "set", "lo", "up")
    run("ip", "-n", name, "link", "add", "c0", "type", "veth", "peer", name, "netns", middle)
    run("ip", "-n", middle, "link", "set", name, "master", "sw", "up")
    run("ip", "-n", name, "address", "add", f"{machine.address}/24", "dev", "c0")
    run("ip", "-n", name, "link", "set", "c0", "up")
    run("ip", "-n", name, "route", "add", "default", "via", "10.78.0.254")


def _end(machine: Machine) -> None:
    if machine.state.exists():
        machine.cairn("down", check=False)
        assert machine.links() == {"lo", "c0"}
        left = teardown.left_overs(machine.settings)
        shutil.rmtree(machine.state, ignore_errors=True)
        assert left == []
    run("ip", "netns", "del", machine.name)


def test_each_host_has_its_guest(two: Two) -> None:
    assert len(two.first.guests()) == len(two.second.guests()) == 1


def test_guests_of_both_hosts_are_neighbours_with_full_packets(two: Two) -> None:
    there = two.address("other")
    two.wait_ssh("first", f"ping -c1 -W2 {there}")
    assert two.ssh("first", f"ping -c1 -W2 -s {MTU - 28} {there}") is not None
    assert f"mtu {MTU}" in two.wait_ssh("first", "ip link show eth0")


def test_a_guest_of_the_second_host_has_metadata_and_an_address_outside(two: Two) -> None:
    """The key by which this logs in came from its metadata, the way from the gateway on the first host."""
    said = two.wait_ssh(
        "other", "wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json"
    )
    assert two.servers["other"]["id"] in said
    assert two.ssh("other", f"ping -c1 -W2 {two.address('first')}") is not None
    assert two.ssh("other", "ping -c1 -W2 172.24.4.1") is not None


def test_the_machines_own_addresses_stay_where_they_were(two: Two) -> None:
    for machine in (two.first, two.second):
        shown = run("ip", "-n", machine.name, "-4", "address", "show", "dev", "c0")
        assert f"inet {machine.address}/24" in shown


def test_agents_of_both_hosts_are_alive(two: Two) -> None:
    agents = two.client("admin").get("network", "/agents")["agents"]
    assert {a["host"] for a in agents if a["alive"]} >= {"second"}
    assert len({a["host"] for a in agents}) == 2

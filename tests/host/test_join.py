"""Two machines, one token: a second host joins, works, is cut off on the way, and leaves nothing behind.

Each machine is a network namespace with a state directory of its own; a cable lies between them. Control
plane, agents, network engine and QEMU are the real ones. The tests go on with what the one before left.
"""

import contextlib
import ctypes
import datetime
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cairn.cli.cloud import Cloud, until
from cairn.host import leaving, teardown
from cairn.settings import Settings, load

pytestmark = pytest.mark.host

CLONE_NEWNET = 0x40000000
WAIT_S = 120.0
# A certificate of a quarter of an hour is due at once: what is given at the join is replaced by the agent.
SETTINGS = "certificate_days = 0.01\n"
# Runs `cairn join` and dies, as by SIGKILL, instead of writing the nth file.
CUT_OFF = """\
import os, signal, sys
from cairn.host import private_files
write, left = private_files.write, int(sys.argv.pop(1))
def cut(*words, **more):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*words, **more)
private_files.write = cut
from cairn.cli.main import main
main()
"""


class Machine:
    """A network namespace and a state directory."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.state = Path(f"/tmp/{name}")  # Short: unix sockets lie deep below it.

    @property
    def settings(self) -> Settings:
        return load(self.state)

    def command(self, *words: str) -> list[str]:
        inside = ["nsenter", f"--net=/run/netns/{self.name}", sys.executable]
        return [*inside, *words, "--state", str(self.state)]

    def cairn(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            self.command("-m", "cairn", *words), check=False, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr + done.stdout + self.logs()
        return done

    def logs(self) -> str:
        return "\n".join(
            f"== {file}\n{file.read_text(errors='replace')[-3000:]}"
            for file in sorted((self.state / "log").glob("*.log"))
        )

    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.state / "certs/node.crt").read_bytes())

    def processes(self) -> list[str]:
        """Command lines of whatever names the state directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if str(self.state) in line:
                        found.append(line)
        return found

    def guests(self) -> list[str]:
        return [line for line in self.processes() if "qemu-system" in line.split(" ")[0]]

    def links(self) -> set[str]:
        shown = subprocess.run(
            ["ip", "-n", self.name, "-j", "link"], check=True, capture_output=True
        ).stdout
        return {link["ifname"] for link in json.loads(shown)}


class Pair:
    """The first machine with its control plane, and the second, which joins."""

    def __init__(self, first: Machine, second: Machine) -> None:
        self.first, self.second = first, second
        self.token = ""
        self._cloud: Cloud | None = None

    @property
    def cloud(self) -> Cloud:
        if self._cloud is None:
            clouds = self.first.settings.credentials_dir / "clouds.yaml"
            self._cloud = Cloud(clouds, "cairn-admin")
            self._cloud.sign_in()
        return self._cloud

    def new_token(self, *words: str) -> str:
        done = self.first.cairn("token", "create", *words)
        assert done.stdout.count("\n") == 1, "one line, and nothing else"
        self.token = done.stdout.strip()
        return self.token

    def join(self, *, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return self.second.cairn("join", "--name", "second", self.token, check=check)

    def hosts(self) -> dict[str, Any]:
        return {one["hostname"]: one for one in self.cloud.get("cairn", "/status")["nodes"]}

    def rows(self, table: str) -> int:
        """What the database has of a table; asked from beside it."""
        import sqlite3

        with contextlib.closing(
            sqlite3.connect(self.first.settings.control_dir / "cairn.db")
        ) as db:
            return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def wait(self, is_so: Callable[[], bool], what: str) -> None:
        until(lambda: is_so() or None, what=what, within_s=WAIT_S)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def _inside(machine: Machine) -> Iterator[None]:
    """This thread in the machine's network: the API's client stands there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    inside = os.open(f"/run/netns/{machine.name}", os.O_RDONLY)
    try:
        _enter(inside)
        yield
    finally:
        _enter(home)
        os.close(inside)
        os.close(home)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    mark = secrets.token_hex(2)
    machines = [Machine(f"cvj{n}-{mark}", f"10.77.0.{n}") for n in (1, 2)]
    made = Pair(*machines)
    try:
        for machine in machines:
            _ip("netns", "add", machine.name)
            _ip("-n", machine.name, "link", "set", "lo", "up")
        names = [machine.name for machine in machines]
        _ip("-n", names[0], "link", "add", "c0", "type", "veth", "peer", "c0", "netns", names[1])
        for machine in machines:
            _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "c0")
            _ip("-n", machine.name, "link", "set", "c0", "up")
        made.first.state.mkdir()
        (made.first.state / "cairn.toml").write_text(SETTINGS)
        made.first.cairn("up", "--detach")
        with _inside(made.first):
            yield made
    finally:
        for machine in reversed(machines):
            if machine.state.exists():
                machine.cairn("down", check=False)
                left = teardown.left_overs(machine.settings)
                shutil.rmtree(machine.state, ignore_errors=True)
                assert left == []
            _ip("netns", "del", machine.name)


def test_join_is_cut_off_everywhere_and_ends_the_same(pair: Pair) -> None:
    """Killed instead of each file that it writes: the same token and key give the same host."""
    pair.new_token("--zone", "nova", "--rack", "r2", "--label", "disk=fast")
    # The key, the authority (the key is new), then with the old key: certificate, id, membership.
    for number in (1, 2, 2, 3, 4):
        words = pair.second.command(
            "-c", CUT_OFF, str(number), "join", "--name", "second", pair.token
        )
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not pair.second.settings.membership_file.exists()
    pair.join()
    assert pair.rows("nodes") == 2
    host = pair.hosts()["second"]
    assert (host["state"], host["roles"]) == ("up", ["compute", "storage"])


def test_join_that_is_killed_while_it_waits_ends_the_same(pair: Pair) -> None:
    pair.second.cairn("down")
    before = pair.hosts()["second"]["id"]
    words = pair.second.command("-m", "cairn", "join", "--name", "second", pair.token)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "starting this host" in line:
            break
    process.kill()
    process.wait()
    process.stderr.close()
    assert "This machine is host second" in pair.join().stdout
    assert pair.hosts()["second"]["id"] == before
    assert pair.rows("nodes") == 2


def test_certificate_of_the_join_was_replaced_by_the_agent(pair: Pair) -> None:
    """Over its own connection, without anyone's doing; the control plane knows the new key."""
    from cairn.host import certs

    def is_known() -> bool:
        import sqlite3

        digest = certs.digest_of_key(pair.second.certificate().public_key())
        with contextlib.closing(
            sqlite3.connect(pair.first.settings.control_dir / "cairn.db")
        ) as db:
            (known,) = db.execute(
                "SELECT key_digest FROM nodes WHERE hostname = 'second'"
            ).fetchone()
            (joined,) = db.execute("SELECT used_key_digest FROM join_tokens").fetchone()
        return known == digest != joined

    pair.wait(is_known, "the next certificate")
    assert "connected for" in pair.second.cairn("status").stdout


def test_member_whose_certificate_has_expired_joins_again_and_is_the_same(pair: Pair) -> None:
    """As one that was switched off for a year."""
    from cairn.core.clock import FakeClock
    from cairn.core.ids import NodeId
    from cairn.host import certs

    before = pair.hosts()["second"]["id"]
    pair.second.cairn("down")
    long_ago = FakeClock(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    authority = certs.open_authority(pair.first.settings.certs_dir, clock=long_ago, days=1)
    where = certs.paths(pair.second.settings.certs_dir)
    request = certs.request_for(certs.ensure_key(where.node_key))
    where.node.write_bytes(authority.issue(request, NodeId(before), address=pair.second.address))
    pair.second.cairn("up", "--detach")
    assert "it has expired" in pair.second.cairn("status", check=False).stdout
    pair.new_token()
    pair.join()
    assert pair.hosts()["second"]["id"] == before
    assert "connected for" in pair.second.cairn("status").stdout


def test_used_token_is_refused_to_another_machine(pair: Pair) -> None:
    thief = Path(f"{pair.second.state}-thief")
    words = [
        *pair.second.command("-m", "cairn", "join", "--name", "thief", pair.token)[:-1],
        str(thief),
    ]
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    finally:
        shutil.rmtree(thief, ignore_errors=True)
    assert done.returncode == 1
    # The first agent in this network stands in the way before anybody is asked.
    assert "another Cairn runs on this machine" in done.stderr
    assert "thief" not in pair.hosts()


def test_server_boots_on_the_second_host(pair: Pair) -> None:
    cloud = pair.cloud
    node = pair.hosts()["second"]
    raw = {"name": "zeros", "disk_format": "raw", "container_format": "bare"}
    image = cloud.post("image", "/images", raw)
    file = pair.first.state / "zeros.raw"
    file.write_bytes(bytes(1 << 20))
    cloud.upload("image", f"/images/{image['id']}/file", file)
    flavor = cloud.post(
        "compute", "/flavors", {"flavor": {"name": "tiny", "vcpus": 1, "ram": 64, "disk": 1}}
    )["flavor"]
    # The first host is closed to new guests, so there is only the second.
    services = cloud.get("compute", "/os-services", binary="nova-compute")["services"]
    first = next(one for one in services if one["host"] != "second")
    cloud.put("compute", f"/os-services/{first['id']}", {"status": "disabled"})
    wish = {
        "name": "lodger",
        "imageRef": image["id"],
        "flavorRef": flavor["id"],
        "networks": "none",
    }
    server = cloud.post("compute", "/servers", {"server": wish})["server"]
    path = f"/servers/{server['id']}"
    pair.wait(lambda: cloud.get("compute", path)["server"]["status"] == "ACTIVE", "the server")
    assert cloud.get("compute", path)["server"]["OS-EXT-SRV-ATTR:host"] == "second"
    assert len(pair.second.guests()) == 1
    assert pair.first.guests() == []
    assert node["facts"]["address"] in ("", pair.second.address)


def test_host_with_a_server_is_not_removed(pair: Pair) -> None:
    done = pair.first.cairn("host", "remove", "second", check=False)
    assert done.returncode == 1
    assert "lodger" in done.stderr and "drain" in done.stderr
    assert pair.second.guests()


def test_member_starts_again_with_its_guest(pair: Pair) -> None:
    """As after a reboot: `cairn down`, `cairn up`."""
    pair.second.cairn("down")
    assert pair.second.processes() == []
    assert pair.second.cairn("status", check=False).returncode == 1
    pair.second.cairn("up", "--detach")
    pair.wait(lambda: len(pair.second.guests()) == 1, "the guest")
    assert "connected for" in pair.second.cairn("status").stdout
    assert pair.second.cairn("up", "--demo", check=False).returncode == 1


def test_removed_host_leaves_nothing_on_either_side(pair: Pair) -> None:
    cloud = pair.cloud
    (server,) = cloud.get("compute", "/servers")["servers"]
    cloud.delete("compute", f"/servers/{server['id']}")
    pair.wait(lambda: not cloud.get("compute", "/servers")["servers"], "the server's end")
    assert pair.second.guests() == []
    pair.first.cairn("host", "remove", "second")
    pair.wait(lambda: not pair.second.state.exists(), "the state directory's end")
    pair.wait(lambda: pair.second.processes() == [], "the end of what cleaned up")
    assert pair.second.links() == {"lo", "c0"}
    assert "second" not in pair.hosts()
    for table, count in (
        ("nodes", 1),
        ("join_tokens WHERE used_by IS NOT NULL", 0),
        ("removed_nodes", 0),
    ):
        assert pair.rows(table) == count, table
    assert pair.rows("placement_sums WHERE node_id NOT IN (SELECT id FROM nodes)") == 0


def test_host_that_was_off_cleans_up_when_it_comes_back(pair: Pair) -> None:
    pair.new_token("--expires", "10min")
    pair.join()
    pair.second.cairn("down")
    # The control plane takes it for up until its lease ends; the operator does not wait for it.
    pair.first.cairn("host", "remove", "--no-wait", "second")
    assert pair.rows("removed_nodes") == 1
    pair.second.cairn("up", "--detach", check=False)
    pair.wait(lambda: not pair.second.state.exists(), "the state directory's end")
    pair.wait(lambda: pair.rows("removed_nodes") == 0, "the host's word")
    pair.wait(lambda: pair.second.processes() == [], "the end of what cleaned up")


def test_cleaning_up_that_was_cut_off_is_finished_by_up(pair: Pair) -> None:
    pair.new_token()
    pair.join()
    settings = pair.second.settings
    pair.second.cairn("down")
    settings.removal_file.write_text(json.dumps({"reason": "Host second was removed.", "at": 0}))
    assert leaving.reason(settings) is not None
    assert "Nothing of Cairn is left" in pair.second.cairn("up", "--detach").stdout
    assert not pair.second.state.exists()


def test_agent_that_finds_itself_removed_starts_nothing(pair: Pair) -> None:
    """As under systemd, which knows only the agent."""
    pair.first.cairn("host", "remove", "--no-wait", "second")
    pair.new_token()
    pair.join()
    settings = pair.second.settings
    pair.second.cairn("down")
    settings.removal_file.write_text(json.dumps({"reason": "Host second was removed.", "at": 0}))
    pair.second.cairn(
        "agent", check=False
    )  # What cleans up ends it, if it has not ended by itself.
    pair.wait(lambda: not pair.second.state.exists(), "the state directory's end")
    pair.first.cairn("host", "remove", "--no-wait", "second")


def test_token_of_another_cloud_is_refused(pair: Pair) -> None:
    from cairn.wire import token as wire_token

    pair.new_token()
    held = wire_token.decode(pair.token)
    foreign = wire_token.JoinToken(
        addresses=held.addresses, fingerprint=b"f" * 32, secret=held.secret
    )
    done = pair.second.cairn("join", wire_token.encode(foreign), check=False)
    assert done.returncode == 1
    assert "another cloud" in done.stderr
    # `Cloud` knows the services of the catalog and the operator's routes; metrics are beside them.
    connection = pair.cloud._connections["127.0.0.1:8443"]
    connection.request("GET", "/metrics", headers={"x-auth-token": pair.cloud._token})
    told = connection.getresponse().read().decode()
    assert 'cairn_join_refused_total{reason="other-cloud"} 1.0' in told

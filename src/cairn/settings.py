"""Every setting of Cairn: one frozen record, read once from `<state>/cairn.toml`.

A setting is a debt: it is here only where the right value cannot be derived from the machine, or where
an operator may have to overrule what was derived. Units are in the names, limits in the types, the
reason in the comment. What is not a choice (the layout of the state directory) is a property below.
"""

import os
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from cairn.core.errors import Invalid

DEFAULT_STATE = Path("/var/lib/cairn")
STATE_VARIABLE = "CAIRN_STATE"
FILE_NAME = "cairn.toml"
MEMBERSHIP_NAME = "membership.json"

Port = Annotated[int, Meta(ge=1, le=65535)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this installation differs from the usual one. The defaults are one machine, one cloud."""

    # Everything that must not be lost, and everything that one installation must not share with
    # another. It comes from the command line or the environment, not from the file that lies in it.
    state: Path = DEFAULT_STATE

    # What can be fetched or built again: engines and images. Shared by all installations of a machine.
    cache: Path = Path("/var/cache/cairn")

    # --- control plane -------------------------------------------------------------------------------

    # The name that clients ask the catalog for; "RegionOne" is what they assume.
    region: Name = "RegionOne"

    # Where the API listens. All addresses, because the first client is often another machine.
    api_address: str = "0.0.0.0"  # noqa: S104 - TLS and a token guard it
    api_port: Port = 8443

    # The name or address that clients use, as it stands in the catalog. Empty: this machine's address
    # on its default route.
    api_host: str = ""

    # The API's address as clients write it, for the links in its answers: "https://cloud.example/openstack".
    # Empty: as each client wrote it, which is right unless a proxy hides what that was.
    api_public_url: Annotated[str, Meta(pattern=r"^(https?://[A-Za-z0-9\[\]._~:/-]+)?$")] = ""

    # Addresses or networks of proxies in front of the API. Only these are believed what they say of the
    # client: anybody can write such a header. They have no limit of connections of their own.
    api_trusted_proxies: tuple[str, ...] = ()

    # Which headers those proxies write: X-Forwarded-For, -Proto, -Host and -Prefix, or Forwarded. Not both,
    # because the other ones may come through from the client.
    api_proxy_headers: Literal["x-forwarded", "forwarded"] = "x-forwarded"

    # Requests a second of one address, and of one project, in the long run; ten seconds' worth may come at
    # once. They keep one client from using up a control process; ordinary work stays far below. 0: no limit.
    requests_per_s_per_address: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000
    requests_per_s_per_project: Annotated[int, Meta(ge=0, le=1_000_000)] = 800

    # Sign-ins of one address that may fail in a minute, in the long run. Behind one address may be many
    # people, and robots with an old password. 0: no limit.
    failed_sign_ins_per_min_per_address: Annotated[int, Meta(ge=0, le=1_000_000)] = 120

    # Where agents connect, with their certificates.
    node_address: str = "0.0.0.0"  # noqa: S104 - mutual TLS guards it
    node_port: Port = 8444

    # Empty: SQLite in the state directory. Else an SQLAlchemy URL of a PostgreSQL database.
    database_url: str = ""

    # A replica of that database, which answers what may be asked of one; empty: the database answers all.
    database_replica_url: str = ""

    # Where images' files lie. Empty: below the state directory, and control machines fetch them from
    # each other. A folder that all control machines share saves the copies.
    images_dir: str = ""

    # How long a token is good for. An hour: long enough for a build, short enough for a lost one.
    token_lifetime_s: Annotated[int, Meta(ge=60, le=7 * 86400)] = 3600

    # For how many days the audit trail is kept in the database; 0: for ever. Three months can be asked of at
    # once, as most rules for audits want it; what must last longer is exported (`cairn audit export`).
    audit_days: Annotated[int, Meta(ge=0, le=3650)] = 90

    # --- passwords and accounts ----------------------------------------------------------------------

    # So many wrong passwords (or passcodes) in a row lock a user out for so long; 0: never. On, because
    # people choose passwords that a thousand guesses find. Short, because anybody who knows a name can
    # lock its owner out: five guesses in five minutes are slow enough, and tokens and application
    # credentials go on meanwhile. A user whom nobody may lock out has an option for it.
    lockout_failures: Annotated[int, Meta(ge=0, le=1000)] = 5
    lockout_s: Annotated[int, Meta(ge=1, le=30 * 86400)] = 300

    # What rules for audits (PCI DSS, for one) may ask for; nothing of it is on, because most of it makes
    # people choose worse passwords. After how many days a password must be changed, and for how many
    # its owner must keep it; how many of the last ones must not be chosen again; whether one that an
    # administrator has set must be changed first of all. 0: not at all.
    password_days: Annotated[int, Meta(ge=0, le=3650)] = 0
    password_days_min: Annotated[int, Meta(ge=0, le=3650)] = 0
    passwords_unique: Annotated[int, Meta(ge=0, le=24)] = 0
    password_change_first: bool = False

    # A regular expression that passwords must match, and the same in words for whoever chose another.
    password_pattern: str = ""
    password_pattern_says: str = ""

    # After how many days without a sign-in a user is disabled; 0: never.
    inactive_days: Annotated[int, Meta(ge=0, le=3650)] = 0

    # Where web sign-on may hand a token to: a dashboard's address as its sign-in page sends it, to the
    # letter, like "https://dashboard.example/auth/websso/". Whoever stands here gets its users' tokens.
    trusted_dashboards: tuple[str, ...] = ()

    # The largest image or volume upload that is taken. It guards the disk, not the network.
    upload_gib_max: Annotated[int, Meta(ge=1, le=16384)] = 512

    # --- placement -----------------------------------------------------------------------------------

    # How far processors are promised twice: idle guests are the rule. Memory is not, because a guest
    # that is killed for lack of it has lost data.
    vcpu_overcommit: Annotated[float, Meta(ge=1, le=64)] = 16.0
    memory_overcommit: Annotated[float, Meta(ge=0.5, le=8)] = 1.0

    # Servers that move at a time from each host and to each: more would share the same wire, and each
    # would stand still for longer in the end.
    migrations_at_once: Annotated[int, Meta(ge=1, le=64)] = 2

    # What the machine keeps for itself.
    memory_reserved_mib: Annotated[int, Meta(ge=0, le=1 << 20)] = 1024
    disk_reserved_gib: Annotated[int, Meta(ge=0, le=1 << 20)] = 4

    # --- lost hosts ----------------------------------------------------------------------------------

    # For how long a host may be suspect (silent for longer than its lease) before it is lost, and fenced.
    # A minute outlasts a switch's restart; a host that only hangs has usually come back by then.
    lost_after_s: Annotated[int, Meta(ge=5, le=86400)] = 60

    # Whether servers start elsewhere when their host is lost, unless they or their flavor say: "true" where
    # their disks can be reached, "fresh" even with a new disk from their image. Never by default: most
    # disks lie on one host, and only their owner knows what starting anew would cost.
    restart_elsewhere: Literal["true", "fresh", "false"] = "false"

    # How many servers of lost hosts are started elsewhere a minute: more at once only wait for each other.
    recoveries_per_minute: Annotated[int, Meta(ge=1, le=60000)] = 300

    # --- this host -----------------------------------------------------------------------------------

    # What this host does. One machine does everything; a host of many may do a part.
    roles: tuple[Literal["compute", "network", "storage", "power"], ...] = (
        "compute",
        "network",
        "storage",
    )

    # Whether a control plane runs here. A host that joined by a token has an agent only.
    control: bool = True

    # Where the agent finds control processes: names or addresses, with ":port" where it is not
    # `node_port`. It takes whichever answers. A control machine that names all of them here has every
    # host that joins learn them.
    control_addresses: Annotated[tuple[str, ...], Meta(min_length=1, max_length=16)] = (
        "127.0.0.1",
    )

    # The name that the cloud knows this host by. Empty: the machine's own.
    host_name: str = ""

    # How long the certificates of hosts are good. Each is replaced when a third of it is left, so a host
    # may be off for that long and still come back by itself. 397: the longest that is usual.
    certificate_days: Annotated[float, Meta(gt=0, le=825)] = 397

    # The address under which other hosts reach this one, and through which its networks' tunnels go.
    # Empty: the machine's address on its default route.
    host_address: str = ""

    # Physical networks and the interface that each is reached by, which then belongs to Cairn. A
    # network whose interface is empty gets a bridge of ours on which the host itself has an address.
    # Not set: {"external": ""} on a host with the role network, none elsewhere.
    physical_networks: dict[Name, str] | None = None

    # The host's address on such a bridge: the gateway of the demonstration's floating addresses.
    external_gateway: str = "172.24.4.1/24"

    # "auto" tries KVM and takes TCG where KVM is missing or does not work.
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"

    # How long a guest may take to shut itself down before it is cut off, unless the API says otherwise.
    stop_grace_s: Annotated[int, Meta(ge=0, le=3600)] = 60

    # Readable details of every step in the logs; some per cent slower.
    debug: bool = False

    # --- layout of the state directory: not choices ---------------------------------------------------

    @property
    def control_dir(self) -> Path:
        """The control plane's: database, images, objects, token keys."""
        return self.state / "control"

    @property
    def agent_dir(self) -> Path:
        """The agent's: ledger, volumes, guests, network engine."""
        return self.state / "agent"

    @property
    def certs_dir(self) -> Path:
        return self.state / "certs"

    @property
    def credentials_dir(self) -> Path:
        return self.state / "credentials"

    @property
    def run_dir(self) -> Path:
        """Pidfiles and locks: worthless after a reboot."""
        return self.state / "run"

    @property
    def log_dir(self) -> Path:
        return self.state / "log"

    @property
    def images_folder(self) -> Path:
        return Path(self.images_dir) if self.images_dir else self.control_dir / "images"

    @property
    def policy_dir(self) -> Path:
        """An operator's changes to the policy: keystone.yaml, nova.yaml, ..."""
        return self.state / "policy.d"

    @property
    def control_key_file(self) -> Path:
        """What the database's secrets are sealed with; the same on every control machine."""
        return self.certs_dir / "control.key"

    @property
    def control_lock_file(self) -> Path:
        """Held by the control process; its number stands in it."""
        return self.run_dir / "control.lock"

    @property
    def node_id_file(self) -> Path:
        """Which node this host is: made once, and in its certificate."""
        return self.state / "node-id"

    @property
    def agent_state_file(self) -> Path:
        """Whether the agent is connected, and why not: for whoever has no credentials."""
        return self.run_dir / "agent.json"

    @property
    def membership_file(self) -> Path:
        """What the join has settled: settings, which `cairn.toml` overrides."""
        return self.state / MEMBERSHIP_NAME

    @property
    def removal_file(self) -> Path:
        """That this host was removed from its cloud, and what is left to do is to clean up."""
        return self.state / "removed.json"

    @property
    def effective_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.control_dir / 'cairn.db'}"

    @property
    def effective_physical_networks(self) -> dict[str, str]:
        if self.physical_networks is not None:
            return self.physical_networks
        return {"external": ""} if "network" in self.roles else {}

    @property
    def effective_host_name(self) -> str:
        return self.host_name or socket.gethostname()

    @property
    def effective_api_host(self) -> str:
        return self.api_host or self.effective_host_address

    @property
    def effective_host_address(self) -> str:
        return self.host_address or main_address()

    @property
    def api_url(self) -> str:
        """The root of the public API, as it stands in the catalog."""
        host = self.effective_api_host
        return f"https://{f'[{host}]' if ':' in host else host}:{self.api_port}"


def state_dir(option: str | Path | None = None) -> Path:
    """The state directory by `--state`, else the environment, else the usual place."""
    return Path(option or os.environ.get(STATE_VARIABLE) or DEFAULT_STATE).absolute()


def load(state: Path) -> Settings:
    """Settings of the installation in `state`. Raises Invalid naming file, setting and reason."""
    file = state / FILE_NAME
    given: dict[str, object] = {}
    try:
        given = tomllib.loads(file.read_text())
    except FileNotFoundError:
        pass
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{file} is not valid TOML: {error}") from error
    if "state" in given:
        raise Invalid(f"{file}: `state` is not set in the file; use --state or {STATE_VARIABLE}")
    try:
        known = _membership(state / MEMBERSHIP_NAME) | given | {"state": str(state)}
        return msgspec.convert(known, Settings, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise Invalid(f"{file}: {error}") from error


def _membership(file: Path) -> dict[str, object]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, object])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise Invalid(f"{file} is damaged: join again", because=str(error)) from error


def main_address() -> str:
    """This machine's address on its default route; 127.0.0.1 where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # No packet is sent: connecting a datagram socket only chooses the route.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind)

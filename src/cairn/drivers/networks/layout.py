"""Where the OVN of one host lives: its options, its files, and the names of what it makes.

Everything is ours alone, so that an OVS of the distribution on the same host goes on undisturbed: sockets,
databases and logs under one directory, bridges under our own names. Each link carries the directory as its
alias, which is how `tear_down` tells ours from those of another Cairn, whatever became of the databases.
"""

import hashlib
import os
from pathlib import Path

from msgspec import Struct

from cairn.core.errors import Invalid
from cairn.core.ids import NetworkId, NodeId, PortId

LINK_NAME_MAX = 15  # IFNAMSIZ - 1
SOUTHBOUND_PORT = 6642  # registered with IANA for OVN
_SOCKET_PATH_MAX = 107  # sockaddr_un.sun_path, less the final zero


class PhysicalNetwork(Struct, frozen=True, kw_only=True):
    """A network outside that provider networks may use.

    Either a real `interface`, which must have no address of its own since it becomes a port of our bridge;
    or, for a machine without a spare one, `host_address` ("172.24.4.1/24"): the host itself becomes a
    neighbour in that network, over a pair of links that the driver makes.
    """

    name: str
    interface: str | None = None
    host_address: str | None = None


class TlsFiles(Struct, frozen=True, kw_only=True):
    """By which hosts of a zone know each other: this host's certificate, and who signed all of them."""

    authority: Path
    certificate: Path
    key: Path


class OvnOptions(Struct, frozen=True, kw_only=True):
    """All that the driver must be told."""

    state_dir: Path  # of the agent; we live in its "ovn"
    node_id: NodeId
    engine_dir: Path | None = None  # an unpacked OVS and OVN (bin/, usr/share/); None: the system's
    has_network_role: bool = True  # whether this host runs the zone's databases and northd
    tls: TlsFiles | None = None  # None: the zone ends at this host
    southbound_port: int = SOUTHBOUND_PORT  # where other hosts reach the zone's database
    underlay_address: str = "127.0.0.1"  # of this host, where the others' tunnels end
    underlay_mtu: int | None = None  # None: that of the interface which has the address
    datapath: str | None = None  # "system" or "netdev"; None: probe
    physical_networks: tuple[PhysicalNetwork, ...] = ()
    prefix: str = "cairn"  # of bridges

    @property
    def home(self) -> Path:
        return self.state_dir.absolute() / "ovn"

    @property
    def run_dir(self) -> Path:
        return self.home / "run"

    @property
    def log_dir(self) -> Path:
        return self.home / "log"

    @property
    def alias(self) -> str:
        """What marks a link as ours."""
        return f"cairn:{self.home}"

    @property
    def integration_bridge(self) -> str:
        return f"{self.prefix}-int"

    @property
    def underlay_bridge(self) -> str:
        """Through which a userspace datapath's tunnels leave the host."""
        return f"{self.prefix}-und"

    def socket(self, name: str) -> str:
        return f"unix:{self.run_dir / name}"

    def database(self, name: str) -> Path:
        return self.home / f"{name}.db"

    def program(self, name: str) -> str:
        return str(self.engine_dir / "bin" / name) if self.engine_dir else name

    def schema(self, name: str) -> Path:
        """`name` is "openvswitch/vswitch" or "ovn/ovn-nb"."""
        root = self.engine_dir or Path("/")
        return root / "usr/share" / f"{name}.ovsschema"

    def environment(self) -> dict[str, str]:
        """Keeps every daemon and tool inside our directory."""
        here = {f"{owner}_{what}": str(path) for owner in ("OVS", "OVN") for what, path in (
            ("RUNDIR", self.run_dir), ("LOGDIR", self.log_dir),
            ("DBDIR", self.home), ("SYSCONFDIR", self.home))}  # fmt: skip
        return {**os.environ, **here}

    def check(self) -> None:
        """Raises Invalid for options that cannot work."""
        longest = self.run_dir / f"{self.integration_bridge}.controller.12345"
        if len(str(longest)) > _SOCKET_PATH_MAX:
            raise Invalid(
                f"state_dir: {self.state_dir} is too long for unix sockets",
                because=f"{longest} has more than {_SOCKET_PATH_MAX} characters",
            )
        if len(self.integration_bridge) > LINK_NAME_MAX:
            raise Invalid(f"prefix: {self.prefix} has more than {LINK_NAME_MAX - 4} characters")
        if self.datapath not in (None, "system", "netdev"):
            raise Invalid(f"datapath: {self.datapath} is neither system nor netdev")
        for physical in self.physical_networks:
            if (physical.interface is None) == (physical.host_address is None):
                raise Invalid(
                    f"physical network {physical.name}: give either interface or host_address"
                )

    def bridge_of(self, physical: PhysicalNetwork) -> str:
        return link_name(f"{self.prefix}-", physical.name)


def link_name(start: str, name: str) -> str:
    """A link's name from a human's word: cut and made unique where it is too long or odd."""
    plain = f"{start}{name}"
    bare = name.replace("-", "")
    if len(plain) <= LINK_NAME_MAX and bare.isascii() and bare.isalnum():
        return plain
    room = LINK_NAME_MAX - len(start)
    return start + hashlib.sha256(name.encode()).hexdigest()[:room]


def outer_link(physical: PhysicalNetwork) -> str:
    """The end of a physical network's pair that is a port of its bridge."""
    return link_name("cvx-", physical.name)


def host_link(physical: PhysicalNetwork) -> str:
    """The end of a physical network's pair that the host keeps."""
    return link_name("cvh-", physical.name)


def tap_name(port_id: PortId) -> str:
    return "cvt" + port_id.replace("-", "")[:11]


def metadata_link(network_id: NetworkId) -> str:
    """The end of a metadata namespace's pair that is a port of the integration bridge."""
    return "cvm" + network_id.replace("-", "")[:11]


def metadata_namespace(network_id: NetworkId, home: Path) -> str:
    """Named after the network and the installation: namespaces are the machine's, and two may live on it."""
    return "cvm-" + hashlib.sha256(f"{home} {network_id}".encode()).hexdigest()[:11]

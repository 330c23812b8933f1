"""The same work as was measured on real OpenStack: CPU per request of all daemons, as a factor.

OpenStack's figures are constants here, with their source; Cairn's are measured now. On fake engines, because
OpenStack's were taken with Nova's fake driver and without network agents: `cairn dev` is control plane and
agents in one process, over plain HTTP, with a database in a file. Then a server's birth and death on real
engines, which OpenStack's figures do not have: control plane, agent, OVS and OVN together; QEMU is not in it.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from bench import cloud, fill
from bench.client import Client, sign_in_body
from bench.cloud import Dev, Whole
from bench.processes import cpu_of
from bench.table import Result
from cairn.sim.dev import PASSWORD

SOURCE = (
    "OpenStack 2026.2 from PyPI (keystone 30, nova 34 with the fake driver, neutron 29 without agents,"
    " glance 33, placement 16, cinder 29), MariaDB, RabbitMQ, memcached; measured on a machine of the"
    " same kind (2 cores) on another day."
)


class Idle(Struct, frozen=True, kw_only=True):
    processes: int
    pss_mib: float
    cpu: float  # of one core
    statements_a_minute: float


IDLE = Idle(processes=42, pss_mib=2814, cpu=0.024, statements_a_minute=230)

# CPU milliseconds of all of OpenStack's daemons for each request.
OPENSTACK_MS = {
    "POST /v3/auth/tokens": 302.0,
    "GET /v3/auth/tokens": 6.7,
    "GET /servers/{id}": 50.0,
    "GET /servers/detail, 1 server": 65.0,
    "GET /servers/detail, 100 servers": 329.0,
    "GET /servers/detail, 1,000 servers": 3416.0,
    "GET /flavors/detail": 13.5,
    "GET /networks": 27.0,
    "POST /ports": 159.0,
    "GET /ports, 1,000 ports": 632.0,
    "DELETE port": 105.0,
    "GET /images, 100 images": 44.0,
    "GET /volumes/detail, 100 volumes": 65.0,
    "a server without network, created and deleted": 1500.0,
    "a server with a port, created and deleted": 3200.0,
    "each of 100 servers at once, no network": 1700.0,
    "each of 30 servers at once, with a port": 2200.0,
}

READS = 100
LISTS = 8
PORTS = 1000
SERVERS = 1000
SINGLES = 10
REAL_SINGLES = 3
GONE_S_MAX = 60.0
_COMPUTE, _NETWORK = "/compute/v2.1", "/network/v2.0"


class _Meter:
    """Collects rows: what was done, what it cost each time, how long it took."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self.rows: list[tuple[str, ...]] = []

    @contextmanager
    def of(self, name: str, count: int) -> Iterator[None]:
        """Measure the body, which does `count` such things."""
        pids = list(self._pids())
        cpu_s, began = cpu_of(pids), time.perf_counter()
        yield
        each_ms = (cpu_of(pids) - cpu_s) / count * 1000
        took_ms = (time.perf_counter() - began) / count * 1000
        theirs_ms = OPENSTACK_MS[name]
        self.rows.append(
            (
                name,
                f"{each_ms:.2f} ms",
                f"{theirs_ms:,.1f} ms",
                f"{theirs_ms / each_ms:,.0f} ×",
                f"{took_ms:.1f} ms",
            )
        )

    def repeat(self, name: str, count: int, do: Callable[[], object]) -> None:
        do()  # The first time fills caches, on either side.
        with self.of(name, count):
            for _ in range(count):
                do()


def on_fake_engines(dev: Dev) -> list[Result]:
    """Everything that OpenStack's table has; `dev` is new, and has 1,000 servers afterwards."""
    with dev.client() as client:
        meter = _Meter(lambda: [dev.pid])
        network = fill.network(client)
        _tokens(meter, client)
        _reads(meter, client)
        _births(meter, client, network, SINGLES)
        _ports(meter, client, network)
        _volumes(meter, client)
        _bursts(meter, client, network)
    return [
        Result(
            title="CPU per request of all daemons, against real OpenStack: fake engines on both sides",
            columns=("work", "Cairn", "OpenStack", "OpenStack / Cairn", "took"),
            rows=tuple(meter.rows),
            notes=(SOURCE, "`cairn dev`; `took` is wall time on this machine as it was."),
        )
    ]


def on_real_engines(whole: Whole) -> list[Result]:
    """A server's birth and death with QEMU, OVS and OVN, and what a port costs there."""
    meter = _Meter(lambda: [*whole.own().values(), *whole.engines().values()])
    with whole.client() as client:
        network = fill.network(client)
        _births(meter, client, network, REAL_SINGLES)
        ports: list[str] = []
        with meter.of("POST /ports", READS):
            ports += [_port(client, network) for _ in range(READS)]
        with meter.of("DELETE port", READS):
            for port in ports:
                client.must("DELETE", f"{_NETWORK}/ports/{port}")
    return [
        Result(
            title="CPU per request of control plane, agent, OVS and OVN, real engines on Cairn's side",
            columns=("work", "Cairn", "OpenStack", "OpenStack / Cairn", "took"),
            rows=tuple(meter.rows),
            notes=(
                "OpenStack's side is again the fake driver and no network agent, so the factor is a"
                " lower bound. QEMU's own time is in neither.",
            ),
        )
    ]


def _tokens(meter: _Meter, client: Client) -> None:
    body = sign_in_body(PASSWORD, "admin", "admin")
    meter.repeat("POST /v3/auth/tokens", 5, lambda: client.must("POST", _TOKENS, body))
    check = {"x_subject_token": client.token}
    meter.repeat("GET /v3/auth/tokens", READS, lambda: client.must("GET", _TOKENS, **check))


_TOKENS = "/identity/v3/auth/tokens"


def _reads(meter: _Meter, client: Client) -> None:
    (server,) = fill.servers(client, 1)
    path = f"{_COMPUTE}/servers"
    meter.repeat("GET /servers/{id}", READS, lambda: client.must("GET", f"{path}/{server}"))
    _list(meter, client, "GET /servers/detail, 1 server", f"{path}/detail?limit=1", 1, READS)
    flavors = f"{_COMPUTE}/flavors/detail"
    meter.repeat("GET /flavors/detail", READS, lambda: client.must("GET", flavors))
    networks = f"{_NETWORK}/networks"
    meter.repeat("GET /networks", READS, lambda: client.must("GET", networks))
    wish = {"disk_format": "raw", "container_format": "bare"}
    have = len(client.must("GET", "/image/v2/images").body["images"])
    fill.posts(client, "/image/v2/images", [{**wish, "name": f"i{n}"} for n in range(100 - have)])
    _list(meter, client, "GET /images, 100 images", "/image/v2/images?limit=100", 100, READS)
    _delete_servers(client, [server])


def _list(
    meter: _Meter, client: Client, name: str, path: str, length: int, count: int = LISTS
) -> None:
    """Read a list of so many things; a shorter answer would be no measurement."""
    key = path.split("?")[0].removesuffix("/detail").rsplit("/", 1)[1]

    def read() -> None:
        found = len(client.must("GET", path).body[key])
        assert found == length, f"{path}: {found} things instead of {length}"

    meter.repeat(name, count, read)


def _births(meter: _Meter, client: Client, network: str, count: int) -> None:
    """One server after the other: accepted, ACTIVE, deleted, gone."""
    for name, with_port in (
        ("a server without network, created and deleted", False),
        ("a server with a port, created and deleted", True),
    ):
        wish = fill.server_wish(client, network=network if with_port else None)
        _live_and_die(client, wish)
        with meter.of(name, count):
            for _ in range(count):
                _live_and_die(client, wish)


def _live_and_die(client: Client, wish: dict[str, object]) -> None:
    body = {"server": {**wish, "name": "one"}}
    made = client.must("POST", f"{_COMPUTE}/servers", body).body["server"]
    path = f"{_COMPUTE}/servers/{made['id']}"

    def is_active() -> bool | None:
        server = client.must("GET", path).body["server"]
        assert server["status"] != "ERROR", server.get("fault")
        return server["status"] == "ACTIVE" or None

    cloud.until(is_active, "an active server", within_s=GONE_S_MAX)
    _delete_servers(client, [made["id"]])


def _delete_servers(client: Client, ids: list[str]) -> None:
    fill.deletes(client, [f"{_COMPUTE}/servers/{id_}" for id_ in ids])
    cloud.until(
        lambda: all(_is_gone(client, id_) for id_ in ids) or None, "their end", within_s=GONE_S_MAX
    )


def _is_gone(client: Client, id_: str) -> bool:
    return client.ask("GET", f"{_COMPUTE}/servers/{id_}").status == 404


def _port(client: Client, network: str) -> str:
    body = {"port": {"network_id": network, "name": "load"}}
    return str(client.must("POST", f"{_NETWORK}/ports", body).body["port"]["id"])


def _ports(meter: _Meter, client: Client, network: str) -> None:
    path = f"{_NETWORK}/ports"
    ports: list[str] = []
    have = len(client.must("GET", f"{path}?fields=id").body["ports"])
    with meter.of("POST /ports", PORTS - have):
        ports += [_port(client, network) for _ in range(PORTS - have)]
    _list(meter, client, "GET /ports, 1,000 ports", f"{path}?limit=1000", PORTS)
    with meter.of("DELETE port", len(ports)):
        for port in ports:
            client.must("DELETE", f"{path}/{port}")


def _volumes(meter: _Meter, client: Client) -> None:
    project = client.must("GET", _TOKENS, x_subject_token=client.token).body["token"]["project"][
        "id"
    ]
    quota = {"quota_set": {"volumes": -1, "gigabytes": -1}}
    client.must("PUT", f"/volume/v3/os-quota-sets/{project}", quota)
    made = fill.posts(client, "/volume/v3/volumes", [{"volume": {"size": 1}}] * 100)
    path = "/volume/v3/volumes"
    _list(meter, client, "GET /volumes/detail, 100 volumes", f"{path}/detail?limit=100", 100, READS)
    ids = [answer["volume"]["id"] for answer in made]
    cloud.until(
        lambda: not client.must("GET", f"{path}?status=creating&limit=1").body["volumes"] or None,
        "the volumes",
        within_s=GONE_S_MAX,
    )
    fill.deletes(client, [f"{path}/{id_}" for id_ in ids])


def _bursts(meter: _Meter, client: Client, network: str) -> None:
    path = f"{_COMPUTE}/servers/detail?limit="
    with meter.of("each of 30 servers at once, with a port", 30):
        ported = fill.servers(client, 30, network=network)
    _delete_servers(client, ported)
    with meter.of("each of 100 servers at once, no network", 100):
        fill.servers(client, 100)
    _list(meter, client, "GET /servers/detail, 100 servers", f"{path}100", 100)
    fill.up_to(client, SERVERS)
    _list(meter, client, "GET /servers/detail, 1,000 servers", f"{path}1000", SERVERS)

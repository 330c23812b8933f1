"""Limits under 64 requests at the same moment: what is allowed is made, the rest refused, nothing counted
wrong; and the operator's table over all slices."""

import asyncio
import collections
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
import pytest_asyncio
from click.testing import CliRunner
from msgspec import Struct

from cairn.app import Cloud, CloudOptions
from cairn.cli import quota as commands
from cairn.core.clock import SystemClock
from cairn.core.errors import Unauthenticated
from cairn.core.ids import ProjectId
from cairn.db.engine import Database, Tx, open_sqlite
from cairn.http.shell import Shell
from cairn.identity import bootstrap, places
from cairn.identity.records import DEFAULT_DOMAIN, Project
from tests import conftest
from tests.callers import CALLERS, P1, P2

SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGb0081Yn8coLiUq6NR7aksVfqEzdKBwX4mY9EowQvKY"
AT_ONCE = 64
LIMIT = 10


class World:
    """All services over databases that really do things at the same time; asked without waiting.

    Several databases are the same one, as several control processes see it: they are asked in turn.
    """

    def __init__(self, databases: Sequence[Database], folder: Path) -> None:
        options = CloudOptions(control_dir=folder, clock=SystemClock(), admin_password="admin")
        self.clouds = [Cloud(database, options) for database in databases]
        databases[0].write_now(_projects)
        shells = [
            Shell(services=cloud.shell.services, database=cloud.database, authenticate=_by_name)
            for cloud in self.clouds
        ]
        self._conductors = [falcon.testing.ASGIConductor(shell.app) for shell in shells]
        self._turn = itertools.cycle(self._conductors)

    async def ask(self, method: str, path: str, body: Any = None, who: str = "alice") -> Any:
        headers = {"X-Auth-Token": who, "OpenStack-API-Version": "compute 2.96"}
        return await next(self._turn).simulate_request(method, path, json=body, headers=headers)

    async def upload(self, path: str, body: bytes, who: str) -> Any:
        kind = {"X-Auth-Token": who, "Content-Type": "application/octet-stream"}
        return await self._conductors[0].simulate_request("PUT", path, body=body, headers=kind)

    async def made(self, path: str, body: Any, who: str = "alice") -> Any:
        answer = await self.ask("POST", path, body, who)
        assert answer.status_code < 300, answer.text
        return next(iter(answer.json.values()))

    async def set(self, **limits: int) -> None:
        answer = await self.ask("PUT", f"/cairn/v1/quotas/{P1}", {"quotas": limits}, "admin")
        assert answer.status_code == 200, answer.text

    async def used(self, name: str, project: str = P1) -> int:
        answer = await self.ask("GET", f"/cairn/v1/quotas/{project}", who="admin")
        (count,) = [one["used"] for one in answer.json["quotas"] if one["name"] == name]
        return int(count)


def _by_name(token: str) -> Any:
    if token not in CALLERS:
        raise Unauthenticated("The token is not valid.")
    return CALLERS[token]


def _projects(tx: Tx) -> None:
    bootstrap.bootstrap(tx, "no hash: nobody signs in")
    for id_, name in ((P1, "one"), (P2, "two")):
        new = Project(
            id=ProjectId(id_), name=name, domain_id=DEFAULT_DOMAIN, parent_id=DEFAULT_DOMAIN
        )
        places.create_project(tx, new)


@pytest_asyncio.fixture(params=["sqlite", "postgresql"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "sqlite":
        databases = [open_sqlite(tmp_path / "db")]
        databases[0].create_all()
    else:
        url = request.getfixturevalue("postgres_url")
        databases = [Database(url), Database(url)]
        conftest._empty(databases[0])
    made = World(databases, tmp_path)
    yield made
    for cloud in made.clouds:
        cloud.passwords.close()
        cloud.database.close()


# --- 64 at once ----------------------------------------------------------------------------------------


class Race(Struct, frozen=True, kw_only=True):
    """What 64 requests want at the same moment, and how those are refused that come too late."""

    path: str
    body: Callable[[int, dict[str, str]], Any]
    limits: dict[str, int]
    refused: int
    counted: dict[str, int]  # use afterwards, by limit
    listed: str = ""  # where the things are listed, if not at `path`


_NOVA, _CINDER = "/compute/v2.1", "/volume/v3"
_NEUTRON, _GLANCE = "/network/v2.0", "/image/v2"


def server(number: int, ids: dict[str, str]) -> Any:
    wish = {
        "name": f"s{number}",
        "flavorRef": ids["flavor"],
        "imageRef": ids["image"],
        "networks": "none",
    }
    return {"server": wish}


RACES = {
    "servers": Race(
        path=f"{_NOVA}/servers", body=server, limits={"instances": LIMIT}, refused=403,
        counted={"instances": LIMIT, "cores": 2 * LIMIT, "ram": 64 * LIMIT},
    ),
    "servers by cores": Race(
        path=f"{_NOVA}/servers", body=server, limits={"cores": 2 * LIMIT + 1, "instances": -1},
        refused=403, counted={"instances": LIMIT, "cores": 2 * LIMIT},
    ),
    "key pairs": Race(
        path=f"{_NOVA}/os-keypairs",
        body=lambda n, ids: {"keypair": {"name": f"k{n}", "public_key": SSH_KEY}},
        limits={"key_pairs": LIMIT}, refused=403, counted={},
    ),
    "volumes": Race(
        path=f"{_CINDER}/volumes", body=lambda n, ids: {"volume": {"size": 1, "name": f"v{n}"}},
        limits={"volumes": LIMIT}, refused=413, counted={"volumes": LIMIT, "gigabytes": LIMIT},
    ),
    "gigabytes": Race(
        path=f"{_CINDER}/volumes", body=lambda n, ids: {"volume": {"size": 3, "name": f"v{n}"}},
        limits={"volumes": -1, "gigabytes": 3 * LIMIT + 2}, refused=413,
        counted={"volumes": LIMIT, "gigabytes": 3 * LIMIT},
    ),
    "networks": Race(
        path=f"{_NEUTRON}/networks", body=lambda n, ids: {"network": {"name": f"n{n}"}},
        limits={"network": LIMIT + 1}, refused=409, counted={"network": LIMIT + 1},
    ),
    "ports": Race(
        path=f"{_NEUTRON}/ports", body=lambda n, ids: {"port": {"network_id": ids["network"]}},
        limits={"port": LIMIT}, refused=409, counted={"port": LIMIT},
    ),
    "floating IPs": Race(
        path=f"{_NEUTRON}/floatingips",
        body=lambda n, ids: {"floatingip": {"floating_network_id": ids["outside"]}},
        limits={"floatingip": LIMIT}, refused=409, counted={"floatingip": LIMIT},
    ),
    "security groups": Race(
        path=f"{_NEUTRON}/security-groups",
        body=lambda n, ids: {"security_group": {"name": f"g{n}"}},
        limits={"security_group": LIMIT + 1}, refused=409, counted={"security_group": LIMIT + 1},
    ),
    "images": Race(
        path=f"{_GLANCE}/images",
        body=lambda n, ids: {"name": f"i{n}", "disk_format": "raw", "container_format": "bare"},
        limits={"image_count_total": LIMIT}, refused=413, counted={"image_count_total": LIMIT},
    ),
}  # fmt: skip
"""One network and the default security group are there before, so the limits of these are one higher."""


async def prepared(world: World) -> dict[str, str]:
    """What the wishes are about; the image is another project's."""
    flavor = {"flavor": {"name": "f", "vcpus": 2, "ram": 64, "disk": 0}}
    outside = {"network": {"name": "o", "router:external": True}}
    ids = {
        "flavor": (await world.made(f"{_NOVA}/flavors", flavor, "admin"))["id"],
        "outside": (await world.made(f"{_NEUTRON}/networks", outside, "admin"))["id"],
        "network": (await world.made(f"{_NEUTRON}/networks", {"network": {}}))["id"],
    }
    cidr = {"network_id": ids["outside"], "cidr": "203.0.113.0/24", "ip_version": 4}
    await world.made(f"{_NEUTRON}/subnets", {"subnet": cidr}, "admin")
    cidr = {"network_id": ids["network"], "cidr": "10.0.0.0/24", "ip_version": 4}
    await world.made(f"{_NEUTRON}/subnets", {"subnet": cidr})
    await world.ask("GET", f"{_NEUTRON}/security-groups")  # Makes the project's default one.
    image = {
        "name": "i", "disk_format": "raw", "container_format": "bare", "visibility": "public",
    }  # fmt: skip
    answer = await world.ask("POST", f"{_GLANCE}/images", image, "admin")
    ids["image"] = answer.json["id"]
    upload = await world.upload(f"{_GLANCE}/images/{ids['image']}/file", b"\0" * 512, "admin")
    assert upload.status_code == 204, upload.text
    return ids


@pytest.mark.parametrize("what", RACES)
async def test_exactly_as_many_as_allowed_are_made(world: World, what: str) -> None:
    race = RACES[what]
    ids = await prepared(world)
    await world.set(**race.limits)
    before = await _listed(world, race)
    answers = await asyncio.gather(
        *(world.ask("POST", race.path, race.body(n, ids)) for n in range(AT_ONCE))
    )
    statuses = collections.Counter(
        race.refused if a.status_code == race.refused else a.status_code // 100 * 100
        for a in answers
    )
    assert statuses == {200: LIMIT, race.refused: AT_ONCE - LIMIT}, next(
        a.text for a in answers if a.status_code not in (200, 201, 202, race.refused)
    )
    assert await _listed(world, race) == before + LIMIT
    for name, count in race.counted.items():
        assert await world.used(name) == count, name


async def test_what_is_given_back_may_be_taken_again(world: World) -> None:
    await world.set(network=LIMIT)
    made = await asyncio.gather(
        *(world.ask("POST", f"{_NEUTRON}/networks", {"network": {}}) for _ in range(LIMIT))
    )
    ids = [answer.json["network"]["id"] for answer in made]
    answers = await asyncio.gather(
        *(world.ask("DELETE", f"{_NEUTRON}/networks/{id_}") for id_ in ids[:3]),
        *(world.ask("POST", f"{_NEUTRON}/networks", {"network": {}}) for _ in range(AT_ONCE)),
    )
    statuses = collections.Counter(answer.status_code for answer in answers)
    assert statuses[204] == 3
    assert statuses[201] <= 3
    assert statuses[201] + statuses[409] == AT_ONCE
    assert await world.used("network") == LIMIT - 3 + statuses[201]


async def test_a_limit_that_sinks_meanwhile_is_kept_from_then_on(world: World) -> None:
    await world.set(network=AT_ONCE)
    wishes = [world.ask("POST", f"{_NEUTRON}/networks", {"network": {}}) for _ in range(AT_ONCE)]
    change = world.ask("PUT", f"/cairn/v1/quotas/{P1}", {"quotas": {"network": LIMIT}}, "admin")
    answers = await asyncio.gather(*wishes[:20], change, *wishes[20:])
    statuses = collections.Counter(answer.status_code for answer in answers)
    assert statuses[200] == 1
    assert statuses[201] + statuses[409] == AT_ONCE
    assert await world.used("network") == statuses[201]
    refused = await world.ask("POST", f"{_NEUTRON}/networks", {"network": {}})
    assert (refused.status_code == 409) is (statuses[201] >= LIMIT)


async def _listed(world: World, race: Race) -> int:
    """How many things there are that alice owns."""
    answer = await world.ask("GET", race.path)
    things = next(iter(answer.json.values()))
    if race.path.startswith(_GLANCE):
        things = [one for one in answer.json["images"] if one["owner"] == P1]
    elif race.path.startswith(_NEUTRON):
        things = [one for one in things if one["project_id"] == P1]
    return len(things)


# --- the operator's table ------------------------------------------------------------------------------


async def test_one_table_has_every_limit_and_its_use(world: World) -> None:
    await world.made(f"{_CINDER}/volumes", {"volume": {"size": 4}})
    await world.set(gigabytes=7, cores=-1)
    by_name = await world.ask("GET", "/cairn/v1/quotas/one", who="admin")
    by_id = await world.ask("GET", f"/cairn/v1/quotas/{P1}", who="admin")
    assert by_name.json == by_id.json
    assert by_id.json["project"] == {"id": P1, "name": "one"}
    shown = {one["name"]: one for one in by_id.json["quotas"]}
    assert shown["gigabytes"] == {
        "service": "block-storage", "name": "gigabytes", "unit": "GiB", "limit": 7,
        "default": 1000, "is_own": True, "used": 4,
    }  # fmt: skip
    assert (shown["cores"]["limit"], shown["cores"]["is_own"]) == (-1, True)
    assert (shown["port"]["limit"], shown["port"]["is_own"]) == (500, False)
    assert shown["metadata_items"]["used"] is None, "it is of one server"
    assert {one["service"] for one in shown.values()} == {
        "compute", "block-storage", "network", "image",
    }  # fmt: skip
    back = await world.ask(
        "PUT", "/cairn/v1/quotas/one", {"quotas": {"gigabytes": None}}, who="admin"
    )
    (gigabytes,) = [one for one in back.json["quotas"] if one["name"] == "gigabytes"]
    assert (gigabytes["limit"], gigabytes["is_own"]) == (1000, False)


async def test_defaults_hold_for_all_without_their_own(world: World) -> None:
    await world.set(volumes=3)
    changed = await world.ask("PUT", "/cairn/v1/quotas", {"quotas": {"volumes": 1}}, who="admin")
    (volumes,) = [one for one in changed.json["quotas"] if one["name"] == "volumes"]
    assert (volumes["default"], volumes["built_in"]) == (1, 10)

    async def made(who: str) -> int:
        body = {"volume": {"size": 1}}
        answers = [await world.ask("POST", f"{_CINDER}/volumes", body, who) for _ in range(5)]
        return sum(answer.status_code == 202 for answer in answers)

    assert (await made("alice"), await made("bob")) == (3, 1)
    await world.ask("PUT", "/cairn/v1/quotas", {"quotas": {"volumes": None}}, who="admin")
    assert await made("bob") == 5


BAD: tuple[Any, ...] = (
    {"wings": 2}, {"cores": -2}, {"cores": "2"}, {"cores": 2**31}, {"cores": True}, {}, [],
)  # fmt: skip


async def test_bad_quotas_are_refused(world: World) -> None:
    async def put(path: str, quotas: Any, who: str = "admin") -> Any:
        return await world.ask("PUT", f"/cairn/v1/quotas{path}", {"quotas": quotas}, who)

    for path in ("", "/one"):
        for quotas in BAD:
            assert (await put(path, quotas)).status_code == 400, quotas
        assert (await put(path, {"cores": 2}, "alice")).status_code == 403
    assert "wings" in (await put("/one", {"cores": 3, "wings": 2})).text
    shown = await world.ask("GET", "/cairn/v1/quotas/one", who="admin")
    assert not any(one["is_own"] for one in shown.json["quotas"]), "all or nothing"
    assert (await put("/nobody", {"cores": 2})).status_code == 404
    assert (await world.ask("GET", "/cairn/v1/quotas/one")).status_code == 403


# --- the command ---------------------------------------------------------------------------------------


class Operator:
    """Stands in the place of the API: keeps what the command asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []

    def get(self, *what: Any) -> Any:
        self.asked.append(("GET", *what))
        return self.answer

    def put(self, *what: Any) -> Any:
        self.asked.append(("PUT", *what))
        return self.answer


def one(name: str, **more: Any) -> dict[str, Any]:
    return {
        "service": "compute", "name": name, "unit": "", "limit": 10, "default": 10,
        "built_in": 10, "is_own": False, "used": 0, **more,
    }  # fmt: skip


ANSWER = {
    "project": {"id": P1, "name": "one"},
    "quotas": [
        one("instances", used=10),
        one("ram", unit="MiB", limit=2048, is_own=True, used=64),
        one("cores", limit=-1, is_own=True, used=2, default=7),
        one("key_pairs", used=None),
    ],
}


def test_the_command_prints_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(ANSWER)
    monkeypatch.setattr(commands, "_operator", lambda state: operator)
    done = CliRunner().invoke(commands.quota, ["show", "pro/ject"])
    assert done.exit_code == 0, done.output
    assert operator.asked == [("GET", "cairn", "/quotas/pro%2Fject")]
    lines = [line.split() for line in done.output.splitlines()]
    assert lines == [
        ["project", "one", f"({P1})"],
        ["SERVICE", "LIMIT", "USED", "OF"],
        ["compute", "instances", "10", "10", "full"],
        ["compute", "ram", "64", "MiB", "2048", "MiB", "own"],
        ["compute", "cores", "2", "unlimited", "own"],
        ["compute", "key_pairs", "-", "10"],
    ]
    as_json = CliRunner().invoke(commands.quota, ["show", "one", "--json"])
    assert '"used": 10' in as_json.output


def test_the_command_sets_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(ANSWER)
    monkeypatch.setattr(commands, "_operator", lambda state: operator)
    words = ["instances=20", "ram=unlimited", "volumes=default"]
    wanted = {"quotas": {"instances": 20, "ram": -1, "volumes": None}}
    for command, path in ((["set", "one"], "/quotas/one"), (["defaults"], "/quotas")):
        done = CliRunner().invoke(commands.quota, [*command, *words])
        assert done.exit_code == 0, done.output
        assert operator.asked.pop() == ("PUT", "cairn", path, wanted)
    CliRunner().invoke(commands.quota, ["defaults"])
    assert operator.asked.pop() == ("GET", "cairn", "/quotas")


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("instances", "NAME=VALUE"),
        ("=3", "NAME=VALUE"),
        ("instances=many", "no number"),
        ("instances=-2", "no number"),
        ("ram=1.5", "no number"),
    ],
)
def test_the_command_refuses_what_is_no_limit(
    monkeypatch: pytest.MonkeyPatch, word: str, why: str
) -> None:
    operator = Operator(ANSWER)
    monkeypatch.setattr(commands, "_operator", lambda state: operator)
    done = CliRunner().invoke(commands.quota, ["set", "one", word])
    assert done.exit_code == 2
    assert why in done.output
    assert operator.asked == []

"""How often somebody may ask, who is meant, and how it is said."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
from keystoneauth1 import session as ksa_session
from keystoneauth1 import token_endpoint

from cairn import operator
from cairn.app import services_without_cloud
from cairn.core.clock import FakeClock
from cairn.core.errors import Invalid
from cairn.db.engine import Database
from cairn.http.origin import Origins
from cairn.http.rates import BURST_S, Buckets, Limiter, Rates
from cairn.http.routes import Route
from cairn.settings import Settings
from tests.callers import P1, Api
from tests.http.real import running
from tests.identity.conftest import Cloud, sign_in_body


class Watch:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- buckets ---------------------------------------------------------------------------------------------


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    watch = Watch()
    buckets = Buckets(2.0, 5.0, clock=watch)
    assert [buckets.take("a") for _ in range(5)] == [0.0] * 5
    assert buckets.take("a") == pytest.approx(0.5)
    assert buckets.take("b") == 0.0
    watch.now += 0.5
    assert buckets.take("a") == 0.0
    assert buckets.take("a") > 0
    watch.now += 3600
    assert [buckets.take("a") == 0.0 for _ in range(6)] == [True] * 5 + [False]


def test_refused_requests_do_not_count() -> None:
    """Who asks on and on while refused is let in as soon as who waits."""
    watch = Watch()
    buckets = Buckets(1.0, 1.0, clock=watch)
    assert buckets.take("a") == 0.0
    for _ in range(100):
        assert buckets.take("a") > 0
    watch.now += 1.0
    assert buckets.take("a") == 0.0


def test_number_of_buckets_is_bounded() -> None:
    buckets = Buckets(1.0, 1.0, clock=Watch(), most=10)
    for number in range(1000):
        buckets.take(str(number))
    assert len(buckets) == 10
    assert buckets.take("999") > 0, "the newest is remembered"


def test_one_network_of_ipv6_is_one_client() -> None:
    limiter = Limiter(Rates(address_per_s=1), clock=Watch())
    asked = [limiter.address(f"2001:db8::{n:x}") for n in range(int(BURST_S) + 1)]
    assert asked[-1] == 1
    assert limiter.address("2001:db8:0:1::1") == 0
    assert limiter.address("::ffff:10.0.0.1") == 0
    assert limiter.refused == {"address": 1}


# --- over HTTP -------------------------------------------------------------------------------------------

PATHS = {"keystone": "/identity/v3/projects", "nova": "/compute/v2.1/flavors",
         "neutron": "/network/v2.0/networks", "cinder": "/volume/v3/types",
         "glance": "/image/v2/images", "cairn": "/cairn/v1/status"}  # fmt: skip


@pytest.fixture(scope="module")
def services() -> Any:
    return services_without_cloud()


@pytest.mark.parametrize("service", list(PATHS))
def test_too_many_requests_are_refused_in_the_services_shape(
    sqlite: Database, services: Any, service: str
) -> None:
    watch = Watch()
    limiter = Limiter(Rates(address_per_s=1), clock=watch)
    api = Api(sqlite, *services, limiter=limiter)
    for _ in range(int(BURST_S)):
        assert api.get(PATHS[service], who="admin").status_code != 429
    answer = api.get(PATHS[service], who="admin")
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-openstack-request-id"].startswith("req-")
    if service in ("nova", "cinder"):
        assert answer.json["overLimit"]["code"] == 429
    elif service == "neutron":
        assert answer.json["NeutronError"]["message"].startswith("Too many requests")
    elif service == "glance":
        assert "429 Too Many Requests" in answer.text
    else:
        assert answer.json["error"]["code"] == 429
    watch.now += 1.0
    assert api.get(PATHS[service], who="admin").status_code != 429


def test_projects_have_a_bucket_each(sqlite: Database, services: Any) -> None:
    limiter = Limiter(Rates(project_per_s=1), clock=Watch())
    api = Api(sqlite, *services, limiter=limiter)
    path = PATHS["nova"]
    asked = [api.get(path, who="alice").status_code for _ in range(int(BURST_S))]
    assert set(asked) == {200}
    assert api.get(path, who="rita").status_code == 429, f"of the same project, {P1}"
    assert api.get(path, who="bob").status_code == 200
    assert api.get(path, who=None).status_code == 401


def test_health_is_always_told(sqlite: Database) -> None:
    routes = (Route(method="GET", path="/healthz", rule=None, do=lambda tx, call: {}),
              Route(method="GET", path="/other", rule=None, do=lambda tx, call: {}))  # fmt: skip
    own = operator.service([(routes, {})])
    api = Api(sqlite, own, limiter=Limiter(Rates(address_per_s=1), clock=Watch()))
    assert {api.get("/healthz", who=None).status_code for _ in range(30)} == {200}
    assert {api.get("/other", who=None).status_code for _ in range(30)} == {200, 429}


def test_nothing_is_limited_when_it_is_off(sqlite: Database, services: Any) -> None:
    api = Api(sqlite, *services, limiter=Limiter(Rates(), clock=Watch()))
    assert {api.get(PATHS["nova"]).status_code for _ in range(100)} == {200}


@pytest.fixture
def cloud(sqlite: Database, clock: FakeClock, tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(sqlite, clock, tmp_path)
    yield made
    made.passwords.close()


# --- sign-ins --------------------------------------------------------------------------------------------


def test_failed_sign_ins_are_slowed_down_by_address(cloud: Cloud) -> None:
    watch = Watch()
    token = cloud.admin_token
    cloud.shell.limiter = Limiter(Rates(failed_sign_ins_per_min=3), clock=watch)
    bad = [cloud.sign_in(f"nobody-{n}", "wrong").status_code for n in range(6)]
    assert bad == [401] * 6, "twice a minute's worth"
    answer = cloud.sign_in("nobody", "wrong")
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 20
    assert cloud.call("GET", "/projects", token=token).status_code == 200, "signed in already"
    watch.now += 20.0
    assert cloud.sign_in("nobody", "wrong").status_code == 401
    assert cloud.sign_in("nobody", "wrong").status_code == 429


def test_good_sign_ins_cost_nothing(cloud: Cloud) -> None:
    cloud.shell.limiter = Limiter(Rates(failed_sign_ins_per_min=1), clock=Watch())
    token = cloud.admin_token
    body = {"auth": {"identity": {"methods": ["token"], "token": {"id": token}}}}
    for _ in range(20):
        assert cloud.call("POST", "/auth/tokens", body, token=None).status_code == 201
    assert cloud.call("POST", "/auth/tokens", {"auth": 1}, token=None).status_code == 400
    assert cloud.sign_in("nobody", "wrong").status_code == 401


# --- proxies ---------------------------------------------------------------------------------------------


def asked(cloud: Cloud, remote: str, **headers: str) -> Any:
    client = falcon.testing.TestClient(cloud.shell.app)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.simulate_post(
        "/identity/v3/auth/tokens", json=sign_in_body("nobody", "wrong"), headers=sent,
        remote_addr=remote,
    )  # fmt: skip


def test_clients_behind_a_proxy_have_a_bucket_each(cloud: Cloud) -> None:
    cloud.shell.limiter = Limiter(Rates(failed_sign_ins_per_min=1), clock=Watch())
    cloud.shell.origins = Origins(["10.0.0.0/24"])
    for client in ("203.0.113.1", "203.0.113.2"):
        seen = [asked(cloud, "10.0.0.5", X_Forwarded_For=client).status_code for _ in range(3)]
        assert seen == [401, 401, 429]
    # What a client invents stands before what the proxy has seen.
    lie = asked(cloud, "10.0.0.5", X_Forwarded_For="198.51.100.7, 203.0.113.1, 10.0.0.6")
    assert lie.status_code == 429


def test_what_others_say_of_themselves_is_not_believed(cloud: Cloud) -> None:
    cloud.shell.limiter = Limiter(Rates(failed_sign_ins_per_min=1), clock=Watch())
    seen = [
        asked(cloud, "203.0.113.9", X_Forwarded_For=f"10.1.1.{n}", Forwarded=f"for=10.1.1.{n}")
        for n in range(3)
    ]
    assert [answer.status_code for answer in seen] == [401, 401, 429]


def origin(origins: Origins, peer: str, **headers: str) -> tuple[str, str]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    found = origins.of(sent, scheme="http", server=lambda: "server:80", peer=peer)
    return found.base_url, found.peer


X = {"host": "inside:8443", "x_forwarded_proto": "https", "x_forwarded_host": "cloud.example",
     "x_forwarded_prefix": "/openstack/", "x_forwarded_for": "203.0.113.4"}  # fmt: skip
F = {"host": "inside:8443",
     "forwarded": 'for="[2001:db8::7]:4711";proto=https;host="cloud.example:444"'}  # fmt: skip


@pytest.mark.parametrize(
    ("spoken", "peer", "headers", "base_url", "client"),
    [
        ("x-forwarded", "10.0.0.5", X, "https://cloud.example/openstack", "203.0.113.4"),
        ("x-forwarded", "10.0.0.6", X, "http://inside:8443", "10.0.0.6"),
        ("x-forwarded", "10.0.0.5", F, "http://inside:8443", "10.0.0.5"),
        ("forwarded", "10.0.0.5", F, "https://cloud.example:444", "2001:db8::7"),
        ("forwarded", "10.0.0.5", X, "http://inside:8443", "10.0.0.5"),
        ("x-forwarded", "10.0.0.5", {}, "http://server:80", "10.0.0.5"),
        (
            "forwarded",
            "10.0.0.5",
            {"host": "a", "forwarded": "for=unknown"},
            "http://a",
            "10.0.0.5",
        ),
    ],
)
def test_only_named_proxies_are_believed(
    spoken: Any, peer: str, headers: dict[str, str], base_url: str, client: str
) -> None:
    assert origin(Origins(["10.0.0.5"], spoken=spoken), peer, **headers) == (base_url, client)


def test_public_address_goes_before_all() -> None:
    origins = Origins(["10.0.0.5"], public_url="https://api.example/x/")
    assert origin(origins, "10.0.0.5", **X) == ("https://api.example/x", "203.0.113.4")
    assert origin(origins, "192.0.2.1", host="evil.example")[0] == "https://api.example/x"


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", "a:b", 'a"><script>', "", "[::1", "x" * 300])
def test_hosts_that_are_none_are_refused(host: str) -> None:
    if host == "":
        assert origin(Origins(), "192.0.2.1", host=host)[0] == "http://server:80"
        return
    with pytest.raises(Invalid):
        origin(Origins(), "192.0.2.1", host=host)


def test_proxies_that_are_no_addresses_are_refused() -> None:
    with pytest.raises(Invalid, match=r"proxy\.example"):
        Origins(["proxy.example"])


# --- clients, and the numbers ----------------------------------------------------------------------------


def test_keystoneauth_waits_as_it_is_told_when_asked_to(tmp_path: Path) -> None:
    """By itself it gives up on 429; told to retry it, it reads Retry-After."""
    with running(tmp_path, requests_per_s_per_address=1) as server:
        assert server.process is not None
        auth = token_endpoint.Token(server.url, server.token)
        session = ksa_session.Session(auth, verify=str(server.settings.certs_dir / "ca.crt"))
        seen = set()
        for _ in range(15):
            seen.add(session.get(f"{server.url}/identity/v3", raise_exc=False).status_code)
        assert seen == {200, 429}
        for _ in range(3):
            answer = session.get(
                f"{server.url}/identity/v3", status_code_retries=3, retriable_status_codes=[429]
            )
            assert answer.status_code == 200


def test_defaults_are_far_above_ordinary_work() -> None:
    """Measured: docs/guide/limits.md. Four workers of Tempest ask some 40 times a second."""
    settings = Settings()
    assert settings.requests_per_s_per_address >= 10 * 40
    assert settings.requests_per_s_per_project >= 10 * 40
    assert settings.failed_sign_ins_per_min_per_address >= 60

"""Signing in with a real, certified OpenID provider: by browser, by command line, and after a change."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import openstack
import pytest
import requests
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

from tests.identity import openid
from tests.identity.conftest import Cloud
from tests.identity.live import served
from tests.identity.openid import Browser, OpenIdProvider, device_tokens, token_in

SECRET = "the-secret-of-the-cloud"
DASHBOARD = "http://dashboard.example/auth/websso/"
IDP = "/OS-FEDERATION/identity_providers/acme"
PROTOCOL = f"{IDP}/protocols/openid"
MAPPING = [
    {
        "local": [
            {"user": {"id": "{0}", "name": "{1}", "email": "{2}"}},
            {"groups": "{3}", "domain": {"id": "default"}},
        ],
        "remote": [
            {"type": "OIDC-sub"},
            {"type": "OIDC-preferred_username"},
            {"type": "OIDC-email"},
            {"type": "OIDC-groups", "blacklist": ["secret"]},
        ],
    },
    {
        "local": [{"user": {"name": "robot"}}],
        "remote": [
            {"type": "client_id", "any_one_of": ["cloud"]},
            {"type": "scope", "any_one_of": ["openid"]},
        ],
    },
]


class Site:
    """A cloud that trusts a provider; the provider's group `ops` may work in the project `web`."""

    def __init__(self, cloud: Cloud, url: str, provider: OpenIdProvider) -> None:
        self.cloud, self.url, self.provider = cloud, url, provider
        self.auth_url = f"{url}/identity/v3"
        self.websso = f"{self.auth_url}/auth{PROTOCOL}/websso"
        self.group = cloud.make("group", name="ops")
        self.project = cloud.make("project", name="web")
        role = cloud.role_id("member")
        put(cloud, f"/projects/{self.project['id']}/groups/{self.group['id']}/roles/{role}", 204)
        put(cloud, "/OS-FEDERATION/mappings/acme", 201, mapping={"rules": MAPPING})
        put(cloud, IDP, 201, identity_provider={"enabled": True, "remote_ids": [provider.issuer]})
        put(cloud, PROTOCOL, 201, protocol={"mapping_id": "acme"})
        self.client = put(
            cloud,
            f"{PROTOCOL}/oidc_client",
            200,
            oidc_client={
                "issuer": provider.issuer,
                "client_id": "cloud",
                "client_secret": SECRET,
                "audiences": ["command-line"],
            },
        )["oidc_client"]

    def bring(self, token: str, method: str = "POST") -> requests.Response:
        """Sign in with a token of the provider."""
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self.auth_url}{PROTOCOL}/auth"
        return requests.request(method, url, headers=headers, timeout=20)

    def user(self, id_: str) -> Any:
        return self.cloud.call("GET", f"/users/{id_}").json["user"]


def put(cloud: Cloud, path: str, status: int, **body: Any) -> Any:
    answer = cloud.call("PUT", path, body or None)
    assert answer.status_code == status, answer.text
    return answer.json if answer.text else None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(tmp_path_factory.mktemp("cloud"), dashboards=(DASHBOARD,)) as (cloud, url):
        redirect_uri = f"{url}/identity/v3/auth{PROTOCOL}/websso/callback"
        with openid.running(redirect_uri) as provider:
            yield Site(cloud, url, provider)


@pytest.fixture
def ann(site: Site) -> Iterator[OpenIdProvider]:
    site.provider.set_groups("ann", "ops", "secret", "unknown-here")
    yield site.provider
    site.provider.set_groups("ann")


def test_the_redirect_uri_to_register_is_shown_and_the_secret_is_not(site: Site) -> None:
    assert urlsplit(site.client["redirect_uri"]).path == f"{urlsplit(site.websso).path}/callback"
    assert site.client["has_client_secret"] is True
    shown = site.cloud.call("GET", f"{PROTOCOL}/oidc_client").text
    assert SECRET not in shown + json.dumps(site.client)


# By command line


@pytest.mark.parametrize(
    ("client", "secret", "kind"),
    [
        ("cloud", SECRET, "access_token"),  # opaque: looked into at the provider
        ("cloud", SECRET, "id_token"),
        ("command-line", "", "access_token"),  # a JWT
        ("command-line", "", "id_token"),
    ],
)
def test_every_kind_of_token_signs_in(
    site: Site, ann: OpenIdProvider, client: str, secret: str, kind: str
) -> None:
    answer = site.bring(device_tokens(ann, "ann", client, secret)[kind])
    assert answer.status_code == 201, answer.text
    token = answer.json()["token"]
    assert token["methods"] == ["openid"]
    assert set(token) == {"methods", "user", "audit_ids", "issued_at", "expires_at"}  # unscoped
    user = token["user"]
    assert user["name"] == "ann"
    assert "password_expires_at" not in user
    assert user["OS-FEDERATION"] == {
        "identity_provider": {"id": "acme"},
        "protocol": {"id": "openid"},
        "groups": [{"id": site.group["id"]}],
    }
    shown = site.user(user["id"])
    assert shown["domain_id"] == site.cloud.call("GET", IDP).json["identity_provider"]["domain_id"]
    assert shown["email"] == "ann@example.com"
    assert shown["federated"] == [
        {"idp_id": "acme", "protocols": [{"protocol_id": "openid", "unique_id": "ann"}]}
    ]


def test_the_same_person_is_the_same_user_each_time(site: Site, ann: OpenIdProvider) -> None:
    tokens = device_tokens(ann, "ann", "cloud", SECRET)
    first, second = (site.bring(tokens["id_token"], method).json() for method in ("GET", "POST"))
    assert first["token"]["user"]["id"] == second["token"]["user"]["id"]
    found = site.cloud.call("GET", "/users?name=ann").json["users"]
    assert [u["id"] for u in found] == [first["token"]["user"]["id"]]


def test_a_token_issued_to_somebody_else_does_not_sign_in(site: Site, ann: OpenIdProvider) -> None:
    """Else every other site that lets people sign in with this provider could act as them here."""
    tokens = device_tokens(ann, "ann", "stranger", "the-secret-of-a-stranger")
    for kind in ("access_token", "id_token"):
        assert site.bring(tokens[kind]).status_code == 401


def test_keystoneauth_signs_in_and_works_in_a_project(site: Site, ann: OpenIdProvider) -> None:
    tokens = device_tokens(ann, "ann", "cloud", SECRET)
    plugin = v3.OidcAccessToken(
        auth_url=site.auth_url, identity_provider="acme", protocol="openid",
        access_token=tokens["access_token"], project_name="web", project_domain_id="default",
    )  # fmt: skip
    access = plugin.get_access(session.Session(auth=plugin))
    assert access.project_name == "web"
    assert access.role_names == ["member", "reader"]
    assert access.is_federated
    unscoped = v3.OidcAccessToken(
        auth_url=site.auth_url, identity_provider="acme", protocol="openid",
        access_token=tokens["access_token"],
    )  # fmt: skip
    asked = session.Session(auth=unscoped)
    for path in ("/OS-FEDERATION/projects", "/auth/projects"):
        found = asked.get(site.auth_url + path).json()["projects"]
        assert [p["name"] for p in found] == ["web"]
    assert asked.get(f"{site.auth_url}/OS-FEDERATION/domains").json()["domains"] == []


def test_a_project_of_others_stays_closed(site: Site, ann: OpenIdProvider) -> None:
    tokens = device_tokens(ann, "ann", "cloud", SECRET)
    plugin = v3.OidcAccessToken(
        auth_url=site.auth_url, identity_provider="acme", protocol="openid",
        access_token=tokens["access_token"], project_name="admin", project_domain_id="default",
    )  # fmt: skip
    with pytest.raises(exceptions.Unauthorized):
        plugin.get_access(session.Session(auth=plugin))


def test_client_credentials_sign_in_a_machine(site: Site) -> None:
    plugin = v3.OidcClientCredentials(
        auth_url=site.auth_url, identity_provider="acme", protocol="openid", client_id="cloud",
        client_secret=SECRET, discovery_endpoint=site.provider.discovery, scope="openid",
    )  # fmt: skip
    access = plugin.get_access(session.Session(auth=plugin))
    assert access.username == "robot"


def test_openstack_signs_in_with_a_device_code(site: Site, ann: OpenIdProvider) -> None:
    """`openstack token issue`, told a code, while somebody confirms it in a browser."""
    command = Path(sys.executable).with_name("openstack")
    options = {
        "auth-type": "v3oidcdeviceauthz", "auth-url": site.auth_url, "identity-provider": "acme",
        "protocol": "openid", "client-id": "command-line", "identity-api-version": "3",
        "discovery-endpoint": site.provider.discovery, "project-name": "web",
        "project-domain-id": "default", "openid-scope": "openid profile email",
    }  # fmt: skip
    words = [f"--os-{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [str(command), *words, "token", "issue", "-f", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("OS_")},
    )  # fmt: skip
    assert process.stderr is not None
    told = ""
    for line in process.stderr:
        told += line
        if found := re.search(r"http://\S+user_code=\S+", line):
            Browser("ann").open(found[0])
            break
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 0, told + rest
    issued = json.loads(out)
    assert issued["project_id"] == site.project["id"]
    assert site.user(issued["user_id"])["name"] == "ann"
    assert site.cloud.is_good(issued["id"])


# By browser


def test_web_sign_on_hands_the_dashboard_a_token(site: Site, ann: OpenIdProvider) -> None:
    page = Browser("ann").open(f"{site.websso}?{urlencode({'origin': DASHBOARD})}")
    to, token = token_in(page)
    assert to == DASHBOARD
    assert page.headers["Cache-Control"] == "no-store"
    assert "form-action http://dashboard.example" in page.headers["Content-Security-Policy"]
    shown = site.cloud.call("GET", "/auth/tokens", headers={"X-Subject-Token": token})
    assert shown.json["token"]["user"]["name"] == "ann"
    # What Horizon does next.
    keystone = openstack.connection.Connection(
        auth_type="v3token", auth_url=site.auth_url, token=token, project_name="web",
        project_domain_id="default", region_name="RegionOne",
    )  # fmt: skip
    assert keystone.current_project.name == "web"


def test_the_only_provider_of_a_protocol_need_not_be_named(site: Site, ann: OpenIdProvider) -> None:
    url = f"{site.auth_url}/auth/OS-FEDERATION/websso/openid?{urlencode({'origin': DASHBOARD})}"
    assert token_in(Browser("ann").open(url))[0] == DASHBOARD
    other = put(site.cloud, IDP.replace("acme", "other"), 201, identity_provider={"enabled": True})
    try:
        put(site.cloud, PROTOCOL.replace("acme", "other"), 201, protocol={"mapping_id": "acme"})
        client = {"issuer": site.provider.issuer, "client_id": "cloud"}
        put(site.cloud, f"{PROTOCOL.replace('acme', 'other')}/oidc_client", 200, oidc_client=client)
        page = requests.get(url, timeout=20)
        assert page.status_code == 200
        links = re.findall(r'href="([^"]+)"', page.text)
        assert [urlsplit(one).path.split("/")[6] for one in links] == ["acme", "other"]
        assert token_in(Browser("ann").open(links[0]))[0] == DASHBOARD
    finally:
        site.cloud.call("DELETE", IDP.replace("acme", other["identity_provider"]["id"]))


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 400),
        ({"origin": ""}, 400),
        ({"origin": "http://evil.example/"}, 401),
        ({"origin": DASHBOARD + "x"}, 401),
        ({"origin": DASHBOARD.rstrip("/")}, 401),
        ({"origin": DASHBOARD.upper()}, 401),
        ({"origin": "javascript:alert(1)"}, 401),
    ],
)
def test_only_a_trusted_dashboard_gets_tokens(
    site: Site, query: dict[str, str], status: int
) -> None:
    for url in (site.websso, f"{site.auth_url}/auth/OS-FEDERATION/websso/openid"):
        answer = requests.get(f"{url}?{urlencode(query)}", allow_redirects=False, timeout=20)
        assert answer.status_code == status
        assert "Location" not in answer.headers


def begun(site: Site) -> tuple[requests.Session, str, str]:
    """A browser that has signed in at the provider, and was not yet sent back: with the way there."""
    browser = Browser("ann")
    begin = browser.session.get(
        f"{site.websso}?{urlencode({'origin': DASHBOARD})}", allow_redirects=False, timeout=20
    )
    assert begin.status_code == 302
    ours = requests.Session()
    ours.cookies.update(begin.cookies)
    back: list[str] = []

    def stop_before_us(answer: requests.Response, **_: Any) -> None:
        if answer.headers.get("Location", "").startswith(site.websso):
            back.append(answer.headers.pop("Location"))

    browser.session.hooks["response"].append(stop_before_us)
    browser.open(begin.headers["Location"])
    (url,) = back
    return ours, url, begin.headers["Set-Cookie"]


def test_the_way_to_the_provider_and_its_cookie_are_guarded(site: Site) -> None:
    answer = requests.get(
        f"{site.websso}?{urlencode({'origin': DASHBOARD})}", allow_redirects=False, timeout=20
    )
    to = urlsplit(answer.headers["Location"])
    query = parse_qs(to.query)
    assert f"{to.scheme}://{to.netloc}" == site.provider.issuer
    assert query["response_type"] == ["code"]
    assert query["code_challenge_method"] == ["S256"]
    assert query["scope"] == ["openid profile email"]
    assert len(query["state"][0]) == len(query["nonce"][0]) == 43
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert f"Path={urlsplit(site.websso).path}/callback" in cookie
    secret = requests.get(
        f"{site.websso}?{urlencode({'origin': DASHBOARD})}", allow_redirects=False, timeout=20,
        headers={"X-Forwarded-Proto": "https"},
    )  # fmt: skip
    assert "Secure" in secret.headers["Set-Cookie"]


def test_only_the_browser_that_began_can_finish(site: Site, ann: OpenIdProvider) -> None:
    _, url, _ = begun(site)
    assert requests.get(url, timeout=20).status_code == 401  # An answer slipped to somebody else.
    other, _, _ = begun(site)
    assert other.get(url, timeout=20).status_code == 401


def test_a_sign_in_is_finished_once(site: Site, ann: OpenIdProvider) -> None:
    ours, url, _ = begun(site)
    sealed = dict(ours.cookies)
    assert token_in(ours.get(url, timeout=20))
    assert not ours.cookies, "the cookie ends with the sign-in"
    assert requests.get(url, cookies=sealed, timeout=20).status_code == 401


@pytest.mark.parametrize(
    "change",
    [
        {"state": "x" * 43},
        {"state": ""},
        {"iss": "http://127.0.0.1:1"},
        {"iss": ""},
        {"code": "x"},
        {"code": ""},
        {"error": "access_denied", "error_description": "no <b>thanks</b>"},
    ],
)
def test_a_changed_answer_is_refused(
    site: Site, ann: OpenIdProvider, change: dict[str, str]
) -> None:
    ours, url, _ = begun(site)
    query = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()} | change
    answer = ours.get(f"{url.split('?')[0]}?{urlencode(query)}", timeout=20)
    assert answer.status_code in (400, 401), answer.text
    assert "token" not in answer.text


@pytest.mark.parametrize("spoil", [lambda c: c[:-4] + "AAAA", lambda c: "", lambda c: "é" * 9])
def test_a_changed_cookie_is_refused(site: Site, ann: OpenIdProvider, spoil: Any) -> None:
    ours, url, _ = begun(site)
    ((name, value),) = ours.cookies.items()
    cookie = f"{name}={spoil(value)}".encode()
    answer = requests.get(url, headers={"Cookie": cookie}, timeout=20)
    assert answer.status_code == 401


# After a change


def signed_in(site: Site) -> tuple[str, str]:
    """An unscoped and a project's token of ann."""
    tokens = device_tokens(site.provider, "ann", "cloud", SECRET)
    unscoped = site.bring(tokens["id_token"]).headers["X-Subject-Token"]
    body = {
        "auth": {
            "identity": {"methods": ["token"], "token": {"id": unscoped}},
            "scope": {"project": {"id": site.project["id"]}},
        }
    }
    answer = site.cloud.call("POST", "/auth/tokens", body, token=None)
    assert answer.status_code == 201, answer.text
    assert answer.json["token"]["user"]["OS-FEDERATION"]["groups"] == [{"id": site.group["id"]}]
    return unscoped, answer.headers["x-subject-token"]


@pytest.mark.parametrize(
    ("path", "change", "undo"),
    [
        (IDP, {"identity_provider": {"enabled": False}}, {"identity_provider": {"enabled": True}}),
        (IDP, {"identity_provider": {"remote_ids": ["x"]}}, None),
        (
            "/OS-FEDERATION/mappings/acme",
            {"mapping": {"rules": MAPPING[:1]}},
            {"mapping": {"rules": MAPPING}},
        ),
    ],
)
def test_a_change_of_what_was_trusted_voids_tokens(
    site: Site, ann: OpenIdProvider, path: str, change: Any, undo: Any
) -> None:
    tokens = signed_in(site)
    assert all(site.cloud.is_good(token) for token in tokens)
    before = site.cloud.call("GET", path).json
    try:
        assert site.cloud.call("PATCH", path, change).status_code == 200
        assert not any(site.cloud.is_good(token) for token in tokens)
    finally:
        remote_ids = before.get("identity_provider", {}).get("remote_ids")
        undo = undo or {"identity_provider": {"remote_ids": remote_ids}}
        assert site.cloud.call("PATCH", path, undo).status_code == 200
    assert not any(site.cloud.is_good(token) for token in tokens), "void for good"


def test_taking_the_groups_role_voids_tokens_that_had_it(site: Site, ann: OpenIdProvider) -> None:
    _, scoped = signed_in(site)
    role = site.cloud.role_id("member")
    path = f"/projects/{site.project['id']}/groups/{site.group['id']}/roles/{role}"
    assert site.cloud.call("DELETE", path).status_code == 204
    assert not site.cloud.is_good(scoped)
    put(site.cloud, path, 204)


def test_a_disabled_user_does_not_sign_in(site: Site, ann: OpenIdProvider) -> None:
    ann.set_groups("bob", "ops")
    answer = device_tokens(site.provider, "bob", "cloud", SECRET)
    bob = site.bring(answer["id_token"]).json()["token"]["user"]["id"]
    assert (
        site.cloud.call("PATCH", f"/users/{bob}", {"user": {"enabled": False}}).status_code == 200
    )
    assert site.bring(answer["id_token"]).status_code == 401


def test_somebody_whom_no_rule_means_is_nobody(site: Site) -> None:
    tokens = device_tokens(site.provider, "carl", "cloud", SECRET)  # no groups: no rule applies
    assert site.bring(tokens["id_token"]).status_code == 401
    assert site.cloud.call("GET", "/users?name=carl").json["users"] == []

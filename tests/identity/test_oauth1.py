"""OAuth 1.0a: consumers, leave that is given, and signing in with it; signed by oauthlib's own client."""

from typing import Any
from urllib.parse import parse_qs

import pytest
from oauthlib import oauth1
from sqlalchemy import select

from cairn.core.clock import FakeClock
from cairn.core.errors import Invalid
from cairn.db.secrets import secrets
from cairn.identity.delegation import oauth_signature
from tests.identity.conftest import Cloud, scope_of, token_body

HOST = "http://falconframework.org/identity/v3"
ROOT = "/OS-OAUTH1"


class Consumer:
    """A program that an administrator lets act with some of the own roles in a project."""

    def __init__(self, cloud: Cloud, clock: FakeClock) -> None:
        self.cloud, self.clock = cloud, clock
        (self.admin,) = cloud.call("GET", "/users?name=admin").json["users"]
        self.project = cloud.make("project", name="p")
        self.grant = cloud.grant(self.admin["id"], self.project["id"], "member")
        body = {"consumer": {"description": "a program"}}
        made = cloud.call("POST", f"{ROOT}/consumers", body)
        assert made.status_code == 201, made.text
        self.consumer = made.json["consumer"]
        self.nonces = 0

    def signed(self, path: str, token: Any = None, **options: Any) -> dict[str, str]:
        """Headers of a request that is signed with the consumer's secret and, if given, the token's."""
        self.nonces += 1
        given: dict[str, Any] = {
            "client_secret": self.consumer["secret"],
            "signature_method": oauth1.SIGNATURE_HMAC,
            "timestamp": str(int(self.clock.now().timestamp())),
            "nonce": f"nonce{self.nonces}",
        }
        if token is not None:
            given["resource_owner_key"] = token["oauth_token"]
            given["resource_owner_secret"] = token["oauth_token_secret"]
        sent = options.pop("headers", None)
        client = oauth1.Client(options.pop("key", self.consumer["id"]), **{**given, **options})
        _, headers, _ = client.sign(HOST + path, http_method="POST", headers=sent)
        return dict(headers)

    def post(self, path: str, headers: dict[str, str], body: Any = None) -> Any:
        return self.cloud.call("POST", path, body, token=None, headers=headers)

    def request(self, **options: Any) -> Any:
        headers = {"Requested-Project-Id": self.project["id"]}
        path = f"{ROOT}/request_token"
        return self.post(path, self.signed(path, callback_uri="oob", headers=headers, **options))

    def authorize(self, token: dict[str, str], *roles: str, by: str = "") -> Any:
        body = {"roles": [{"name": role} for role in roles]}
        return self.cloud.call("PUT", f"{ROOT}/authorize/{token['oauth_token']}", body, token=by)

    def access(self, token: dict[str, str], verifier: str, **options: Any) -> Any:
        path = f"{ROOT}/access_token"
        return self.post(path, self.signed(path, token, verifier=verifier, **options))

    def given(self, *roles: str) -> dict[str, str]:
        """An access token, all the way."""
        asked = form(self.request())
        verifier = self.authorize(asked, *roles).json["token"]["oauth_verifier"]
        return form(self.access(asked, verifier))

    def sign_in(self, token: dict[str, str], scope: Any = None, **options: Any) -> Any:
        auth: dict[str, Any] = {"identity": {"methods": ["oauth1"], "oauth1": {}}}
        if scope is not None:
            auth["scope"] = scope
        return self.post(
            "/auth/tokens", self.signed("/auth/tokens", token, **options), {"auth": auth}
        )


def form(answer: Any) -> dict[str, str]:
    assert answer.status_code == 201, answer.text
    assert answer.headers["content-type"] == "application/x-www-form-urlencoded"
    return {name: values[0] for name, values in parse_qs(answer.text, strict_parsing=True).items()}


@pytest.fixture
def consumer(cloud: Cloud, clock: FakeClock) -> Consumer:
    return Consumer(cloud, clock)


def test_consumers_are_made_shown_changed_and_deleted(cloud_on_both: Cloud) -> None:
    cloud, path = cloud_on_both, f"{ROOT}/consumers"
    made = cloud.call("POST", path, {"consumer": {"description": "d", "note": "n"}}).json[
        "consumer"
    ]
    assert made["description"] == "d" and made["note"] == "n" and len(made["secret"]) == 32
    one = f"{path}/{made['id']}"
    shown = {k: v for k, v in made.items() if k != "secret"}
    assert cloud.call("GET", one).json == {"consumer": shown}
    assert cloud.call("GET", path).json["consumers"] == [shown]
    changed = cloud.call("PATCH", one, {"consumer": {"description": None}}).json["consumer"]
    assert changed == {**shown, "description": None}
    body: Any
    for body in ({"consumer": {}}, {"consumer": {"secret": "mine"}}, {"consumer": {"id": "x"}},
                 {"consumer": {"description": 7}}, {}):  # fmt: skip
        assert cloud.call("PATCH", one, body).status_code == 400, body
    assert cloud.call("DELETE", one).status_code == 204
    for method, body in (("GET", None), ("PATCH", {"consumer": {"a": 1}}), ("DELETE", None)):
        assert cloud.call(method, one, body).status_code == 404
    cloud.make("user", name="ann", password="secret")
    ann = cloud.token("ann", "secret")
    for method, url in (("GET", path), ("POST", path), ("GET", one)):
        sent: Any = {"consumer": {}} if method == "POST" else None
        assert cloud.call(method, url, sent, token=ann).status_code == 403


@pytest.mark.parametrize("method", list(oauth_signature.VERIFIERS))
def test_the_whole_way(cloud_on_both: Cloud, clock: FakeClock, method: str) -> None:
    consumer = Consumer(cloud_on_both, clock)
    cloud = consumer.cloud
    asked = form(consumer.request(signature_method=method))
    assert set(asked) == {"oauth_token", "oauth_token_secret", "oauth_expires_at"}
    verifier = consumer.authorize(asked, "member").json["token"]["oauth_verifier"]
    given = form(consumer.access(asked, verifier, signature_method=method))
    assert consumer.access(asked, verifier).status_code == 404, "it is used up"

    answer = consumer.sign_in(given, signature_method=method)
    assert answer.status_code == 201, answer.text
    token = answer.json["token"]
    described = {"access_token_id": given["oauth_token"], "consumer_id": consumer.consumer["id"]}
    assert token["OS-OAUTH1"] == described
    assert token["user"]["id"] == consumer.admin["id"]
    assert token["project"]["id"] == consumer.project["id"]
    assert [r["name"] for r in token["roles"]] == ["member", "reader"]
    subject = answer.headers["x-subject-token"]
    checked = cloud.call("GET", "/auth/tokens", headers={"X-Subject-Token": subject})
    assert checked.json["token"]["OS-OAUTH1"] == described
    scoped = consumer.sign_in(given, scope_of("admin"))
    assert scoped.json["token"]["project"]["id"] == consumer.project["id"], "a scope is not heeded"

    path = f"/users/{consumer.admin['id']}/OS-OAUTH1/access_tokens"
    one = f"{path}/{given['oauth_token']}"
    (listed,) = cloud.call("GET", path).json["access_tokens"]
    assert listed["consumer_id"] == consumer.consumer["id"]
    assert listed["authorizing_user_id"] == consumer.admin["id"]
    assert listed["expires_at"] == given["oauth_expires_at"]
    assert listed["links"]["roles"].endswith(f"{one}/roles")
    assert "secret" not in str(listed)
    assert cloud.call("GET", one).json == {"access_token": listed}
    (role,) = cloud.call("GET", f"{one}/roles").json["roles"]
    assert role["name"] == "member"
    assert cloud.call("GET", f"{one}/roles/{role['id']}").json["role"] == role
    assert cloud.call("GET", f"{one}/roles/{cloud.role_id('reader')}").status_code == 404
    assert cloud.call("DELETE", one).status_code == 204
    assert not cloud.is_good(subject)
    assert consumer.sign_in(given).status_code == 401
    assert cloud.call("GET", one).status_code == 404


def test_a_wrong_signature_is_refused_everywhere(consumer: Consumer) -> None:
    assert consumer.request(client_secret="wrong").status_code == 401
    asked = form(consumer.request())
    verifier = consumer.authorize(asked, "member").json["token"]["oauth_verifier"]
    stolen = {**asked, "oauth_token_secret": "wrong"}
    assert consumer.access(stolen, verifier).status_code == 401
    assert consumer.access(asked, verifier, client_secret="wrong").status_code == 401
    given = form(consumer.access(asked, verifier))
    assert consumer.sign_in({**given, "oauth_token_secret": "wrong"}).status_code == 401
    assert consumer.sign_in(given, client_secret="wrong").status_code == 401
    assert consumer.sign_in({**given, "oauth_token": "f" * 32}).status_code == 401
    # A signature is about one address.
    elsewhere = consumer.signed(f"{ROOT}/request_token", given)
    body = {"auth": {"identity": {"methods": ["oauth1"], "oauth1": {}}}}
    assert consumer.post("/auth/tokens", elsewhere, body).status_code == 401


def test_a_request_is_made_once_and_at_once(consumer: Consumer, clock: FakeClock) -> None:
    given = consumer.given("member")
    body = {"auth": {"identity": {"methods": ["oauth1"], "oauth1": {}}}}
    headers = consumer.signed("/auth/tokens", given)
    assert consumer.post("/auth/tokens", headers, body).status_code == 201
    assert consumer.post("/auth/tokens", headers, body).status_code == 401, "replayed"
    early = consumer.signed("/auth/tokens", given)
    clock.advance(601)
    assert consumer.post("/auth/tokens", early, body).status_code == 401, "too old"
    late = str(int(clock.now().timestamp()) + 700)
    assert consumer.sign_in(given, timestamp=late).status_code == 401
    assert consumer.sign_in(given).status_code == 201
    # What is forgotten in time is refused for its age.
    clock.advance(1300)
    assert consumer.post("/auth/tokens", headers, body).status_code == 401
    path = f"{ROOT}/request_token"
    sent = {"Requested-Project-Id": consumer.project["id"]}
    twice = consumer.signed(path, callback_uri="oob", headers=sent)
    assert [consumer.post(path, twice).status_code for _ in range(2)] == [201, 401]


def test_a_request_token_needs_consumer_and_project(consumer: Consumer) -> None:
    path = f"{ROOT}/request_token"
    assert consumer.post(path, {}).status_code == 400
    assert consumer.post(path, {"Authorization": "Bearer x"}).status_code == 400
    without = consumer.post(path, consumer.signed(path))
    assert without.status_code == 400 and "Requested-Project-Id" in without.text
    nowhere = consumer.signed(path, headers={"Requested-Project-Id": "f" * 32})
    assert consumer.post(path, nowhere).status_code == 404
    sent = {"Requested-Project-Id": consumer.project["id"]}
    assert consumer.post(path, consumer.signed(path, headers=sent, key="f" * 32)).status_code == 404
    assert consumer.post(path, {**sent, "Authorization": "OAuth x=y"}).status_code == 400
    plain = consumer.signed(path, headers=sent, signature_method=oauth1.SIGNATURE_PLAINTEXT)
    assert consumer.post(path, plain).status_code == 400


def test_leave_is_given_by_who_has_the_roles(consumer: Consumer, clock: FakeClock) -> None:
    cloud, asked = consumer.cloud, form(consumer.request())
    assert consumer.authorize(asked, "admin").status_code == 401, "not a role in that project"
    assert consumer.authorize(asked, "never was").status_code == 404
    assert consumer.authorize(asked).status_code == 400
    assert consumer.authorize({"oauth_token": "f" * 32}, "member").status_code == 404
    path = f"{ROOT}/authorize/{asked['oauth_token']}"
    body: Any
    for body in ({}, {"roles": [{}]}, {"roles": "x"}, {"roles": [{"id": "a", "name": "b"}]}):
        assert cloud.call("PUT", path, body).status_code == 400, body
    cloud.make("user", name="ann", password="secret")
    assert consumer.authorize(asked, "member", by=cloud.token("ann", "secret")).status_code == 403
    assert consumer.access(asked, "nobody00").status_code == 401, "nobody has agreed"
    clock.advance(8 * 3600 + 1)
    cloud._admin_token = None
    assert consumer.authorize(asked, "member").status_code == 401, "expired"


def test_access_needs_the_verifier_and_the_same_consumer(consumer: Consumer) -> None:
    asked = form(consumer.request())
    verifier = consumer.authorize(asked, "member").json["token"]["oauth_verifier"]
    assert len(verifier) == 8
    wrong = "x" * 8 if verifier != "x" * 8 else "y" * 8
    assert consumer.access(asked, wrong).status_code == 401
    path = f"{ROOT}/access_token"
    assert consumer.post(path, consumer.signed(path, asked)).status_code == 400, "no verifier"
    assert consumer.post(path, consumer.signed(path, verifier=verifier)).status_code == 400
    unknown = {**asked, "oauth_token": "f" * 32}
    assert consumer.access(unknown, verifier).status_code == 404
    other = Consumer.__new__(Consumer)
    other.cloud, other.clock, other.nonces = consumer.cloud, consumer.clock, 100
    body: Any = {"consumer": {}}
    other.consumer = consumer.cloud.call("POST", f"{ROOT}/consumers", body).json["consumer"]
    assert other.access(asked, verifier).status_code == 401
    form(consumer.access(asked, verifier))


@pytest.mark.parametrize("how", ["role taken", "consumer deleted", "project deleted",
                                 "user disabled", "user deleted", "expired"])  # fmt: skip
def test_what_voids_an_access_token(consumer: Consumer, clock: FakeClock, how: str) -> None:
    cloud = consumer.cloud
    # Somebody else of the administrators, for one may be disabled and deleted.
    boss = cloud.make("user", name="boss", password="secret")["id"]
    grant = cloud.grant(boss, consumer.project["id"], "admin")
    by = cloud.token("boss", "secret", scope=scope_of("p"))
    asked = form(consumer.request())
    verifier = consumer.authorize(asked, "manager", by=by).json["token"]["oauth_verifier"]
    given = form(consumer.access(asked, verifier))
    token = consumer.sign_in(given).headers["x-subject-token"]
    assert cloud.is_good(token)
    match how:
        case "role taken":
            cloud.call("DELETE", grant)
        case "consumer deleted":
            cloud.call("DELETE", f"{ROOT}/consumers/{consumer.consumer['id']}")
        case "project deleted":
            cloud.call("DELETE", f"/projects/{consumer.project['id']}")
        case "user disabled":
            cloud.call("PATCH", f"/users/{boss}", {"user": {"enabled": False}})
        case "user deleted":
            cloud.call("DELETE", f"/users/{boss}")
        case "expired":
            clock.advance(24 * 3600 + 1)
    assert not cloud.is_good(token)
    assert consumer.sign_in(given).status_code == 401
    kept = cloud.database.read_now(lambda tx: tx.execute(select(secrets.c.name)).scalars().all())
    is_kept = any(given["oauth_token"] in name for name in kept)
    assert is_kept == (how in ("role taken", "user disabled", "expired"))


def test_its_tokens_delegate_nothing(consumer: Consumer) -> None:
    cloud = consumer.cloud
    boss = cloud.make("user", name="boss", password="secret")["id"]
    cloud.grant(boss, consumer.project["id"], "admin")
    asked = form(consumer.request())
    by = cloud.token("boss", "secret", scope=scope_of("p"))
    verifier = consumer.authorize(asked, "admin", by=by).json["token"]["oauth_verifier"]
    given = form(consumer.access(asked, verifier))
    token = consumer.sign_in(given).headers["x-subject-token"]
    tokens = f"/users/{boss}/OS-OAUTH1/access_tokens"
    trust = {"trustor_user_id": boss, "trustee_user_id": consumer.admin["id"],
             "project_id": consumer.project["id"], "impersonation": True,
             "roles": [{"name": "member"}]}  # fmt: skip
    for method, path, body in (
        ("GET", tokens, None),
        ("DELETE", f"{tokens}/{given['oauth_token']}", None),
        ("PUT", f"{ROOT}/authorize/{asked['oauth_token']}", {"roles": [{"name": "member"}]}),
        (
            "POST",
            f"/users/{boss}/application_credentials",
            {"application_credential": {"name": "n"}},
        ),
        ("POST", "/OS-TRUST/trusts", {"trust": trust}),
    ):
        assert cloud.call(method, path, body, token=token).status_code == 403, path
    again = cloud.call("POST", "/auth/tokens", token_body(token), token=None)
    assert again.status_code == 403


def test_access_tokens_of_others_do_not_exist(consumer: Consumer) -> None:
    cloud, given = consumer.cloud, consumer.given("member")
    ann = cloud.make("user", name="ann", password="secret")["id"]
    one = f"/users/{ann}/OS-OAUTH1/access_tokens/{given['oauth_token']}"
    for method, path in (("GET", one), ("DELETE", one), ("GET", f"{one}/roles")):
        assert cloud.call(method, path).status_code == 404
        assert cloud.call(method, path, token=cloud.token("ann", "secret")).status_code == 403


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (None, "missing"),
        ("", "missing"),
        ("Basic YTpi", "OAuth"),
        ("OAuth nonsense", "malformed"),
        ("OAuth " + "x" * 9000, "OAuth"),
        ('OAuth oauth_consumer_key="a"', "oauth_signature_method"),
        ('OAuth oauth_consumer_key="a", oauth_signature_method="MD5"', "HMAC-SHA1"),
        ('OAuth oauth_signature_method="HMAC-SHA1", oauth_timestamp="1"', "oauth_timestamp"),
        ('OAuth oauth_signature_method="HMAC-SHA1", oauth_timestamp="\u0661234567890"', "oauth_timestamp"),
        ('OAuth oauth_signature_method="HMAC-SHA1", oauth_timestamp="1234567890"', "oauth_consumer_key"),
        ('OAuth oauth_version="2.0", oauth_signature_method="HMAC-SHA1"', "oauth_version"),
        ('OAuth oauth_consumer_key="%00", oauth_signature_method="HMAC-SHA1"', "malformed"),
    ],
)  # fmt: skip
def test_what_is_no_signature_is_told_why(header: str | None, says: str) -> None:
    with pytest.raises(Invalid) as error:
        oauth_signature.read("POST", HOST, (), header)
    assert says in error.value.message


def test_secrets_are_sealed(consumer: Consumer) -> None:
    given = consumer.given("member")
    rows = consumer.cloud.database.read_now(lambda tx: tx.execute(select(secrets)).all())
    kept = b"".join(row.sealed for row in rows)
    for secret in (consumer.consumer["secret"], given["oauth_token_secret"]):
        assert secret.encode() not in kept

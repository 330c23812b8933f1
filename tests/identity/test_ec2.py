"""Keys of EC2 and S3: their life, and signatures made by Amazon's own client library."""

import base64
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import botocore.auth
import botocore.compat
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from keystoneclient.contrib.ec2.utils import Ec2Signer

from cairn.core.clock import FakeClock
from tests.identity.conftest import Cloud, scope_of

START = datetime(2026, 1, 1, tzinfo=UTC)
HOST = "cloud.example:8773"


class Keys:
    """ann is a member of P1 and has a key for it; a service asks whose signatures are."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.project = cloud.make("project", name="P1")
        self.ann = cloud.make("user", name="ann", password="p")
        self.grant = cloud.grant(self.ann["id"], self.project["id"], "member")
        self.token = cloud.token("ann", "p", scope=scope_of("P1"))
        self.path = f"/users/{self.ann['id']}/credentials/OS-EC2"
        service = cloud.make("user", name="rgw", password="p")
        cloud.grant(service["id"], self.project["id"], "service")
        self.service = cloud.token("rgw", "p", scope=scope_of("P1"))
        self.key = self.make()

    def make(self, token: str | None = None) -> Any:
        body = {"tenant_id": self.project["id"]}
        answer = self.cloud.call("POST", self.path, body, token=token or self.token)
        assert answer.status_code == 201, answer.text
        return answer.json["credential"]

    @property
    def amazon(self) -> Credentials:
        return Credentials(self.key["access"], self.key["secret"])

    def ask(self, credentials: Any, *, kind: str = "ec2", word: str = "credentials") -> Any:
        return self.cloud.call("POST", f"/{kind}tokens", {word: credentials}, token=self.service)


@pytest.fixture
def keys(cloud_on_both: Cloud) -> Keys:
    return Keys(cloud_on_both)


@pytest.fixture
def amazon_s_clock(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> FakeClock:
    """botocore signs at the cloud's time."""

    def now(remove_tzinfo: bool = True) -> datetime:
        return clock.now().replace(tzinfo=None) if remove_tzinfo else clock.now()

    monkeypatch.setattr(botocore.auth, "get_current_datetime", now)
    return clock


# --- life ----------------------------------------------------------------------------------------------


def test_a_key_s_life(cloud_on_both: Cloud, keys: Keys) -> None:
    cloud, key = cloud_on_both, keys.key
    assert key["user_id"] == keys.ann["id"] and key["tenant_id"] == keys.project["id"]
    assert len(key["access"]) == len(key["secret"]) == 32 and key["trust_id"] is None
    one = f"{keys.path}/{key['access']}"
    assert key["links"]["self"].endswith(one)
    assert cloud.call("GET", one, token=keys.token).json["credential"] == key
    second = keys.make()
    listed = cloud.call("GET", keys.path, token=keys.token).json["credentials"]
    assert {k["access"] for k in listed} == {key["access"], second["access"]}
    shown = cloud.call("GET", "/credentials?type=ec2", token=keys.token).json["credentials"]
    (blob,) = [json.loads(c["blob"]) for c in shown if key["access"] in c["blob"]]
    assert blob == {"access": key["access"], "secret": key["secret"], "trust_id": None}
    assert cloud.call("DELETE", one, token=keys.token).status_code == 204
    assert cloud.call("GET", one, token=keys.token).status_code == 404
    assert cloud.call("GET", one).status_code == 404


def test_keys_of_others_are_theirs(cloud_on_both: Cloud, keys: Keys) -> None:
    cloud = cloud_on_both
    bob = cloud.make("user", name="bob", password="p")
    cloud.grant(bob["id"], keys.project["id"], "member")
    token = cloud.token("bob", "p", scope=scope_of("P1"))
    one = f"{keys.path}/{keys.key['access']}"
    his = f"/users/{bob['id']}/credentials/OS-EC2"
    for method, path in (("GET", keys.path), ("GET", one), ("DELETE", one),
                         ("GET", f"{his}/{keys.key['access']}")):  # fmt: skip
        assert cloud.call(method, path, token=token).status_code in (403, 404), path
    body = {"tenant_id": keys.project["id"]}
    assert cloud.call("POST", keys.path, body, token=token).status_code == 403
    assert cloud.call("GET", f"{his}/{keys.key['access']}").status_code == 404, "in bob's folder"
    assert cloud.call("GET", one).status_code == 200


@pytest.mark.parametrize("body", [{}, [], None, {"tenant_id": None}, {"tenant_id": 1},
                                  {"tenant_id": ""}, {"tenant_id": "x" * 300}])  # fmt: skip
def test_bad_keys(cloud: Cloud, body: Any) -> None:
    path = f"/users/{cloud.admin.user_id}/credentials/OS-EC2"
    assert cloud.call("POST", path, body).status_code == 400
    assert cloud.call("POST", path, {"tenant_id": "0" * 32}).status_code == 404
    unknown = f"/users/{'0' * 32}/credentials/OS-EC2"
    assert cloud.call("POST", unknown, {"tenant_id": "p"}).status_code == 404
    assert cloud.call("GET", unknown).status_code == 404


# --- EC2 -----------------------------------------------------------------------------------------------


def told(request: AWSRequest, access: str) -> dict[str, Any]:
    """What the middleware before an EC2 service says of a signed request (version 4, in its header)."""
    url = urlsplit(request.url)
    header = request.headers["Authorization"]
    return {
        "access": access,
        "signature": header.rpartition("Signature=")[2],
        "host": url.netloc,
        "verb": request.method,
        "path": url.path or "/",
        "params": {
            **dict(request.params or {}),
            **dict(parse_qsl(url.query, keep_blank_values=True)),
        },
        "headers": dict(request.headers.items()),
        "body_hash": hashlib.sha256(request.body or b"").hexdigest(),
    }


def by_v4(keys: Keys, method: str = "GET", query: str = "Action=DescribeInstances&Filter.1=a%20b%2F~",
          body: bytes = b"", host: str = HOST) -> dict[str, Any]:  # fmt: skip
    request = AWSRequest(method, f"http://{host}/services/Cloud?{query}", data=body)
    request.headers["Host"] = host
    request.headers["X-Spaced"] = "a   b  "
    botocore.auth.SigV4Auth(keys.amazon, "ec2", "RegionOne").add_auth(request)
    return told(request, keys.key["access"])


def by_v2(keys: Keys, **changes: Any) -> dict[str, Any]:
    params = {"Action": "DescribeInstances", "Name": "é /+", **changes}
    request = AWSRequest("GET", f"http://{HOST}/services/Cloud", params=params)
    botocore.auth.SigV2Auth(keys.amazon).add_auth(request)
    given = dict(request.params)
    signature = given.pop("Signature")
    return {
        "access": keys.key["access"], "signature": signature, "host": HOST, "verb": "GET",
        "path": "/services/Cloud", "params": given,
    }  # fmt: skip


def by_old(keys: Keys, version: str) -> dict[str, Any]:
    params = {"Action": "Do", "Timestamp": "2026-01-01T00:00:00Z", "SignatureVersion": version,
              "zed": "1", "Alpha": "2"}  # fmt: skip
    wish = {"params": params, "verb": "GET", "host": HOST, "path": "/"}
    signature = Ec2Signer(keys.key["secret"]).generate(wish)
    return {**wish, "access": keys.key["access"], "signature": signature}


def require_ann(keys: Keys, answer: Any) -> None:
    assert answer.status_code == 200, answer.text
    token = answer.json["token"]
    assert token["user"]["id"] == keys.ann["id"]
    assert token["project"]["id"] == keys.project["id"]
    assert token["methods"] == ["ec2credential"]
    assert "member" in [role["name"] for role in token["roles"]]
    assert token["catalog"]


@pytest.mark.parametrize("word", ["credentials", "credential", "ec2Credentials"])
def test_version_4_signs_in(keys: Keys, amazon_s_clock: FakeClock, word: str) -> None:
    answer = keys.ask(by_v4(keys), word=word)
    require_ann(keys, answer)
    token = answer.headers["x-subject-token"]
    assert keys.cloud.is_good(token)
    mine = keys.cloud.call("GET", keys.path, token=token)
    assert mine.status_code == 200, "it is a token like any other"


def test_version_4_of_a_form(keys: Keys, amazon_s_clock: FakeClock) -> None:
    wish = by_v4(keys, "POST", query="", body=b"Action=Run&Count=2")
    require_ann(keys, keys.ask({**wish, "params": {"Action": "Run", "Count": 2}}))


def test_version_4_in_an_address(keys: Keys, amazon_s_clock: FakeClock) -> None:
    request = AWSRequest("GET", f"http://{HOST}/services/Cloud?Action=List")
    request.headers["Host"] = HOST
    botocore.auth.SigV4QueryAuth(keys.amazon, "ec2", "RegionOne", expires=60).add_auth(request)
    url = urlsplit(request.url)
    params = dict(parse_qsl(url.query))
    wish = {
        "access": keys.key["access"], "signature": params.pop("X-Amz-Signature"), "host": HOST,
        "verb": "GET", "path": url.path, "params": params, "headers": {"host": HOST},
        "body_hash": hashlib.sha256(b"").hexdigest(),
    }  # fmt: skip
    require_ann(keys, keys.ask(wish))


def test_a_port_that_the_client_did_not_sign(keys: Keys, amazon_s_clock: FakeClock) -> None:
    wish = by_v4(keys, host="cloud.example")
    require_ann(
        keys, keys.ask({**wish, "host": HOST, "headers": {**wish["headers"], "Host": HOST}})
    )


def test_version_2_signs_in(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.auth.time, "gmtime", lambda: START.timetuple())
    require_ann(keys, keys.ask(by_v2(keys)))


@pytest.mark.parametrize("version", ["0", "1", "2"])
def test_older_versions_sign_in(keys: Keys, version: str) -> None:
    require_ann(keys, keys.ask(by_old(keys, version)))


def forgeries(wish: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "another path", {**wish, "path": "/other"}
    yield "another verb", {**wish, "verb": "DELETE"}
    yield "another body", {**wish, "body_hash": hashlib.sha256(b"x").hexdigest()}
    yield "another parameter", {**wish, "params": {**wish["params"], "Action": "Terminate"}}
    yield "another host", {**wish, "headers": {**wish["headers"], "Host": "evil"}, "host": "evil"}
    yield "no signature", {k: v for k, v in wish.items() if k != "signature"}
    yield "an empty one", {**wish, "signature": ""}
    yield "a wrong one", {**wish, "signature": "0" * 64}
    yield "no ASCII", {**wish, "signature": "é" * 64}
    yield "no headers", {**wish, "headers": {}}
    header = wish["headers"]["Authorization"]
    for old, new in (("SignedHeaders=host;", "SignedHeaders="), ("/ec2/", "/s3/"),
                     ("/aws4_request", ""), ("20260101", "20250101"), ("Credential=", "X=")):  # fmt: skip
        assert old in header
        changed = {**wish["headers"], "Authorization": header.replace(old, new)}
        yield f"{new!r} for {old!r}", {**wish, "headers": changed}
    yield "no access key", {k: v for k, v in wish.items() if k != "access"}
    yield "an unknown version", {**wish, "headers": {}, "params": {"SignatureVersion": "3"}}


def test_forged_signatures(keys: Keys, amazon_s_clock: FakeClock) -> None:
    wish = by_v4(keys)
    require_ann(keys, keys.ask(wish))
    for what, forged in forgeries(wish):
        answer = keys.ask(forged)
        assert answer.status_code == 401, f"{what}: {answer.text}"
        assert "x-subject-token" not in answer.headers


def test_another_key_s_signature(keys: Keys, amazon_s_clock: FakeClock) -> None:
    wish = by_v4(keys)
    assert keys.ask({**wish, "access": keys.make()["access"]}).status_code == 401
    answer = keys.ask({**wish, "access": "nobody's"})
    assert answer.status_code == 404 and "EC2 access key not found" in answer.text


@pytest.mark.parametrize(
    "body",
    [None, {}, [], "x", {"credentials": None}, {"credentials": []}, {"credentials": {"access": 1}},
     {"credentials": {"access": "a", "params": []}}, {"credentials": {"access": "a", "params": {"x": []}}},
     {"credentials": {"access": "a", "headers": {"x": {}}}},
     {"credentials": {"access": "a", "signature": "x" * 10_000}}],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["ec2", "s3"])
def test_bad_bodies(cloud: Cloud, body: Any, kind: str) -> None:
    assert cloud.call("POST", f"/{kind}tokens", body).status_code == 400


def test_ten_megabytes_are_refused(cloud: Cloud) -> None:
    body = {"credentials": {"access": "a", "body_hash": "x" * (10 << 20)}}
    assert cloud.call("POST", "/ec2tokens", body).status_code == 413


def test_services_and_administrators_ask(keys: Keys, amazon_s_clock: FakeClock) -> None:
    body = {"credentials": by_v4(keys)}
    for kind in ("ec2", "s3"):
        assert keys.cloud.call("POST", f"/{kind}tokens", body, token=keys.token).status_code == 403
        assert keys.cloud.call("POST", f"/{kind}tokens", body, token=None).status_code == 401
    assert keys.cloud.call("POST", "/ec2tokens", body).status_code == 200


@pytest.mark.parametrize(("skew_s", "status"), [(899, 200), (901, 401), (-899, 200), (-901, 401)])
def test_clocks_that_differ(
    keys: Keys, amazon_s_clock: FakeClock, skew_s: int, status: int
) -> None:
    amazon_s_clock._now += timedelta(seconds=1000)
    wish = by_v4(keys)
    amazon_s_clock._now += timedelta(seconds=skew_s)
    assert keys.ask(wish).status_code == status


@pytest.mark.parametrize("text", ["yesterday", "", "9999-12-31T23:59:59-23:59", "20260101"])
def test_times_that_are_none(keys: Keys, text: str) -> None:
    wish = by_old(keys, "2")
    wish["params"]["Timestamp"] = text
    wish["signature"] = Ec2Signer(keys.key["secret"]).generate(dict(wish))
    assert keys.ask(wish).status_code in ((200,) if text in ("", "20260101") else (401,))


def test_what_ends_a_key(keys: Keys, amazon_s_clock: FakeClock) -> None:
    cloud, wish = keys.cloud, by_v4(keys)
    user = f"/users/{keys.ann['id']}"

    def patch(path: str, kind: str, enabled: bool) -> None:
        cloud.call("PATCH", path, {kind: {"enabled": enabled}})

    patch(user, "user", False)
    assert keys.ask(wish).status_code == 401
    patch(user, "user", True)
    assert keys.ask(wish).status_code == 200
    cloud.call("DELETE", keys.grant)
    assert keys.ask(wish).status_code == 401
    cloud.call("PUT", keys.grant)
    assert keys.ask(wish).status_code == 200
    cloud.call("DELETE", f"{keys.path}/{keys.key['access']}")
    assert keys.ask(wish).status_code == 404


# --- S3 ------------------------------------------------------------------------------------------------


def s3_v4(keys: Keys, *, url: str = "http://s3.example/bucket/a%20key", service: str = "s3") -> Any:
    request = AWSRequest("GET", url)
    auth = botocore.auth.S3SigV4Auth(keys.amazon, service, "RegionOne")
    auth.add_auth(request)
    signature = request.headers["Authorization"].rpartition("Signature=")[2]
    del request.headers["Authorization"]
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return {"access": keys.key["access"], "signature": signature, "token": encoded(text)}


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_s3_version_4(keys: Keys, amazon_s_clock: FakeClock) -> None:
    answer = keys.ask(s3_v4(keys), kind="s3")
    require_ann(keys, answer)
    assert "x-subject-token" not in answer.headers, "it says whose it is; that is all"


def test_s3_version_2(keys: Keys) -> None:
    headers = botocore.compat.HTTPHeaders.from_dict({"Date": "Thu, 01 Jan 2026 00:00:00 GMT"})
    auth = botocore.auth.HmacV1Auth(keys.amazon)
    split = urlsplit("http://s3.example/bucket/key")
    text = auth.canonical_string("GET", split, headers)
    wish = {
        "access": keys.key["access"],
        "token": encoded(text),
        "signature": auth.sign_string(text),
    }
    require_ann(keys, keys.ask(wish, kind="s3"))
    assert keys.ask({**wish, "token": encoded(text + "x")}, kind="s3").status_code == 401


@pytest.mark.parametrize(
    "change",
    [{"token": None}, {"token": ""}, {"token": "%%%"}, {"token": "é"}, {"signature": None},
     {"signature": "0" * 64}, {"token": encoded("AWS4")}, {"token": encoded("AWS4\n\n\n")},
     {"token": encoded("AWS4-HMAC-SHA256\nt\n20260101/r/s3\nh")},
     {"token": base64.b64encode(b"AWS4\xff\xff").decode()}],
)  # fmt: skip
def test_s3_forgeries(keys: Keys, amazon_s_clock: FakeClock, change: Any) -> None:
    assert keys.ask({**s3_v4(keys), **change}, kind="s3").status_code == 401


def test_s3_signatures_for_other_services(keys: Keys, amazon_s_clock: FakeClock) -> None:
    assert keys.ask(s3_v4(keys, service="ec2"), kind="s3").status_code == 401


# --- by delegation -----------------------------------------------------------------------------------------


def test_a_key_of_an_application_credential_opens_no_more(
    keys: Keys, amazon_s_clock: FakeClock
) -> None:
    cloud = keys.cloud
    wish = {"name": "a", "roles": [{"name": "reader"}], "unrestricted": True}
    path = f"/users/{keys.ann['id']}/application_credentials"
    made = cloud.call("POST", path, {"application_credential": wish}, token=keys.token).json
    part = {k: made["application_credential"][k] for k in ("id", "secret")}
    identity = {"methods": ["application_credential"], "application_credential": part}
    signed_in = cloud.call("POST", "/auth/tokens", {"auth": {"identity": identity}}, token=None)
    blob = json.dumps({"access": "mine", "secret": "s"})
    one = {"user_id": keys.ann["id"], "project_id": keys.project["id"], "type": "ec2", "blob": blob}
    token = signed_in.headers["x-subject-token"]
    assert cloud.call("POST", "/credentials", {"credential": one}, token=token).status_code == 201
    keys.key = {"access": "mine", "secret": "s"}
    answer = keys.ask(by_v4(keys))
    assert [role["name"] for role in answer.json["token"]["roles"]] == ["reader"]
    assert answer.json["token"]["application_credential"]["id"] == part["id"]
    assert cloud.call("DELETE", f"{path}/{part['id']}").status_code == 204
    assert keys.ask(by_v4(keys)).status_code == 401


def test_a_key_of_a_trust_ends_with_it(keys: Keys, amazon_s_clock: FakeClock) -> None:
    cloud = keys.cloud
    bob = cloud.make("user", name="bob", password="p")
    wish = {
        "trustor_user_id": keys.ann["id"], "trustee_user_id": bob["id"], "impersonation": True,
        "project_id": keys.project["id"], "roles": [{"name": "member"}],
    }  # fmt: skip
    made = cloud.call("POST", "/OS-TRUST/trusts", {"trust": wish}, token=keys.token).json["trust"]
    token = cloud.token("bob", "p", scope={"OS-TRUST:trust": {"id": made["id"]}})
    keys.key = keys.make(token)
    assert keys.key["trust_id"] == made["id"]
    answer = keys.ask(by_v4(keys))
    require_ann(keys, answer)
    assert answer.json["token"]["OS-TRUST:trust"]["id"] == made["id"]
    path = f"/OS-TRUST/trusts/{made['id']}"
    assert cloud.call("DELETE", path, token=keys.token).status_code == 204
    assert keys.ask(by_v4(keys)).status_code in (401, 404)

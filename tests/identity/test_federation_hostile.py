"""Providers that lie, break and dawdle, and tokens that somebody made up: 401 or 503, and why in the log."""

import asyncio
import base64
import datetime
import gzip
import hmac
import ipaddress
import itertools
import json
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import structlog
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cairn.core.clock import SystemClock
from cairn.db.engine import Database
from cairn.identity.federation import asking, oidc
from tests.identity import hostile as provider_of
from tests.identity.conftest import Cloud
from tests.identity.hostile import Hostile, Key, ec_key, ed_key, rsa_key
from tests.identity.live import served

PROTOCOL = "/OS-FEDERATION/identity_providers/acme/protocols/openid"
RULES = [
    {
        "local": [{"user": {"id": "{0}", "name": "{1}"}}],
        "remote": [{"type": "sub"}, {"type": "preferred_username"}],
    }
]


@pytest.fixture(scope="module")
def running() -> Iterator[Hostile]:
    with provider_of.running(rsa_key()) as made:
        yield made


@pytest.fixture
def hostile(running: Hostile) -> Hostile:
    running.behave()
    return running


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One for all tests: making one costs more than most of them."""
    database = Database("sqlite://", inline=True)
    database.create_all()
    made = Cloud(database, SystemClock(), tmp_path_factory.mktemp("cloud"))
    set_up(made)
    yield made
    made.passwords.close()
    database.close()


def set_up(cloud: Cloud) -> None:
    for path, body in (
        ("/OS-FEDERATION/mappings/acme", {"mapping": {"rules": RULES}}),
        ("/OS-FEDERATION/identity_providers/acme", {"identity_provider": {"enabled": True}}),
        (PROTOCOL, {"protocol": {"mapping_id": "acme"}}),
    ):
        answer = cloud.call("PUT", path, body)
        assert answer.status_code == 201, answer.text


@pytest.fixture
def trusting(cloud: Cloud, hostile: Hostile) -> Cloud:
    """A cloud that asks the hostile provider, of which it remembers nothing."""
    trust(cloud, hostile)
    return cloud


_numbers = itertools.count()


def trust(cloud: Cloud, hostile: Hostile, **changes: Any) -> None:
    # What is remembered of a provider hangs on all that is set for it.
    good = {"issuer": hostile.issuer, "client_id": "cloud", "client_secret": "s",
            "audiences": [f"test-{next(_numbers)}"]}  # fmt: skip
    answer = cloud.call("PUT", f"{PROTOCOL}/oidc_client", {"oidc_client": {**good, **changes}})
    assert answer.status_code == 200, answer.text


def bring(cloud: Cloud, token: str) -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return cloud.call("POST", f"{PROTOCOL}/auth", token=None, headers=headers)


def refused_with(cloud: Cloud, token: str) -> tuple[int, str]:
    """The status, and the reason that the operator reads; the client reads none of it."""
    with structlog.testing.capture_logs() as lines:
        answer = bring(cloud, token)
    (line,) = [one for one in lines if one["event"] == "refused"]
    message = answer.json["error"]["message"]
    assert message in (
        "The request you have made requires authentication.",
        "The identity provider cannot be asked at the moment.",
    )
    assert "x-subject-token" not in answer.headers
    return answer.status_code, line["because"]


def segment(document: Any) -> str:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], claims: Any, signature: bytes = b"") -> str:
    return f"{segment(header)}.{segment(claims)}.{segment(signature)}"


# Tokens


class From(int):
    """So many seconds from when the test runs, which may be minutes after it was collected."""


def in_time(changes: dict[str, Any]) -> dict[str, Any]:
    return {k: int(time.time()) + v if isinstance(v, From) else v for k, v in changes.items()}


@pytest.mark.parametrize("make", [rsa_key, ec_key, ed_key, lambda: rsa_key("ps", 2048, "PS256")])
def test_good_signatures_of_every_kind(
    trusting: Cloud, hostile: Hostile, make: Callable[[], Key]
) -> None:
    key = make()
    hostile.says["/keys"] = {"keys": [hostile.key.public, key.public]}
    answer = bring(trusting, key.sign(hostile.claims()))
    assert answer.status_code == 201, answer.text
    assert answer.json["token"]["user"]["name"] == "ann"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["other", "cloud"]},
        {"aud": "other", "azp": "cloud"},
        {"aud": None, "azp": "cloud"},
        {"exp": From(-10)},  # clocks differ by some seconds
    ],
)
def test_tokens_for_us(trusting: Cloud, hostile: Hostile, changes: dict[str, Any]) -> None:
    assert bring(trusting, hostile.key.sign(hostile.claims(**in_time(changes)))).status_code == 201


def test_a_provider_alone_is_not_enough_for_who_must_prove_more(
    trusting: Cloud, hostile: Hostile
) -> None:
    first = bring(trusting, hostile.key.sign(hostile.claims()))
    user = f"/users/{first.json['token']['user']['id']}"
    rules = {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": [["password", "totp"]]}
    trusting.call("PATCH", user, {"user": {"options": rules}}, token=trusting.admin_token)
    status, reason = refused_with(trusting, hostile.key.sign(hostile.claims()))
    assert status == 401 and "prove more" in reason
    rules["multi_factor_auth_rules"] = [["openid"]]
    trusting.call("PATCH", user, {"user": {"options": rules}}, token=trusting.admin_token)
    assert bring(trusting, hostile.key.sign(hostile.claims())).status_code == 201


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"iss": "https://other"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"exp": From(-60)}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "soon"}, "Expiration"),
        ({"nbf": From(300)}, "not yet valid"),
        ({"iat": From(300)}, "not yet valid"),
        ({"aud": "other"}, "not for us"),
        ({"aud": "other", "azp": "another"}, "not for us"),
        ({"aud": None}, "not for us"),
        ({"aud": {"cloud": 1}}, "not for us"),
        ({"events": {"logout": {}}}, "another purpose"),
        ({"cnf": {"jkt": "x"}}, "bound"),
        ({"sub": None}, "no rule"),
        ({"preferred_username": None}, "no rule"),
        ({"preferred_username": ["ann", "bob"]}, "one value"),
        ({"preferred_username": "a\0b"}, "no text"),
        ({"preferred_username": "x" * 300}, "255"),
        ({"preferred_username": "\ud800"}, "no text"),
    ],
)
def test_tokens_that_are_not_good(
    trusting: Cloud, hostile: Hostile, changes: dict[str, Any], because: str
) -> None:
    status, reason = refused_with(trusting, hostile.key.sign(hostile.claims(**in_time(changes))))
    assert status == 401
    assert because in reason


def forged(hostile: Hostile, how: str) -> str:
    key, claims = hostile.key, hostile.claims()
    good = key.sign(claims)
    head, body, signature = good.split(".")
    pem = key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def with_secret(secret: bytes) -> str:
        text = f"{segment({'alg': 'HS256', 'typ': 'JWT', 'kid': key.kid})}.{segment(claims)}"
        return f"{text}.{segment(hmac.digest(secret, text.encode(), 'sha256'))}"

    match how:
        case "alg none":
            return by_hand({"alg": "none"}, claims)
        case "alg none and a signature":
            return by_hand({"alg": "none", "kid": key.kid}, claims, b"x" * 256)
        case "alg NONE":
            return by_hand({"alg": "NoNe"}, claims)
        case "public key as a secret":
            return with_secret(pem)
        case "a shared key":
            return with_secret(b"s" * 32)
        case "other key, same name":
            return rsa_key(key.kid).sign(claims)
        case "unknown key":
            return rsa_key("never-published").sign(claims)
        case "no key named":
            return rsa_key().sign(claims, kid=None)
        case "key of another kind":
            return ec_key(key.kid).sign(claims)
        case "cut off":
            return good[:-20]
        case "no signature":
            return f"{head}.{body}."
        case "other claims":
            return f"{head}.{segment({**claims, 'sub': 'admin'})}.{signature}"
        case "critical header":
            return key.sign(claims, crit=["exp"], exp=1)
        case "logout token":
            return key.sign(claims, typ="logout+jwt")
        case "key in the header":
            own = rsa_key("mine")
            return own.sign(claims, jwk=own.public, jku=f"{hostile.issuer}/mine", kid="mine")
        case "key's name is a path":
            return rsa_key("../../../../dev/null").sign(claims)
        case "key's name is a number":
            return by_hand({"alg": "RS256", "kid": 5}, claims, b"x" * 256)
        case "header is no object":
            return f"{segment([1])}.{segment(claims)}.{segment(b'x')}"
        case "claims are no object":
            return by_hand({"alg": "RS256", "kid": key.kid}, [1], b"x" * 256)
        case "no base64":
            return "%%%.%%%.%%%"
        case "dots":
            return ".."
        case "too long":
            return f"{head}.{body}{'A' * 20_000}.{signature}"
    raise AssertionError(how)


@pytest.mark.parametrize(
    "how",
    [
        "alg none", "alg none and a signature", "alg NONE", "public key as a secret",
        "a shared key", "other key, same name", "unknown key", "no key named",
        "key of another kind", "cut off", "no signature", "other claims", "critical header",
        "logout token", "key in the header", "key's name is a path", "key's name is a number",
        "header is no object", "claims are no object", "no base64", "dots", "too long",
    ],
)  # fmt: skip
def test_forged_tokens(trusting: Cloud, hostile: Hostile, how: str) -> None:
    shared = {"kty": "oct", "k": segment(b"s" * 32), "kid": hostile.key.kid}
    hostile.says["/keys"] = {"keys": [shared, hostile.key.public]}
    status, reason = refused_with(trusting, forged(hostile, how))
    assert status == 401
    assert reason.startswith("provider acme, openid: ")
    assert bring(trusting, hostile.key.sign(hostile.claims())).status_code == 201
    assert hostile.hits["/mine"] == 0


def test_nested_deeper_than_a_parser_goes(trusting: Cloud, hostile: Hostile) -> None:
    """Signed by the provider itself, so that it comes to reading it."""
    deep = b'{"iss":' + b"[" * 5000 + b"]" * 5000 + b"}"
    text = f"{segment({'alg': 'RS256', 'kid': hostile.key.kid})}.{segment(deep)}"
    from jwt.algorithms import RSAAlgorithm

    signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(text.encode(), hostile.key.private)
    assert refused_with(trusting, f"{text}.{segment(signature)}")[0] == 401


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "x", "Bearer é"])
def test_no_bearer_token(trusting: Cloud, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method in ("GET", "POST"):
        answer = trusting.call(method, f"{PROTOCOL}/auth", token=None, headers=headers)
        assert answer.status_code == 401


def test_a_key_too_short_proves_nothing(trusting: Cloud, hostile: Hostile) -> None:
    short = rsa_key("short", 1024)
    hostile.says["/keys"] = {"keys": [short.public]}
    status, reason = refused_with(trusting, short.sign(hostile.claims()))
    assert (status, "1024" in reason) == (401, True)


# Keys that change


def test_a_new_key_is_found_and_made_up_ones_do_not_make_us_ask(
    trusting: Cloud, hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bring(trusting, hostile.key.sign(hostile.claims())).status_code == 201
    made_up = rsa_key("made-up")
    for _ in range(5):
        assert bring(trusting, made_up.sign(hostile.claims())).status_code == 401
    assert hostile.hits["/keys"] == 1
    new = ec_key("new")
    hostile.says["/keys"] = {"keys": [new.public]}
    monkeypatch.setattr(oidc, "KEYS_AGAIN_S", -1.0)
    assert bring(trusting, new.sign(hostile.claims())).status_code == 201
    assert hostile.hits["/keys"] == 2
    assert bring(trusting, hostile.key.sign(hostile.claims())).status_code == 401, "withdrawn"
    assert hostile.hits["/.well-known/openid-configuration"] == 1


def test_what_a_provider_published_is_not_trusted_for_ever(
    trusting: Cloud, hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = hostile.key.sign(hostile.claims())
    assert bring(trusting, token).status_code == 201
    hostile.says["/keys"] = {"keys": []}
    assert bring(trusting, token).status_code == 201
    monkeypatch.setattr(oidc, "REMEMBER_S", 0.0)
    assert bring(trusting, token).status_code == 401


# Providers that break


async def _status_500(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="oops")


async def _no_json(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>")


async def _a_list(request: web.Request) -> web.StreamResponse:
    return web.json_response([])


async def _deep(request: web.Request) -> web.StreamResponse:
    return web.Response(text="[" * 100_000)


async def _10_mib(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b'{"issuer": "' + b"x" * (10 << 20) + b'"}')


async def _bomb(request: web.Request) -> web.StreamResponse:
    body = gzip.compress(b" " * (50 << 20))
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


async def _elsewhere(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/keys")


async def _slow(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def _dripping(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(300):
        await response.write(b" ")
        await asyncio.sleep(0.1)
    return response


async def _cut_off(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


BROKEN = [
    _status_500, _no_json, _a_list, _deep, _10_mib, _bomb, _elsewhere, _slow, _dripping, _cut_off,
]  # fmt: skip


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/keys"])
@pytest.mark.parametrize("how", BROKEN)
def test_a_provider_that_cannot_be_asked(
    trusting: Cloud, hostile: Hostile, monkeypatch: pytest.MonkeyPatch, path: str, how: Any
) -> None:
    monkeypatch.setattr(asking, "ANSWER_S_MAX", 0.5)
    hostile.says[path] = how
    token = hostile.key.sign(hostile.claims())
    began = time.monotonic()
    status, reason = refused_with(trusting, token)
    assert status == 503
    assert "provider acme: " in reason
    assert time.monotonic() - began < 5
    hits = hostile.hits[path]
    assert refused_with(trusting, token)[0] == 503
    assert hostile.hits[path] == hits, "it is not asked again at once"
    hostile.behave()
    monkeypatch.setattr(oidc, "FAILURE_S", 0.0)
    assert bring(trusting, token).status_code == 201, "it recovers by itself"


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://other"},
        {"issuer": None},
        {"issuer": 5},
        {"jwks_uri": None},
        {"jwks_uri": "http://example.com/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "http://user:pw@127.0.0.1/"},
        {"userinfo_endpoint": "ftp://127.0.0.1/"},
        {"token_endpoint": "//127.0.0.1/"},
        {"introspection_endpoint": "http://[::1"},
        {"jwks_uri": "http://127.0.0.1:99999/"},
    ],
)
def test_a_discovery_document_that_leads_astray(
    trusting: Cloud, hostile: Hostile, changes: dict[str, Any]
) -> None:
    hostile.says["/.well-known/openid-configuration"] = hostile.discovery(**changes)
    assert refused_with(trusting, hostile.key.sign(hostile.claims()))[0] == 503


@pytest.mark.parametrize("keys", [None, {}, "x", [1, None], [{}], [{"kty": "RSA"}], [{}] * 101])
def test_keys_that_are_none(trusting: Cloud, hostile: Hostile, keys: Any) -> None:
    hostile.says["/keys"] = {"keys": keys}
    status, _ = refused_with(trusting, hostile.key.sign(hostile.claims()))
    assert status in (401, 503)


def test_a_damaged_key_does_not_spoil_the_good_one(trusting: Cloud, hostile: Hostile) -> None:
    good = hostile.key.public
    damaged = [{**good, "n": "AQAB"}, {**good, "n": 5}, {**good, "e": None}, {"kty": "RSA"}]
    hostile.says["/keys"] = {"keys": [*damaged, good]}
    assert bring(trusting, hostile.key.sign(hostile.claims())).status_code == 201


def test_a_slow_provider_holds_nobody_else_up(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "ANSWER_S_MAX", 2.0)
    hostile.says["/.well-known/openid-configuration"] = _slow
    with served(tmp_path) as (cloud, url):
        set_up(cloud)
        trust(cloud, hostile)
        ask = partial(requests.post, f"{url}/identity/v3{PROTOCOL}/auth", timeout=30)
        token = hostile.key.sign(hostile.claims())
        headers = {"Authorization": f"Bearer {token}"}
        with ThreadPoolExecutor(8) as threads:
            waiting = [threads.submit(ask, headers=headers) for _ in range(8)]
            time.sleep(0.3)
            began = time.monotonic()
            assert requests.get(f"{url}/identity/v3", timeout=30).status_code == 200
            assert time.monotonic() - began < 1
            assert {one.result().status_code for one in waiting} == {503}
        assert hostile.hits["/.well-known/openid-configuration"] == 1, "one asks for all"


def test_nobody_listens(cloud: Cloud, hostile: Hostile) -> None:
    trust(cloud, hostile, issuer="http://127.0.0.1:9")
    assert refused_with(cloud, hostile.key.sign(hostile.claims()))[0] == 503


# Tokens that only the provider can read


def test_an_opaque_token_is_looked_into(trusting: Cloud, hostile: Hostile) -> None:
    asked: list[tuple[str, str]] = []

    async def introspect(request: web.Request) -> web.StreamResponse:
        form = await request.post()
        asked.append((request.headers["Authorization"], str(form["token"])))
        return web.json_response({"active": True, "sub": "s1", "client_id": "cloud"})

    hostile.says["/introspect"] = introspect
    hostile.says["/userinfo"] = {"sub": "s1", "preferred_username": "ann"}
    answer = bring(trusting, "opaque")
    assert answer.status_code == 201, answer.text
    assert answer.json["token"]["user"]["name"] == "ann"
    assert asked == [("Basic " + base64.b64encode(b"cloud:s").decode(), "opaque")]


@pytest.mark.parametrize(
    ("said", "userinfo"),
    [
        ({"active": False}, {}),
        ({}, {}),
        ({"active": "true", "sub": "s1", "client_id": "cloud"}, {}),
        ({"active": True, "sub": "s1"}, {}),
        ({"active": True, "sub": "s1", "client_id": "other"}, {}),
        ({"active": True, "sub": "s1", "client_id": "cloud", "iss": "https://other"}, {}),
        ({"active": True, "sub": "s1", "client_id": "cloud", "token_type": "refresh_token"}, {}),
        ({"active": True, "sub": "s1", "client_id": "cloud"}, {"sub": "s2"}),
        ({"active": True, "sub": "s1", "client_id": "cloud"}, {"name": "no subject"}),
        ({"active": True, "client_id": "cloud"}, {"sub": "s1"}),
    ],
)
def test_an_opaque_token_that_is_not_good(
    trusting: Cloud, hostile: Hostile, said: dict[str, Any], userinfo: dict[str, Any]
) -> None:
    hostile.says["/introspect"] = said
    hostile.says["/userinfo"] = {"preferred_username": "ann", **userinfo}
    assert refused_with(trusting, "opaque")[0] == 401


@pytest.mark.parametrize("path", ["/introspect", "/userinfo"])
@pytest.mark.parametrize("how", [_status_500, _no_json, _10_mib, _slow])
def test_looking_into_a_token_fails(
    trusting: Cloud, hostile: Hostile, monkeypatch: pytest.MonkeyPatch, path: str, how: Any
) -> None:
    monkeypatch.setattr(asking, "ANSWER_S_MAX", 0.5)
    hostile.says["/introspect"] = {"active": True, "sub": "s1", "client_id": "cloud"}
    hostile.says[path] = how
    assert refused_with(trusting, "opaque")[0] == 503


def test_without_introspection_an_opaque_token_is_worth_nothing(
    cloud: Cloud, hostile: Hostile
) -> None:
    """Not even by userinfo: that does not say to whom the token was issued."""
    trust(cloud, hostile, client_secret="")
    hostile.says["/userinfo"] = {"sub": "s1", "preferred_username": "ann"}
    status, reason = refused_with(cloud, "opaque")
    assert (status, "introspection" in reason) == (401, True)


# TLS


def certificate(folder: Path) -> tuple[str, ssl.SSLContext]:
    """One of loopback that only itself vouches for: as PEM, and a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = folder / "provider.pem"
    file.write_bytes(private + pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return pem.decode(), context


def test_a_certificate_is_checked(cloud: Cloud, tmp_path: Path) -> None:
    pem, context = certificate(tmp_path)
    with provider_of.running(rsa_key(), context) as hostile:
        hostile.behave()
        trust(cloud, hostile)
        token = hostile.key.sign(hostile.claims())
        status, reason = refused_with(cloud, token)
        assert (status, "certificate" in reason.lower()) == (503, True)
        trust(cloud, hostile, ca_certificates=pem)
        assert bring(cloud, token).status_code == 201

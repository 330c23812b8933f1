"""Passcodes as a second factor, rules of which methods are needed together, and receipts."""

import base64
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

from cairn.core.clock import FakeClock
from cairn.identity.methods.totp import passcode
from tests.identity.conftest import ADMIN_PASSWORD, Cloud, scope_of, token_body
from tests.identity.test_clients import auth_url as auth_url  # the fixture

SEED = b"12345678901234567890"
BLOB = base64.b32encode(SEED).decode()
RULES = {"multi_factor_auth_rules": [["password", "totp"]]}
HEADER = "Openstack-Auth-Receipt"


def code_at(moment: datetime, seed: bytes = SEED) -> str:
    """By somebody else's implementation than the one under test."""
    return TOTP(seed, 6, SHA1(), 30).generate(int(moment.timestamp())).decode()


class Ann:
    """A member of P1 with an authenticator, who must prove password and passcode."""

    def __init__(self, cloud: Cloud, options: Any = RULES) -> None:
        self.cloud = cloud
        self.project = cloud.make("project", name="P1")
        self.user = cloud.make("user", name="ann", password="right", options=options)
        cloud.grant(self.user["id"], self.project["id"], "member")
        self.credential = self.seed()

    @property
    def code(self) -> str:
        return code_at(self.cloud.clock.now())

    def seed(self, blob: str = BLOB) -> Any:
        wish = {"user_id": self.user["id"], "type": "totp", "blob": blob}
        return self.cloud.call("POST", "/credentials", {"credential": wish}).json["credential"]

    def ask(self, *, receipt: str | None = None, scope: Any = "unscoped", **parts: str) -> Any:
        """`ask(password="...", totp="...")`, in this order."""
        who = {"name": "ann", "domain": {"id": "default"}}
        words = {"password": "password", "totp": "passcode"}
        identity: dict[str, Any] = {"methods": list(parts)}
        for method, secret in parts.items():
            identity[method] = {"user": {**who, words[method]: secret}}
        body = {"auth": {"identity": identity, "scope": scope}}
        headers = {} if receipt is None else {HEADER: receipt}
        return self.cloud.call("POST", "/auth/tokens", body, token=None, headers=headers)


@pytest.fixture
def ann(cloud_on_both: Cloud) -> Ann:
    return Ann(cloud_on_both)


# RFC 6238, appendix B: the last six of its eight digits.
@pytest.mark.parametrize(
    ("time_s", "wanted"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"),
     (2000000000, "279037"), (20000000000, "353130")],
)  # fmt: skip
def test_passcodes_are_those_of_the_standard(time_s: int, wanted: str) -> None:
    assert passcode(SEED, time_s // 30) == wanted


def test_both_at_once(ann: Ann) -> None:
    answer = ann.ask(password="right", totp=ann.code, scope=scope_of("P1"))
    assert answer.status_code == 201, answer.text
    token = answer.json["token"]
    assert token["methods"] == ["password", "totp"]
    assert token["project"]["id"] == ann.project["id"]
    again = token_body(answer.headers["x-subject-token"], "unscoped")
    made = ann.cloud.call("POST", "/auth/tokens", again, token=None)
    assert made.status_code == 201, "what was proven stays proven"
    assert made.json["token"]["methods"] == ["password", "token", "totp"]


@pytest.mark.parametrize("first", ["password", "totp"])
def test_one_after_the_other(ann: Ann, first: str) -> None:
    parts = {"password": "right", "totp": ann.code}
    begun = ann.ask(**{first: parts.pop(first)})
    assert begun.status_code == 401
    assert begun.json == {
        "receipt": {
            "methods": [first],
            "user": {
                "id": ann.user["id"],
                "name": "ann",
                "domain": {"id": "default", "name": "Default"},
            },
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "expires_at": "2026-01-01T00:05:00.000000Z",
        },
        "required_auth_methods": [["password", "totp"]],
    }
    receipt = begun.headers[HEADER.lower()]
    done = ann.ask(**parts, receipt=receipt, scope=scope_of("P1"))
    assert done.status_code == 201, done.text
    assert done.json["token"]["methods"] == ["password", "totp"]


def test_a_receipt_is_no_token_and_a_token_no_receipt(ann: Ann) -> None:
    cloud = ann.cloud
    receipt = ann.ask(password="right").headers[HEADER.lower()]
    assert not cloud.is_good(receipt)
    assert cloud.call("POST", "/auth/tokens", token_body(receipt), token=None).status_code == 404
    headers = {"X-Subject-Token": receipt}
    assert cloud.call("GET", "/auth/tokens", headers=headers).status_code == 404
    assert ann.ask(totp=ann.code, receipt=cloud.admin_token).status_code == 401


def test_receipts_end_and_are_their_user_s(ann: Ann, clock: FakeClock) -> None:
    cloud = ann.cloud
    receipt = ann.ask(password="right").headers[HEADER.lower()]
    for bad in ("", "forged", receipt[:-8], "x" * 9000):
        assert ann.ask(totp=ann.code, receipt=bad).status_code == 401
        clock.advance(30)  # The passcode was used.
    who = {"name": "admin", "domain": {"id": "default"}, "password": ADMIN_PASSWORD}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": who}}}}
    others = cloud.call("POST", "/auth/tokens", body, token=None, headers={HEADER: receipt})
    assert others.status_code == 401
    clock.advance(179)
    assert ann.ask(totp=ann.code, receipt=receipt).status_code == 201
    clock.advance(31)
    assert ann.ask(totp=ann.code, receipt=receipt).status_code == 401


@pytest.mark.parametrize("change", [{"password": "other"}, {"enabled": False}])
def test_receipts_end_with_what_they_prove(ann: Ann, change: Any) -> None:
    receipt = ann.ask(password="right").headers[HEADER.lower()]
    ann.cloud.call("PATCH", f"/users/{ann.user['id']}", {"user": change})
    ann.cloud.call("PATCH", f"/users/{ann.user['id']}", {"user": {"enabled": True}})
    assert ann.ask(totp=ann.code, receipt=receipt).status_code == 401


def test_a_wrong_factor_gives_no_receipt(ann: Ann) -> None:
    wrong = ann.ask(password="wrong")
    assert wrong.status_code == 401 and HEADER.lower() not in wrong.headers
    for parts in ({"password": "right", "totp": "000000"}, {"password": "wrong", "totp": ann.code}):
        answer = ann.ask(**parts)
        assert answer.status_code == 401 and HEADER.lower() not in answer.headers
        assert answer.json == wrong.json


def test_rules_are_alternatives_and_unknown_methods_do_not_count(cloud: Cloud) -> None:
    rules = [["password", "totp"], ["password", "fingerprint"], ["iris"]]
    ann = Ann(cloud, {"multi_factor_auth_rules": rules})
    assert ann.ask(password="right").status_code == 201, "the second rule, without what is not here"
    cloud.call("PATCH", f"/users/{ann.user['id']}",
               {"user": {"options": {"multi_factor_auth_rules": [["iris"]]}}})  # fmt: skip
    assert ann.ask(password="right").status_code == 201, "a rule of nothing locks nobody out"
    cloud.call("PATCH", f"/users/{ann.user['id']}", {"user": {"options": RULES}})
    assert ann.ask(password="right").status_code == 401
    cloud.call("PATCH", f"/users/{ann.user['id']}",
               {"user": {"options": {"multi_factor_auth_enabled": False}}})  # fmt: skip
    assert ann.ask(password="right").status_code == 201


def test_a_token_from_before_the_rules_proves_too_little(cloud: Cloud) -> None:
    ann = Ann(cloud, {})
    token = cloud.token("ann", "right", scope="unscoped")
    cloud.call("PATCH", f"/users/{ann.user['id']}", {"user": {"options": RULES}})
    answer = cloud.call("POST", "/auth/tokens", token_body(token, scope_of("P1")), token=None)
    assert answer.status_code == 401 and HEADER.lower() not in answer.headers


def test_six_digits_alone_are_no_sign_in_unless_a_rule_says_so(cloud: Cloud) -> None:
    ann = Ann(cloud, {})
    assert ann.ask(totp=ann.code).status_code == 401
    options = {"multi_factor_auth_rules": [["totp"]]}
    cloud.call("PATCH", f"/users/{ann.user['id']}", {"user": {"options": options}})
    cloud.clock.advance(30)  # type: ignore[attr-defined]
    assert ann.ask(totp=ann.code).status_code == 201


# --- passcodes -----------------------------------------------------------------------------------------


def test_a_passcode_is_good_once(ann: Ann, clock: FakeClock) -> None:
    code = ann.code
    assert ann.ask(password="right", totp=code).status_code == 201
    assert ann.ask(password="right", totp=code).status_code == 401
    clock.advance(30)
    assert ann.ask(password="right", totp=code).status_code == 401, "not in the next step either"
    assert ann.ask(password="right", totp=ann.code).status_code == 201


def test_a_blob_that_is_written_again_makes_no_used_passcode_good(ann: Ann) -> None:
    code = ann.code
    assert ann.ask(password="right", totp=code).status_code == 201
    path = f"/credentials/{ann.credential['id']}"
    assert ann.cloud.call("PATCH", path, {"credential": {"blob": BLOB}}).status_code == 200
    assert ann.ask(password="right", totp=code).status_code == 401


@pytest.mark.parametrize(("late_s", "status"), [(0, 201), (30, 201), (60, 401), (-30, 401)])
def test_the_step_before_is_good_too(ann: Ann, clock: FakeClock, late_s: int, status: int) -> None:
    clock.advance(3600)
    code = code_at(clock.now())
    clock._now = datetime.fromtimestamp(clock.now().timestamp() + late_s, clock.now().tzinfo)
    assert ann.ask(password="right", totp=code).status_code == status


@pytest.mark.parametrize(
    "blob", [BLOB, BLOB.rstrip("="), BLOB.lower(), "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ"]
)
def test_seeds_as_authenticators_show_them(cloud: Cloud, blob: str) -> None:
    ann = Ann(cloud)
    cloud.call("DELETE", f"/credentials/{ann.credential['id']}")
    ann.seed(blob)
    assert ann.ask(password="right", totp=ann.code).status_code == 201


def test_any_of_several_authenticators(ann: Ann) -> None:
    other = b"another seed of 20 b"
    for blob in ("no base32!", "", base64.b32encode(other).decode()):
        ann.seed(blob)
    assert ann.ask(password="right", totp=ann.code).status_code == 201
    second = code_at(ann.cloud.clock.now(), other)
    assert ann.ask(password="right", totp=second).status_code == 201
    ann.cloud.call("DELETE", f"/credentials/{ann.credential['id']}")
    ann.cloud.clock.advance(30)  # type: ignore[attr-defined]
    assert ann.ask(password="right", totp=ann.code).status_code == 401


def test_passcodes_cannot_be_tried_for_long(ann: Ann, clock: FakeClock) -> None:
    """Not even by somebody who knows the password, which counts for itself."""
    right = ann.code
    for number in range(5):
        guess = f"{(int(right) + 1 + number) % 10**6:06}"
        assert ann.ask(password="right", totp=guess).status_code == 401
    assert ann.ask(password="right", totp=right).status_code == 401
    clock.advance(300)
    assert ann.ask(password="right", totp=ann.code).status_code == 201


def test_every_wrong_passcode_costs_the_same(cloud: Cloud) -> None:
    Ann(cloud)
    cloud.make("user", name="without", password="p")
    cloud.make("user", name="off", password="p", enabled=False)

    def cost(name: str) -> Any:
        who = {"name": name, "domain": {"id": "default"}, "passcode": "000000"}
        body = {"auth": {"identity": {"methods": ["totp"], "totp": {"user": who}}}}
        before = cloud.database.statements_total
        answer = cloud.call("POST", "/auth/tokens", body, token=None)
        return answer.status_code, answer.text, cloud.database.statements_total - before

    for _ in range(7):  # The sixth is at somebody who is locked out.
        costs = [cost(name) for name in ("ann", "without", "off", "nobody")]
        assert len(set(costs)) == 1 and costs[0][0] == 401, costs


@pytest.mark.parametrize(
    ("part", "status"),
    [
        ({"user": {"name": "ann", "domain": {"id": "default"}, "passcode": 123456}}, 400),
        ({"user": {"name": "ann", "domain": {"id": "default"}}}, 400),
        ({"user": {"name": "ann", "passcode": "1"}}, 400),
        ({"user": {"passcode": "1"}}, 400),
        ({"user": {"name": "ann", "domain": {"id": "default"}, "passcode": "x" * 1000}}, 400),
        ({"user": {"name": "ann", "domain": {"id": "default"}, "passcode": "१२३४५६"}}, 401),
        ({"user": {"name": "ann", "domain": {"id": "default"}, "passcode": ""}}, 401),
        ({"user": {"id": "0" * 32, "passcode": "123456"}}, 401),
        ({"user": {"id": "-", "passcode": "123456"}}, 401),
        ({}, 400), ([], 400), (None, 400),
    ],
)  # fmt: skip
def test_bad_passcodes(cloud: Cloud, part: Any, status: int) -> None:
    Ann(cloud)
    body = {"auth": {"identity": {"methods": ["totp"], "totp": part}}}
    answer = cloud.call("POST", "/auth/tokens", body, token=None)
    assert answer.status_code == status, answer.text


# --- real clients ----------------------------------------------------------------------------------------


def prepared(auth_url: str) -> str:
    """bob with a second factor, made through the API; the id of his authenticator's credential."""
    admin = session.Session(
        auth=v3.Password(
            auth_url=auth_url, username="admin", password=ADMIN_PASSWORD,
            user_domain_id="default", project_name="admin", project_domain_id="default",
        )
    )  # fmt: skip
    base = {"endpoint_override": f"{auth_url}/v3"}
    wish = {"name": "bob", "password": "right", "options": RULES}
    bob = admin.post("/users", json={"user": wish}, **base).json()["user"]
    roles = admin.get("/roles?name=member", **base).json()["roles"]
    project = admin.get("/projects?name=admin", **base).json()["projects"][0]
    admin.put(f"/projects/{project['id']}/users/{bob['id']}/roles/{roles[0]['id']}", **base)
    credential = {"user_id": bob["id"], "type": "totp", "blob": BLOB}
    admin.post("/credentials", json={"credential": credential}, **base)
    return str(bob["id"])


def now_s() -> datetime:
    return datetime.now().astimezone()


def test_keystoneauth_signs_in_with_both_and_goes_on_from_a_receipt(auth_url: str) -> None:
    prepared(auth_url)
    who = {"username": "bob", "user_domain_id": "default"}
    where = {"project_name": "admin", "project_domain_id": "default"}
    alone = v3.Password(auth_url=auth_url, password="right", **who, **where)
    with pytest.raises(exceptions.MissingAuthMethods) as missing:
        session.Session(auth=alone).get_token()
    assert missing.value.required_auth_methods == [["password", "totp"]]
    assert missing.value.methods == ["password"]
    totp = v3.TOTPMethod(passcode=code_at(now_s()), **who)
    rest = v3.Auth(auth_url, [totp], **where)
    rest.add_method(v3.ReceiptMethod(receipt=missing.value.receipt))
    assert rest.get_access(session.Session(auth=rest)).project_name == "admin"


def test_the_command_line_signs_in_with_both(auth_url: str, tmp_path: Path) -> None:
    user_id = prepared(auth_url)
    clouds = tmp_path / "clouds.yaml"
    clouds.write_text(f"""
clouds:
  mine:
    auth_type: v3multifactor
    auth_methods: [v3password, v3totp]
    auth:
      auth_url: {auth_url}/v3
      username: bob
      password: right
      user_domain_id: default
      project_name: admin
      project_domain_id: default
""")
    answer = subprocess.run(
        [
            Path(sys.executable).with_name("openstack"), "--os-cloud", "mine",
            "--os-passcode", code_at(now_s()), "token", "issue", "-f", "json",
        ],
        env={**os.environ, "OS_CLIENT_CONFIG_FILE": str(clouds)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["user_id"] == user_id

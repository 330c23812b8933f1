"""Credentials: who sees and changes which, that they lie sealed, and keys that are rotated."""

import json
from typing import Any

import pytest
from sqlalchemy import select

from cairn.core.errors import Invalid
from cairn.db import secrets
from cairn.db.secrets import Sealer
from cairn.identity.credentials import credential_keys, credential_store
from cairn.identity.credentials.credential_keys import rotate_credential_keys
from tests.identity.conftest import SEALING_KEY, Cloud, scope_of

SEALER = Sealer(SEALING_KEY)


class People:
    """ann and bob, members of P1, with tokens for it."""

    def __init__(self, cloud: Cloud) -> None:
        self.project = cloud.make("project", name="P1")
        self.ids, self.tokens = {}, {}
        for name in ("ann", "bob"):
            user = cloud.make("user", name=name, password="p")
            cloud.grant(user["id"], self.project["id"], "member")
            self.ids[name] = user["id"]
            self.tokens[name] = cloud.token(name, "p", scope=scope_of("P1"))


@pytest.fixture
def people(cloud_on_both: Cloud) -> People:
    return People(cloud_on_both)


def make(cloud: Cloud, user_id: str, token: str | None = "", **attributes: Any) -> Any:
    wish = {"user_id": user_id, "type": "cert", "blob": "secret blob", **attributes}
    return cloud.call("POST", "/credentials", {"credential": wish}, token=token)


def made(cloud: Cloud, user_id: str, token: str | None = "", **attributes: Any) -> Any:
    answer = make(cloud, user_id, token, **attributes)
    assert answer.status_code == 201, answer.text
    return answer.json["credential"]


def ids(answer: Any) -> set[str]:
    assert answer.status_code == 200, answer.text
    return {one["id"] for one in answer.json["credentials"]}


def test_a_credential_s_life(cloud_on_both: Cloud, people: People) -> None:
    cloud, ann = cloud_on_both, people.ids["ann"]
    one = made(cloud, ann, project_id=people.project["id"], note="mine")
    path = f"/credentials/{one['id']}"
    assert one["links"]["self"].endswith(f"/identity/v3{path}")
    assert {k: one[k] for k in ("user_id", "project_id", "type", "blob", "note")} == {
        "user_id": ann, "project_id": people.project["id"], "type": "cert", "blob": "secret blob",
        "note": "mine",
    }  # fmt: skip
    assert cloud.call("GET", path).json["credential"] == one
    changed = cloud.call("PATCH", path, {"credential": {"blob": "other"}})
    assert changed.json["credential"] == {**one, "blob": "other"}
    assert cloud.call("GET", path).json["credential"]["blob"] == "other"
    assert cloud.call("DELETE", path).status_code == 204
    assert cloud.call("GET", path).status_code == 404
    assert cloud.call("DELETE", path).status_code == 404


def test_the_id_of_a_key_is_the_hash_of_its_access(cloud_on_both: Cloud, people: People) -> None:
    blob = json.dumps({"access": "A", "secret": "S"})
    wish = {"type": "ec2", "project_id": people.project["id"], "blob": blob}
    one = made(cloud_on_both, people.ids["ann"], **wish)
    assert one["id"] == "559aead08264d5795d3909718cdd05abd49572e84fe55590eef31a88a08fdffd"
    assert make(cloud_on_both, people.ids["bob"], **wish).status_code == 409
    path = f"/credentials/{one['id']}"
    new = json.dumps({"access": "B", "secret": "T"})
    changed = cloud_on_both.call("PATCH", path, {"credential": {"blob": new}}).json["credential"]
    assert (changed["id"], changed["blob"]) == (one["id"], new)
    for name in ("trust_id", "app_cred_id", "access_token_id"):
        sly = json.dumps({"access": "B", "secret": "T", name: "x"})
        assert cloud_on_both.call("PATCH", path, {"credential": {"blob": sly}}).status_code == 400


def test_owners_see_their_own_and_administrators_all(cloud_on_both: Cloud, people: People) -> None:
    cloud = cloud_on_both
    ann, bob = people.tokens["ann"], people.tokens["bob"]
    hers = made(cloud, people.ids["ann"], ann)
    his = made(cloud, people.ids["bob"], bob, type="totp", blob="MFRGG")
    assert ids(cloud.call("GET", "/credentials", token=ann)) == {hers["id"]}
    assert ids(cloud.call("GET", f"/credentials?user_id={people.ids['bob']}", token=ann)) == set()
    assert ids(cloud.call("GET", "/credentials")) == {hers["id"], his["id"]}
    assert ids(cloud.call("GET", f"/credentials?user_id={people.ids['bob']}")) == {his["id"]}
    assert ids(cloud.call("GET", "/credentials?type=cert")) == {hers["id"]}
    assert ids(cloud.call("GET", "/credentials?type=none")) == set()
    assert make(cloud, people.ids["ann"], bob).status_code == 403
    path = f"/credentials/{hers['id']}"
    for method, body in (("GET", None), ("PATCH", {"credential": {"blob": "x"}}), ("DELETE", None)):
        assert cloud.call(method, path, body, token=bob).status_code == 403
    assert cloud.call("GET", path, token=ann).json["credential"]["blob"] == "secret blob"


def test_nobody_gives_a_credential_away(cloud_on_both: Cloud, people: People) -> None:
    cloud, ann = cloud_on_both, people.tokens["ann"]
    path = f"/credentials/{made(cloud, people.ids['ann'], ann)['id']}"
    body = {"credential": {"user_id": people.ids["bob"]}}
    assert cloud.call("PATCH", path, body, token=ann).status_code == 403
    assert cloud.call("PATCH", path, body).status_code == 200
    assert cloud.call("GET", path, token=ann).status_code == 403


def test_lists_have_pages(cloud_on_both: Cloud, people: People) -> None:
    for _ in range(5):
        made(cloud_on_both, people.ids["ann"])
    first = cloud_on_both.call("GET", "/credentials?limit=3").json
    assert len(first["credentials"]) == 3
    rest = cloud_on_both.call("GET", "/credentials?" + first["links"]["next"].partition("?")[2])
    assert len(rest.json["credentials"]) == 2


EC2 = {"type": "ec2", "project_id": "p", "blob": '{"access": "a", "secret": "s"}'}


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"type": None}, "type"), ({"type": ""}, "type"), ({"type": "x" * 256}, "type"),
        ({"type": 1}, "type"), ({"blob": None}, "blob"), ({"blob": {"access": "a"}}, "blob"),
        ({"blob": "x" * 70_000}, "blob"), ({"user_id": None}, "user_id"),
        ({"user_id": "a/b"}, "user_id"), ({"project_id": 3}, "project_id"),
        ({**EC2, "project_id": None}, "project_id"), ({**EC2, "blob": "no JSON"}, "blob"),
        ({**EC2, "blob": "[]"}, "blob"), ({**EC2, "blob": "{}"}, "access"),
        ({**EC2, "blob": '{"access": 1}'}, "access"), ({**EC2, "blob": '{"access": ""}'}, "access"),
        ({**EC2, "blob": "[" * 30_000}, "blob"), ({**EC2, "type": "EC2", "blob": "{}"}, "access"),
        ({"more": "x" * 20_000}, "other attributes"),
    ],
)  # fmt: skip
def test_bad_credentials_name_the_field(cloud: Cloud, wish: Any, field: str) -> None:
    answer = make(cloud, **{"user_id": cloud.admin.user_id, **wish})
    assert answer.status_code == 400, answer.text
    assert field in answer.json["error"]["message"]
    assert cloud.call("GET", "/credentials").json["credentials"] == []


def test_bad_changes(cloud: Cloud) -> None:
    one = made(cloud, cloud.admin.user_id)
    path = f"/credentials/{one['id']}"
    for change in (
        {},
        {"id": "other"},
        {"blob": 1},
        {"type": "ec2"},
        {"type": None},
        {"user_id": ""},
    ):
        assert cloud.call("PATCH", path, {"credential": change}).status_code == 400, change
    for body in (None, [], {}, {"credential": None}, {"credential": {"blob": "x"}, "x": 1}):
        assert cloud.call("PATCH", path, body).status_code == 400, body
    assert cloud.call("GET", path).json["credential"] == one


def test_ten_megabytes_are_refused(cloud: Cloud) -> None:
    assert make(cloud, cloud.admin.user_id, blob="x" * (10 << 20)).status_code == 413


def test_blobs_of_any_language(cloud: Cloud) -> None:
    one = made(cloud, cloud.admin.user_id, blob="Ключ 🔑", type="тип")
    path = f"/credentials/{one['id']}"
    assert cloud.call("GET", path).json["credential"]["blob"] == "Ключ 🔑"


def test_nobody_fills_the_database(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairn.identity.credentials.credentials.PER_USER_MAX", 2)
    for _ in range(2):
        made(cloud, cloud.admin.user_id)
    answer = make(cloud, cloud.admin.user_id)
    assert answer.status_code == 403 and "maximum of 2" in answer.text


def test_they_end_with_their_user_and_their_project(cloud_on_both: Cloud, people: People) -> None:
    cloud = cloud_on_both
    made(cloud, people.ids["ann"])
    his = made(cloud, people.ids["bob"])
    made(cloud, people.ids["bob"], project_id=people.project["id"])
    cloud.call("DELETE", f"/users/{people.ids['ann']}")
    cloud.call("DELETE", f"/projects/{people.project['id']}")
    assert ids(cloud.call("GET", "/credentials")) == {his["id"]}


# --- delegation ----------------------------------------------------------------------------------------


def delegated(cloud: Cloud, people: People, *, unrestricted: bool) -> tuple[str, str]:
    """A token of ann's by an application credential, and the credential's id."""
    wish = {"application_credential": {"name": "a", "unrestricted": unrestricted}}
    path = f"/users/{people.ids['ann']}/application_credentials"
    made_ = cloud.call("POST", path, wish, token=people.tokens["ann"]).json
    one = made_["application_credential"]
    part = {"id": one["id"], "secret": one["secret"]}
    identity = {"methods": ["application_credential"], "application_credential": part}
    answer = cloud.call("POST", "/auth/tokens", {"auth": {"identity": identity}}, token=None)
    return answer.headers["x-subject-token"], one["id"]


def test_a_delegated_token_reaches_its_own_project_only(
    cloud_on_both: Cloud, people: People
) -> None:
    cloud, ann = cloud_on_both, people.ids["ann"]
    inside = made(cloud, ann, project_id=people.project["id"])
    seed = made(cloud, ann, type="totp", blob="MFRGG")
    token, _ = delegated(cloud, people, unrestricted=True)
    assert ids(cloud.call("GET", "/credentials", token=token)) == {inside["id"]}
    assert cloud.call("GET", f"/credentials/{inside['id']}", token=token).status_code == 200
    path = f"/credentials/{seed['id']}"
    for method, body in (("GET", None), ("PATCH", {"credential": {"blob": "x"}}), ("DELETE", None)):
        assert cloud.call(method, path, body, token=token).status_code == 403
    assert make(cloud, ann, token).status_code == 403
    body = {"credential": {"project_id": None}}
    assert cloud.call("PATCH", f"/credentials/{inside['id']}", body, token=token).status_code == 403


def test_a_key_made_by_delegation_says_so(cloud_on_both: Cloud, people: People) -> None:
    cloud, ann = cloud_on_both, people.ids["ann"]
    wish = {**EC2, "project_id": people.project["id"]}
    token, id_ = delegated(cloud, people, unrestricted=True)
    one = made(cloud, ann, token, **wish)
    assert json.loads(one["blob"]) == {"access": "a", "secret": "s", "app_cred_id": id_}


def test_a_restricted_one_makes_no_keys(cloud_on_both: Cloud, people: People) -> None:
    cloud, ann = cloud_on_both, people.ids["ann"]
    token, _ = delegated(cloud, people, unrestricted=False)
    assert make(cloud, ann, token, **{**EC2, "project_id": people.project["id"]}).status_code == 403
    path = f"/users/{ann}/credentials/OS-EC2"
    body = {"tenant_id": people.project["id"]}
    assert cloud.call("POST", path, body, token=token).status_code == 403


# --- sealed --------------------------------------------------------------------------------------------


def kept(cloud: Cloud) -> list[Any]:
    return cloud.database.read_now(
        lambda tx: list(tx.execute(select(credential_store.credentials)).all())
    )


def keys_kept(cloud: Cloud) -> list[str]:
    found = cloud.database.read_now(
        lambda tx: secrets.all_under(tx, SEALER, "identity.credential.")
    )
    return [secret.name for secret in found]


def test_blobs_lie_sealed(cloud_on_both: Cloud) -> None:
    made(cloud_on_both, cloud_on_both.admin.user_id)
    (row,) = kept(cloud_on_both)
    assert b"secret" not in row.sealed
    assert "secret blob" not in repr(row)


def test_a_blob_cannot_be_put_in_another_s_place(cloud: Cloud) -> None:
    mine, other = (made(cloud, cloud.admin.user_id, blob=b)["id"] for b in ("mine", "other"))
    table = credential_store.credentials
    (stolen,) = [row.sealed for row in kept(cloud) if row.id == other]
    cloud.database.write_now(
        lambda tx: tx.execute(table.update().where(table.c.id == mine).values(sealed=stolen))
    )
    with pytest.raises(Invalid):
        cloud.database.read_now(
            lambda tx: credential_keys.CredentialKeys(tx, SEALER).open(
                credential_store.CREDENTIALS.get(tx, mine)  # type: ignore[arg-type]
            )
        )


def test_rotated_keys_seal_everything_anew(
    cloud_on_both: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = cloud_on_both
    monkeypatch.setattr(credential_keys, "_BATCH", 2)
    blobs = {made(cloud, cloud.admin.user_id, blob=f"b{n}")["id"]: f"b{n}" for n in range(5)}
    before = {row.id: row.sealed for row in kept(cloud)}
    assert keys_kept(cloud) == ["identity.credential.1"]
    for number in (2, 3):
        assert cloud.database.write_now(lambda tx: rotate_credential_keys(tx, SEALER)) == 5
        assert keys_kept(cloud) == [f"identity.credential.{number}"]
        assert {row.key_number for row in kept(cloud)} == {number}
    assert all(row.sealed != before[row.id] for row in kept(cloud))
    listed = cloud.call("GET", "/credentials").json["credentials"]
    assert {one["id"]: one["blob"] for one in listed} == blobs


def test_a_rotation_without_credentials_makes_a_key(cloud_on_both: Cloud) -> None:
    assert cloud_on_both.database.write_now(lambda tx: rotate_credential_keys(tx, SEALER)) == 0
    assert keys_kept(cloud_on_both) == ["identity.credential.1"]

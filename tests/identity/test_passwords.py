"""Passwords: their rules, what an administrator and what a user may do, users' options, imported hashes."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from cairn.app import security_of
from cairn.core.clock import FakeClock
from cairn.core.errors import Invalid
from cairn.db.engine import Database
from cairn.identity import store
from cairn.identity.accounts import foreign_hashes, passwords
from cairn.identity.accounts.activity import InactivityKeeper
from cairn.identity.accounts.security import Security
from cairn.settings import Settings
from tests.identity.conftest import Cloud, sign_in_body

DAY_S = 86400
Make = Callable[..., Cloud]


@pytest.fixture
def strict(database: Database, clock: FakeClock, tmp_path: Path) -> Iterator[Make]:
    """A cloud with rules, on SQLite and on PostgreSQL: `strict(password_days=30)`."""
    made: list[Cloud] = []

    def make(**rules: Any) -> Cloud:
        made.append(Cloud(database, clock, tmp_path, Security(**rules)))
        return made[-1]

    yield make
    for cloud in made:
        cloud.passwords.close()


def change(cloud: Cloud, user: Any, old: str, new: str) -> Any:
    body = {"user": {"original_password": old, "password": new}}
    return cloud.call("POST", f"/users/{user['id']}/password", body, token=None)


def reset(cloud: Cloud, user: Any, new: str | None, **more: Any) -> Any:
    """By an administrator. Tokens of the user end; the administrator's do not."""
    return cloud.call("PATCH", f"/users/{user['id']}", {"user": {"password": new, **more}})


def get(cloud: Cloud, user: Any) -> Any:
    return cloud.call("GET", f"/users/{user['id']}").json["user"]


def signs_in(cloud: Cloud, password: str, name: str = "ann") -> bool:
    answer = cloud.sign_in(name, password, scope="unscoped")
    assert answer.status_code in (201, 401)
    return bool(answer.status_code == 201)


# --- expiry --------------------------------------------------------------------------------------------


def test_a_password_expires_and_may_then_only_be_changed(strict: Make, clock: FakeClock) -> None:
    cloud = strict(password_days=30)
    ann = cloud.make("user", name="ann", password="one")
    assert ann["password_expires_at"] == "2026-01-31T00:00:00.000000"
    token = cloud.sign_in("ann", "one", scope="unscoped").json["token"]
    assert token["user"]["password_expires_at"] == "2026-01-31T00:00:00.000000"
    clock.advance(30 * DAY_S)
    answer = cloud.sign_in("ann", "one")
    assert answer.status_code == 401
    assert "expired" in answer.json["error"]["message"]
    assert ann["id"] in answer.json["error"]["message"]
    wrong = cloud.sign_in("ann", "wrong").json["error"]["message"]
    assert "expired" not in wrong, "only whoever knows the password hears of it"
    assert change(cloud, ann, "one", "two").status_code == 204
    assert signs_in(cloud, "two")
    assert (
        cloud.sign_in("ann", "two")
        .json["token"]["user"]["password_expires_at"]
        .startswith("2026-03-02")
    )


def test_some_passwords_never_expire(strict: Make, clock: FakeClock) -> None:
    cloud = strict(password_days=30)
    exempt = cloud.make(
        "user", name="exempt", password="p", options={"ignore_password_expiry": True}
    )
    assert exempt["password_expires_at"] is None
    ann = cloud.make("user", name="ann", password="one")
    cloud.call(
        "PATCH", f"/users/{ann['id']}", {"user": {"options": {"ignore_password_expiry": True}}}
    )
    clock.advance(31 * DAY_S)
    assert signs_in(cloud, "one")
    assert signs_in(cloud, "p", "exempt")


def test_the_first_administrator_need_not_hurry(strict: Make, clock: FakeClock) -> None:
    cloud = strict(password_days=1, password_change_first=True)
    clock.advance(2 * DAY_S)
    assert cloud.admin_token


def test_a_password_that_somebody_else_set_must_be_changed_first(strict: Make) -> None:
    cloud = strict(password_change_first=True)
    ann = cloud.make("user", name="ann", password="one")
    assert not signs_in(cloud, "one")
    assert change(cloud, ann, "one", "two").status_code == 204
    assert signs_in(cloud, "two")
    assert reset(cloud, ann, "three").status_code == 200
    assert not signs_in(cloud, "three")
    options = {"ignore_change_password_upon_first_use": True}
    assert reset(cloud, ann, "four", options=options).status_code == 200
    assert signs_in(cloud, "four")


def test_users_are_found_by_when_their_passwords_expire(strict: Make, clock: FakeClock) -> None:
    cloud = strict(password_days=30)
    group = cloud.make("group", name="g")
    ids = {}
    for name in ("a", "b", "c"):
        ids[cloud.make("user", name=name, password="p")["id"]] = name
        clock.advance(DAY_S)
        cloud._admin_token = None
    for user_id in ids:
        cloud.call("PUT", f"/groups/{group['id']}/users/{user_id}")

    def found(query: str, path: str = "/users") -> str:
        answer = cloud.call("GET", f"{path}?password_expires_at={query}")
        assert answer.status_code == 200, answer.text
        return "".join(sorted(ids[user["id"]] for user in answer.json["users"]))

    second = "2026-02-01T00:00:00Z"
    assert found(f"lt:{second}") == "a"
    assert found(f"lte:{second}") == "ab"
    assert found(f"gt:{second}") == "c"
    assert found(f"gte:{second}") == "bc"
    assert found(f"eq:{second}") == found(second) == "b"
    assert found(f"neq:{second}") == "ac"
    assert found(f"lt:{second}", f"/groups/{group['id']}/users") == "a"
    assert found("lt:2026-02-01T01:00:00%2B01:00") == "a"
    for bad in ("lt:yesterday", "", "near:2026-02-01", "lt:", "gt:9999-12-31T23:59:59-23:59", "eq"):
        answer = cloud.call("GET", f"/users?password_expires_at={bad}")
        assert answer.status_code == 400 and "password_expires_at" in answer.text, bad


# --- choosing another ----------------------------------------------------------------------------------


def test_the_last_passwords_may_not_be_chosen_again(strict: Make) -> None:
    cloud = strict(passwords_unique=3)
    ann = cloud.make("user", name="ann", password="p0")
    for number in range(1, 4):
        assert change(cloud, ann, f"p{number - 1}", f"p{number}").status_code == 204
    for used in ("p1", "p2", "p3"):
        answer = change(cloud, ann, "p3", used)
        assert answer.status_code == 400
        assert "previous password" in answer.json["error"]["message"]
    assert change(cloud, ann, "p3", "p0").status_code == 204


def test_administrators_may_set_any(strict: Make) -> None:
    cloud = strict(passwords_unique=3, password_days_min=5)
    ann = cloud.make("user", name="ann", password="one")
    for _ in range(2):
        assert reset(cloud, ann, "two").status_code == 200
    assert reset(cloud, ann, "one").status_code == 200
    assert change(cloud, ann, "one", "two").status_code == 400, "yet they are remembered"


def test_one_s_own_password_must_be_kept_for_a_while(strict: Make, clock: FakeClock) -> None:
    cloud = strict(password_days_min=2)
    ann = cloud.make("user", name="ann", password="one")
    assert change(cloud, ann, "one", "two").status_code == 204, "an administrator had set it"
    answer = change(cloud, ann, "two", "three")
    assert answer.status_code == 400
    assert "2 day(s)" in answer.json["error"]["message"]
    clock.advance(2 * DAY_S)
    assert change(cloud, ann, "two", "three").status_code == 204


def test_passwords_match_the_operator_s_pattern(strict: Make) -> None:
    says = "at least 7 characters, a letter and a digit"
    cloud = strict(password_pattern=r"^(?=.*\d)(?=.*[a-zA-Z]).{7,}$", password_pattern_says=says)
    refused = cloud.call("POST", "/users", {"user": {"name": "bob", "password": "short"}})
    assert refused.status_code == 400 and says in refused.json["error"]["message"]
    ann = cloud.make("user", name="ann", password="good4ever")
    for bad in (reset(cloud, ann, "bad"), change(cloud, ann, "good4ever", "bad")):
        assert bad.status_code == 400 and says in bad.json["error"]["message"]
    assert change(cloud, ann, "good4ever", "better4ever").status_code == 204


def test_a_wrong_pattern_is_refused_at_start() -> None:
    with pytest.raises(Invalid, match="password_pattern"):
        security_of(Settings(password_pattern="("))


def test_every_rule_is_a_setting_with_the_same_default() -> None:
    assert security_of(Settings()) == Security()
    assert security_of(Settings(lockout_failures=9, inactive_days=8)) == Security(
        lockout_failures=9, inactive_days=8
    )


def test_a_locked_password_is_changed_by_administrators_only(strict: Make) -> None:
    cloud = strict()
    ann = cloud.make("user", name="ann", password="one", options={"lock_password": True})
    assert change(cloud, ann, "one", "two").status_code == 400
    assert reset(cloud, ann, "two").status_code == 200
    assert signs_in(cloud, "two")


def test_a_password_can_be_taken_away(strict: Make) -> None:
    cloud = strict()
    ann = cloud.make("user", name="ann", password="one")
    token = cloud.token("ann", "one", scope="unscoped")
    assert reset(cloud, ann, None).status_code == 200
    assert not signs_in(cloud, "one")
    assert not cloud.is_good(token)


def test_the_old_password_is_kept_nowhere(strict: Make) -> None:
    cloud = strict()
    ann = cloud.make("user", name="ann", password="one", original_password="zero")
    assert "original_password" not in get(cloud, ann)
    assert "password" not in get(cloud, ann)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"user": {"original_password": "one", "password": ""}}, 400),
        ({"user": {"original_password": "one", "password": "x" * 5000}}, 400),
        ({"user": {"original_password": "one", "password": None}}, 400),
        ({"user": {"original_password": "one"}}, 400),
        ({"user": {"password": "two"}}, 400),
        ({"user": {"original_password": 1, "password": "two"}}, 400),
        ({"user": {"original_password": "one", "password": "two", "enabled": False}}, 400),
        ({"user": {"original_password": "o" * 5000, "password": "two"}}, 401),
        ({"user": {"original_password": "\U0001f600", "password": "two"}}, 401),
    ],
)
def test_bad_changes(cloud: Cloud, body: Any, status: int) -> None:
    ann = cloud.make("user", name="ann", password="one")
    assert (
        cloud.call("POST", f"/users/{ann['id']}/password", body, token=None).status_code == status
    )
    assert signs_in(cloud, "one")


def test_unknown_users_and_wrong_passwords_look_the_same_here_too(cloud: Cloud) -> None:
    ann = cloud.make("user", name="ann", password="one")
    wrong, unknown = change(cloud, ann, "x", "y"), change(cloud, {"id": "0" * 32}, "x", "y")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json == unknown.json


def test_passwords_of_any_language(cloud: Cloud) -> None:
    ann = cloud.make("user", name="ann", password="пароль 🔑")
    assert signs_in(cloud, "пароль 🔑")
    assert change(cloud, ann, "пароль 🔑", "密码").status_code == 204
    assert signs_in(cloud, "密码")


# --- options -------------------------------------------------------------------------------------------


def test_options_are_changed_one_by_one_and_taken_back_by_null(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    rules = [["password", "totp"], ["password", "custom"]]
    ann = cloud.make("user", name="ann", options={"lock_password": True})
    assert ann["options"] == {"lock_password": True}
    path = f"/users/{ann['id']}"
    cloud.call("PATCH", path, {"user": {"options": {"multi_factor_auth_rules": rules}}})
    assert get(cloud, ann)["options"] == {"lock_password": True, "multi_factor_auth_rules": rules}
    changes = {"lock_password": None, "multi_factor_auth_enabled": False}
    answer = cloud.call("PATCH", path, {"user": {"options": changes}})
    wanted = {"multi_factor_auth_rules": rules, "multi_factor_auth_enabled": False}
    assert answer.json["user"]["options"] == get(cloud, ann)["options"] == wanted


@pytest.mark.parametrize(
    "options",
    [
        {"unknown": True}, {"lock_password": "yes"}, {"lock_password": 1}, [], "x", 3, None,
        {"ignore_password_expiry": []}, {"multi_factor_auth_rules": True},
        {"multi_factor_auth_rules": ["password"]}, {"multi_factor_auth_rules": [[]]},
        {"multi_factor_auth_rules": [["password", "password"]]},
        {"multi_factor_auth_rules": [["password"], ["password"]]},
        {"multi_factor_auth_rules": [[1]]}, {"multi_factor_auth_rules": [["x" * 1000]]},
        {"multi_factor_auth_rules": [["p"]] * 1000}, {"multi_factor_auth_enabled": "True"},
    ],
)  # fmt: skip
def test_bad_options(cloud: Cloud, options: Any) -> None:
    body = {"user": {"name": "bob", "options": options}}
    assert cloud.call("POST", "/users", body).status_code == 400
    path = f"/users/{cloud.admin.user_id}"
    answer = cloud.call("PATCH", path, {"user": {"options": options}})
    assert answer.status_code == 400 and "options" in answer.text
    assert cloud.call("GET", path).json["user"]["options"] == {}


# --- inactivity ------------------------------------------------------------------------------------------


def test_inactive_users_are_disabled(strict: Make, clock: FakeClock) -> None:
    rules = Security(inactive_days=30)
    cloud = strict(inactive_days=30)
    users = {
        name: cloud.make("user", name=name, password="p", options=options)
        for name, options in (
            ("gone", {}), ("here", {}), ("exempt", {"ignore_user_inactivity": True}),
        )
    }  # fmt: skip
    keeper = InactivityKeeper(cloud.database, rules)
    clock.advance(20 * DAY_S)
    assert signs_in(cloud, "p", "here")
    cloud._admin_token = None
    assert cloud.admin_token
    clock.advance(11 * DAY_S)
    cloud._admin_token = None
    done = asyncio.run(keeper.run_once())
    assert done.done == 1
    enabled = {name: get(cloud, user)["enabled"] for name, user in users.items()}
    assert enabled == {"gone": False, "here": True, "exempt": True}
    assert not signs_in(cloud, "p", "gone")
    cloud.call("PATCH", f"/users/{users['gone']['id']}", {"user": {"enabled": True}})
    assert asyncio.run(keeper.run_once()).done == 0, "whoever is enabled again begins anew"
    assert signs_in(cloud, "p", "gone")


def test_the_last_administrator_stays(strict: Make, clock: FakeClock) -> None:
    cloud = strict(inactive_days=1)
    clock.advance(9 * DAY_S)
    asyncio.run(InactivityKeeper(cloud.database, Security(inactive_days=1)).run_once())
    assert cloud.admin_token


# --- imported hashes ---------------------------------------------------------------------------------------

# Made by passlib 1.7.4, or in the documentation of what made them first; not by what verifies them.
IMPORTED = {
    "bcrypt": ("password", "$2a$12$NT0I31Sa7ihGEWpka9ASYeEFkhuTNeBQ2xfZskIiiJeyFXhRgS.Sy"),
    "bcrypt_sha256": (
        "password",
        "$bcrypt-sha256$v=2,t=2b,r=12$n79VH.0Q2TMWmt3Oqt9uku$Kq4Noyk3094Y2QlB8NdRT8SvGiI4ft2",
    ),
    "bcrypt_sha256, earlier": (
        "password",
        "$bcrypt-sha256$2a,12$LrmaIX5x4TRtAwEfwJZa1.$2ehnw6LvuIUTM0iz4iz9hTxv21B6KFO",
    ),
    "scrypt": (
        "password",
        "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E",
    ),
    "scrypt, $7$": (
        "pleaseletmein",
        "$7$C6..../....SodiumChloride$kBGj9fHznVYFQMEn/qDCfrDevf9YDtcDdKvEqHJLV8D",
    ),
    "scrypt, $7$ of passlib": (
        "password",
        "$7$E6..../....xfhf6x2jlBICwLjXuncO4Q$bPJE.M0aLNFi8wyfUjKZXyJ1wesRk3btkiIZq592ki7",
    ),
    "pbkdf2_sha512, no ASCII": (
        "pässword",
        "$pbkdf2-sha512$25000$TiklZGxNaa3VOqc0RqhVqg$0M7EZDOSBAeHAUf6JG9S22EvW.vOg4kZnUkDtp2YBF"
        "R0fmshHyabpQAtaJBfBO3USP.WWa/djdHIhgoBqyp8ug",
    ),
    "pbkdf2_sha512": (
        "password",
        "$pbkdf2-sha512$25000$AAECAwQFBgcICQoLDA0ODw$EIJTJci4GjJFueYP2IMIxGIhpWd96facmk2yGdjyFs"
        "EUE2PrPNQnrnUVT5Ch.GNpbgjHYeabQn2L9uP6DGJOVw",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPORTED)
def test_hashes_of_keystone_are_known(name: str) -> None:
    password, hash_ = IMPORTED[name]
    assert foreign_hashes.is_foreign(hash_)
    right, wrong = passwords.verify_now(hash_, password), passwords.verify_now(hash_, "wrong")
    assert right.is_right and right.better_hash and right.better_hash.startswith("$argon2id$")
    assert not wrong.is_right and wrong.better_hash is None


@pytest.mark.parametrize(
    "hash_",
    [
        "$2", "$2b$", "$2b$12$", "$2b$99$" + "a" * 53, "$2b$xx$" + "a" * 53, "$2b$12$\xe9",
        "$scrypt$", "$scrypt$ln=60,r=8,p=1$aa$aa", "$scrypt$ln=20,r=60,p=60$aaaa$aaaa",
        "$scrypt$ln=4,r=8,p=1$aaaa$", "$scrypt$ln=4$aaaa$aaaa", "$7$", "$7$C6..../....salt$",
        "$pbkdf2-sha512$9999999999$aaaa$aaaa", "$pbkdf2-sha512$x$aaaa$aaaa",
        "$pbkdf2-sha512$10$aaaa$", "$bcrypt-sha256$v=2$a$b", "$bcrypt-sha256$x", "$6$a$b", "x", "",
    ],
)  # fmt: skip
def test_what_is_no_hash_is_a_wrong_password(hash_: str) -> None:
    assert not passwords.verify_now(hash_, "password").is_right
    assert not passwords.verify_now(hash_, "").is_right


def test_long_passwords_are_cut_where_bcrypt_cuts_them() -> None:
    hash_ = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert passwords.verify_now(hash_, "x" * 72 + "more").is_right
    assert not passwords.verify_now(hash_, "x" * 71).is_right


@pytest.mark.parametrize("name", ["bcrypt_sha256", "pbkdf2_sha512"])
def test_an_imported_user_signs_in_and_gets_a_hash_of_ours(cloud_on_both: Cloud, name: str) -> None:
    cloud, (password, hash_) = cloud_on_both, IMPORTED[name]
    ann = cloud.make("user", name="ann")
    cloud.database.write_now(lambda tx: store.set_password_hash(tx, ann["id"], hash_))
    assert not signs_in(cloud, "wrong")
    body = sign_in_body("ann", password, "unscoped")
    assert cloud.call("POST", "/auth/tokens", body, token=None).status_code == 201
    kept = cloud.database.read_now(lambda tx: store.password_hash(tx, ann["id"]))
    assert kept is not None and kept.startswith("$argon2id$")
    assert signs_in(cloud, password)

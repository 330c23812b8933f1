"""Guessing passwords: who is locked out and for how long, and what an attacker learns from it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from sqlalchemy import func, select

from cairn.core.clock import FakeClock
from cairn.db.engine import Database
from cairn.identity import store
from cairn.identity.accounts import guesses, lockout, password_store, passwords
from cairn.identity.accounts.security import Security
from tests.identity.conftest import ADMIN_PASSWORD, Cloud


@pytest.fixture
def ann(cloud_on_both: Cloud) -> Any:
    return cloud_on_both.make("user", name="ann", password="right")


def status(cloud: Cloud, password: str, user: str = "ann") -> int:
    return int(cloud.sign_in(user, password, scope="unscoped").status_code)


def guess(cloud: Cloud, times: int, user: str = "ann") -> None:
    for _ in range(times):
        assert status(cloud, "wrong", user) == 401


def rows(cloud: Cloud) -> int:
    query = select(func.count()).select_from(guesses.failures)
    return int(cloud.database.read_now(lambda tx: tx.execute(query).scalar()) or 0)


def test_five_wrong_guesses_lock_out_for_five_minutes(
    cloud_on_both: Cloud, ann: Any, clock: FakeClock
) -> None:
    cloud = cloud_on_both
    guess(cloud, 4)
    assert status(cloud, "right") == 201
    guess(cloud, 5)  # The right one began the count anew.
    assert status(cloud, "right") == 401
    clock.advance(299)
    assert status(cloud, "right") == 401
    clock.advance(1)
    assert status(cloud, "right") == 201
    assert rows(cloud) == 0


def test_a_lock_that_is_over_begins_a_new_count(
    cloud_on_both: Cloud, ann: Any, clock: FakeClock
) -> None:
    cloud = cloud_on_both
    guess(cloud, 5)
    clock.advance(300)
    guess(cloud, 4)
    assert status(cloud, "right") == 201


def test_guesses_while_locked_do_not_lengthen_the_lock(
    cloud_on_both: Cloud, ann: Any, clock: FakeClock
) -> None:
    cloud = cloud_on_both
    guess(cloud, 5)
    clock.advance(200)
    guess(cloud, 3)
    clock.advance(100)
    assert status(cloud, "right") == 201


def test_tokens_go_on_while_their_user_is_locked_out(cloud_on_both: Cloud, ann: Any) -> None:
    token = cloud_on_both.token("ann", "right", scope="unscoped")
    guess(cloud_on_both, 5)
    assert cloud_on_both.is_good(token)


def test_the_lock_holds_for_another_process_and_after_a_restart(
    cloud_on_both: Cloud, ann: Any, clock: FakeClock, tmp_path: Path
) -> None:
    guess(cloud_on_both, 3)
    another = Cloud(cloud_on_both.database, clock, tmp_path)
    guess(another, 2)
    assert status(another, "right") == status(cloud_on_both, "right") == 401
    another.passwords.close()


@pytest.mark.parametrize(
    "change",
    [{"enabled": True}, {"password": "right"},
     {"options": {"ignore_lockout_failure_attempts": True}}],
)  # fmt: skip
def test_an_administrator_ends_a_lock(cloud_on_both: Cloud, ann: Any, change: Any) -> None:
    cloud = cloud_on_both
    guess(cloud, 5)
    cloud.call("PATCH", f"/users/{ann['id']}", {"user": {"description": "x"}})
    assert status(cloud, "right") == 401
    assert cloud.call("PATCH", f"/users/{ann['id']}", {"user": change}).status_code == 200
    assert status(cloud, "right") == 201


def test_whoever_is_exempt_is_never_locked_out(cloud_on_both: Cloud, ann: Any) -> None:
    options = {"ignore_lockout_failure_attempts": True}
    cloud_on_both.call("PATCH", f"/users/{ann['id']}", {"user": {"options": options}})
    guess(cloud_on_both, 12)
    assert status(cloud_on_both, "right") == 201


def test_changing_a_password_is_a_guess_too(cloud_on_both: Cloud, ann: Any) -> None:
    body = {"user": {"original_password": "wrong", "password": "new"}}
    path = f"/users/{ann['id']}/password"
    for _ in range(5):
        assert cloud_on_both.call("POST", path, body, token=None).status_code == 401
    assert status(cloud_on_both, "right") == 401


def test_an_operator_may_switch_it_off(sqlite: Database, clock: FakeClock, tmp_path: Path) -> None:
    cloud = Cloud(sqlite, clock, tmp_path, Security(lockout_failures=0))
    cloud.make("user", name="ann", password="right")
    guess(cloud, 7)
    assert status(cloud, "right") == 201
    assert rows(cloud) == 0
    cloud.passwords.close()


def test_a_right_guess_among_many_at_once_does_not_get_in_after_the_lock(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hash was compared before the lock; the session asks again."""
    ann = cloud.make("user", name="ann", password="right")
    verify = passwords.verify_now

    def slow(hash_: str | None, password: str) -> Any:
        verdict = verify(hash_, password)
        if password == "right":  # Meanwhile, others have guessed.
            cloud.database.write_now(
                lambda tx: guesses.put(tx, guesses.subject_of("password", ann["id"]), 5)
            )
        return verdict

    monkeypatch.setattr(passwords, "verify_now", slow)
    assert status(cloud, "right") == 401
    monkeypatch.setattr(passwords, "verify_now", verify)
    assert status(cloud, "right") == 401


# --- what an attacker learns -----------------------------------------------------------------------------


class Work:
    """What answering costs: hashes compared by their kind, statements, writes, the answer itself."""

    def __init__(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self._cloud = cloud
        self.hashes: list[str] = []
        self.writes = 0
        verify, write = passwords.verify_now, cloud.database.write

        def counted(hash_: str | None, password: str) -> Any:
            self.hashes.append(kind(hash_))
            return verify(hash_, password)

        async def counted_write(verb: Callable[[Any], Any]) -> Any:
            self.writes += 1
            return await write(verb)

        monkeypatch.setattr(passwords, "verify_now", counted)
        monkeypatch.setattr(cloud.database, "write", counted_write)

    def of_guess(self, user: str) -> Any:
        self.hashes.clear()
        self.writes, before = 0, self._cloud.database.statements_total
        answer = self._cloud.sign_in(user, "wrong")
        statements = self._cloud.database.statements_total - before
        headers = {k: v for k, v in answer.headers.items() if "request-id" not in k}
        return answer.status_code, answer.text, headers, list(self.hashes), statements, self.writes


def kind(hash_: str | None) -> str:
    return "argon2" if hash_ is None else hash_.split("$")[1]


def test_every_guess_costs_the_same_whoever_it_is_at(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.make("user", name="ann", password="right")
    cloud.make("user", name="off", password="right", enabled=False)
    cloud.make("user", name="without")
    cloud.make(
        "user", name="exempt", password="x", options={"ignore_lockout_failure_attempts": True}
    )
    work = Work(cloud, monkeypatch)
    names = ("nobody", "ann", "off", "without", "nobody-else")
    for number in range(1, 9):  # The sixth guess is at somebody who is locked out.
        costs = {name: work.of_guess(name) for name in names}
        first = costs.pop("nobody")
        assert first[0] == 401
        assert first[3] == ["argon2id"], "one hash is compared, whether there is one or not"
        assert first[5] == (1 if number <= 5 else 0), "a lock writes nothing more"
        for name, cost in costs.items():
            cost = (*cost[:3], [k.replace("argon2id", "argon2") for k in cost[3]], *cost[4:])
            wanted = (*first[:3], ["argon2"], *first[4:])
            assert cost == wanted, f"guess {number} at {name}"


def test_names_of_nobody_take_as_long_as_those_of_users(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imported hashes take longer than ours; so must as many names that nobody has."""
    imported = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
    for number in range(40):
        user = cloud.make("user", name=f"u{number}")
        hash_ = imported if number % 2 else passwords.hash_now("x") if number == 0 else imported
        if number % 4:
            cloud.database.write_now(
                lambda tx, id_=user["id"], h=hash_: store.set_password_hash(tx, id_, h)
            )
    work = Work(cloud, monkeypatch)
    kinds = Counter(work.of_guess(f"nobody-{n}")[3][0] for n in range(60))
    assert set(kinds) == {"2b", "argon2", "argon2id"} or set(kinds) == {"2b", "argon2"}
    assert 30 <= kinds["2b"] <= 57, "three of four users have such a hash"
    again = [work.of_guess("nobody-7")[3] for _ in range(3)]
    assert again[0] == again[1] == again[2], "a name takes the same each time, as a user's does"


def test_nobody_signs_in_with_the_password_of_somebody(cloud: Cloud) -> None:
    """The hash that a name of nobody is compared with is somebody's."""
    for number in range(20):
        assert status(cloud, ADMIN_PASSWORD, f"nobody-{number}") == 401


def test_guesses_at_names_of_nobody_take_bounded_room(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockout, "NOBODYS_ROWS", 8)
    monkeypatch.setattr(passwords, "verify_now", lambda *_: passwords.Verdict(is_right=False))
    for number in range(200):
        cloud.sign_in(f"nobody-{number}", "wrong")
    assert 0 < rows(cloud) <= 8


def test_forgotten_users_leave_no_guesses(cloud: Cloud) -> None:
    ann = cloud.make("user", name="ann", password="right")
    guess(cloud, 2)
    assert rows(cloud) == 1
    assert cloud.call("DELETE", f"/users/{ann['id']}").status_code == 204
    assert rows(cloud) == 0
    assert cloud.database.read_now(lambda tx: password_store.last(tx, ann["id"], 5)) == ()

"""Keys that sign tokens are rotated as often as anybody likes, and no token fails."""

import asyncio
import itertools
from pathlib import Path

import pytest

from cairn.core.clock import FakeClock
from cairn.core.errors import Conflict, Unauthenticated
from cairn.core.ids import DomainId, UserId
from cairn.db.engine import Database, open_sqlite
from cairn.db.secrets import Sealer
from cairn.identity.control import KEY_SECONDS_MAX, KeyRotation
from cairn.identity.keys import KEYS_MAX, SETTLE_S, SPARE_S, KeyRepository
from cairn.identity.revocation import Revocations
from cairn.identity.tokens import Payload, TokenIssuer, microseconds
from tests.identity.conftest import SEALING_KEY, Cloud

LIFETIME_S = 3600


def repository(database: Database, clock: FakeClock) -> KeyRepository:
    """Of one more process."""
    return KeyRepository(database, Sealer(SEALING_KEY), clock=clock, lifetime_s=LIFETIME_S)


def numbers(database: Database, keys: KeyRepository) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"staged": [], "primary": [], "retired": []}
    for key in database.read_now(keys.shown):
        found[key.state].append(key.number)
    return found


def test_three_rotations_in_a_minute_leave_every_token_good(cloud: Cloud, clock: FakeClock) -> None:
    tokens = [cloud.admin_token]
    for _ in range(3):
        clock.advance(15)
        cloud.database.write_now(cloud.keys.rotate)
        clock.advance(15)
        tokens.append(cloud.token("admin", "admin's password"))
    fresh = TokenIssuer(cloud.keys, clock, cloud.revocations)  # which remembers no token
    for token in tokens:
        assert fresh.authenticate(token)


def test_keys_are_kept_as_long_as_a_token_may_live(sqlite: Database, clock: FakeClock) -> None:
    keys = repository(sqlite, clock)
    first = keys.sign(b"first")
    for _ in range(4):
        clock.advance(60)
        sqlite.write_now(keys.rotate)
    assert numbers(sqlite, keys) == {"staged": [0], "primary": [5], "retired": [4, 3, 2, 1]}
    clock.advance(LIFETIME_S + SETTLE_S + SPARE_S - 181)  # a second before the first one's end
    assert sqlite.write_now(keys.retire) == 0
    assert keys.read(first) == b"first"
    clock.advance(2)
    assert sqlite.write_now(keys.retire) == 1
    assert repository(sqlite, clock).read(first) is None
    clock.advance(LIFETIME_S)
    sqlite.write_now(keys.rotate)
    assert numbers(sqlite, keys) == {"staged": [0], "primary": [6], "retired": [5]}


def test_a_key_signs_only_when_others_can_know_it(sqlite: Database, clock: FakeClock) -> None:
    """The hint is lost: the other process has the keys of before, and looks again after seconds only."""
    keys, other = repository(sqlite, clock), repository(sqlite, clock)
    other._hint = lambda topic: None  # type: ignore[method-assign]
    sqlite._wakers.remove(next(w for w in sqlite._wakers if getattr(w, "__self__", 0) is other))
    sqlite.write_now(keys.rotate)
    sqlite.write_now(keys.rotate)
    assert other.read(keys.sign(b"x")) == b"x", "signed by a key that was staged just now"
    clock.advance(SETTLE_S + 1)
    signed = keys.sign(b"y")
    assert other.read(signed) is None, "it is really the new one"
    other._loaded_s -= SETTLE_S  # It may look again.
    assert other.read(signed) == b"y"


def test_rotating_without_end_is_refused_before_it_hurts(
    sqlite: Database, clock: FakeClock
) -> None:
    keys = repository(sqlite, clock)
    signed = keys.sign(b"x")
    with pytest.raises(Conflict, match="seconds"):
        for _ in range(KEYS_MAX + 1):
            clock.advance(1)
            sqlite.write_now(keys.rotate)
    assert keys.read(signed) == b"x"
    clock.advance(LIFETIME_S + SPARE_S + SETTLE_S)
    assert sqlite.write_now(keys.rotate)


async def test_the_reconciler_forgets_keys_in_time(sqlite: Database, clock: FakeClock) -> None:
    keys = repository(sqlite, clock)
    rotation = KeyRotation(sqlite, keys)
    first = await rotation.run_once()
    assert first.again_s == KEY_SECONDS_MAX
    sqlite.write_now(keys.rotate)
    again_s = (await rotation.run_once()).again_s
    assert again_s == LIFETIME_S + SETTLE_S + SPARE_S
    clock.advance(again_s)
    assert (await rotation.run_once()).done == 1
    assert numbers(sqlite, keys)["retired"] == []
    clock.advance(KEY_SECONDS_MAX)
    assert (await rotation.run_once()).done == 1
    assert numbers(sqlite, keys)["primary"] == [3]


def payload(number: int, now_us: int) -> Payload:
    return Payload(
        user_id=UserId(f"u{number}"),
        user_domain_id=DomainId("default"),
        methods=("password",),
        audit_ids=(f"audit{number}",),
        issued_us=now_us,
        expires_us=now_us + LIFETIME_S * 1_000_000,
        revocations_seen=0,
    )


async def test_no_token_fails_while_keys_are_rotated_under_load(tmp_path: Path) -> None:
    """Two processes issue and check each other's tokens while a third rotates eight times."""
    clock = FakeClock()
    database = open_sqlite(tmp_path / "cairn.db", clock=clock)
    database.create_all()
    issuers = [
        TokenIssuer(repository(database, clock), clock, Revocations(database)) for _ in range(2)
    ]
    rotator = repository(database, clock)
    issued: list[str] = []
    failed: list[str] = []
    is_over = asyncio.Event()

    async def work(own: TokenIssuer, other: TokenIssuer) -> None:
        for number in itertools.count():
            token = own.issue(payload(number, microseconds(clock.now())))
            issued.append(token)
            for one in (token, issued[number * 7919 % len(issued)]):
                try:
                    other.authenticate(one)
                except Unauthenticated as error:
                    failed.append(f"{number}: {error}")
            await asyncio.sleep(0)
            if is_over.is_set():
                return

    async def rotate() -> None:
        for round_ in range(8):
            await asyncio.sleep(0.05)
            await database.write(rotator.rotate)
            clock.advance(0.5 if round_ % 2 else SETTLE_S)
        is_over.set()

    await asyncio.gather(work(*issuers), work(*reversed(issuers)), rotate())
    assert not failed
    assert len(issued) > 100
    signers = {key.number for key in database.read_now(rotator.shown)}
    assert len(signers) == 10
    for reader in issuers:
        reader._remembered.clear()  # What was checked before counts for nothing.
        for token in issued:
            reader.authenticate(token)
    database.close()

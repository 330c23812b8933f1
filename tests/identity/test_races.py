"""Sign-ins and revocations at the same time, on databases that really run them at the same time."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn.core.errors import Unauthenticated
from cairn.core.ids import ProjectId, RoleId, UserId
from cairn.db.columns import metadata
from cairn.db.engine import Database, Tx, open_sqlite
from cairn.identity import grants, people, places, service, signin, store
from cairn.identity.methods.method import Named, Proof, ScopeWish
from cairn.identity.records import (
    DEFAULT_DOMAIN,
    Actor,
    ActorKind,
    Assignment,
    Project,
    Scope,
    ScopeKind,
    User,
)
from cairn.identity.revocation import Revocations


@pytest.fixture(params=["sqlite", "postgresql"])
def concurrent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        database = open_sqlite(tmp_path / "db")
    else:
        database = Database(request.getfixturevalue("postgres_url"))
        metadata.drop_all(database.engine)
    database.create_all()
    yield database
    database.close()


def first_rows(tx: Tx) -> Assignment:
    """ann, and what she is given and loses: member of project P."""
    service.bootstrap(tx, "no hash")
    project = Project(
        id=ProjectId("p"), name="P", domain_id=DEFAULT_DOMAIN, parent_id=DEFAULT_DOMAIN
    )
    places.create_project(tx, project)
    people.create_user(tx, User(id=UserId("ann"), name="ann", domain_id=DEFAULT_DOMAIN), "hash")
    role = store.ROLES.find(tx, store.roles.c.name == "member")
    assert role is not None
    return Assignment(
        actor=Actor(kind=ActorKind.USER, id="ann"),
        scope=Scope(kind=ScopeKind.PROJECT, id="p"),
        role_id=RoleId(role.id),
    )


def sign_in(tx: Tx) -> signin.Session | None:
    ann = Proof(user_id=UserId("ann"))
    wish = ScopeWish(project=Named(id="p"))
    try:
        return signin.open_session(tx, [ann], wish, methods=("password",), lifetime_s=3600)
    except Unauthenticated:
        return None


async def test_no_sign_in_that_races_the_loss_of_a_role_keeps_it(concurrent: Database) -> None:
    assignment = await concurrent.write(first_rows)
    revocations = Revocations(concurrent)
    got_in = 0
    for _ in range(30):
        await concurrent.write(lambda tx: grants.grant(tx, assignment))
        before = await concurrent.read(sign_in)
        *sessions, _ = await asyncio.gather(
            *(concurrent.read(sign_in) for _ in range(3)),
            concurrent.write(lambda tx: grants.withdraw(tx, assignment)),
        )
        assert before is not None
        for session in (before, *sessions):
            if session is not None:
                got_in += 1
                seen = session.payload.revocations_seen
                assert revocations.voids(session.payload.subjects, issued_at_number=seen)
    assert got_in >= 30


async def test_revocations_at_the_same_time_have_one_order(concurrent: Database) -> None:
    await concurrent.write(first_rows)
    from cairn.identity.revocation import of_token, revoke

    names = [f"t{n}" for n in range(8)]
    await asyncio.gather(
        *(concurrent.write(lambda tx, n=n: revoke(tx, of_token(n))) for n in names)  # type: ignore[misc]
    )
    events = await concurrent.read(lambda tx: store.revocations_after(tx, 0))
    assert [e.number for e in events] == list(range(1, 9))
    assert {e.subject for e in events} == {of_token(n) for n in names}

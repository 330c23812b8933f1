"""What identity costs with 10,000 users and 1,000 projects, against a bare ASGI server with the same bytes.

CPU of the server's process over one connection, then the slowest hundredth under 16 connections, for both.
The clients are threads of this process on the same cores, so the latter is an upper bound.
"""

import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench import control
from bench.bare import Canned
from bench.client import Client, sign_in_body
from bench.table import Result, ratio
from cairn.core.ids import ProjectId, UserId
from cairn.db.engine import Database, Tx
from cairn.identity import grants, people, places, store, store_grants
from cairn.identity.accounts.passwords import hash_now
from cairn.identity.bootstrap import bootstrap
from cairn.identity.records import (
    DEFAULT_DOMAIN,
    Actor,
    ActorKind,
    Assignment,
    Group,
    GroupId,
    Project,
    Scope,
    ScopeKind,
    User,
)
from cairn.settings import Settings

PASSWORD = "bench's password"
USERS, PROJECTS, GROUPS = 10_000, 1_000, 100
CONNECTIONS = 16
BATCH = 500


class Work(Struct, frozen=True, kw_only=True):
    """One kind of request, and how often it is made: `count` over one connection, as many over sixteen."""

    name: str
    path: str
    count: int
    method: str = "GET"
    body: Any = None
    headers: dict[str, str] = {}


def run() -> list[Result]:
    with (
        _filled() as (database, project_id, user_id),
        control.installation(database) as settings,
        control.running(settings) as pid,
        Client(settings.api_url, authority=settings.certs_dir / "ca.crt") as client,
    ):
        client.sign_in(PASSWORD)
        rows = [_row(settings, client, pid, w) for w in _works(client.token, project_id, user_id)]
    return [
        Result(
            title=f"CPU of identity per request, {USERS:,} users in {PROJECTS:,} projects",
            columns=("request", "bytes", "SQL", "Cairn", "bare", "ratio", "p99 of 16", "bare p99"),
            rows=tuple(rows),
            notes=(
                "CPU of the server process, over TLS, one kept-alive connection; SQL: statements a request.",
                "p99: of 16 connections at once, their threads on the same cores.",
            ),
        )
    ]


def _works(token: str, project_id: str, user_id: str) -> list[Work]:
    by_token = {
        "auth": {
            "identity": {"methods": ["token"], "token": {"id": token}},
            "scope": {"project": {"name": "admin", "domain": {"id": "default"}}},
        }
    }
    identity = "/identity/v3"
    tokens, assignments = f"{identity}/auth/tokens", f"{identity}/role_assignments"
    full = "effective&include_names"
    return [
        Work(name="POST /auth/tokens, password", path=tokens, count=48, method="POST",
             body=sign_in_body(PASSWORD, "admin", "admin")),
        Work(name="POST /auth/tokens, token", path=tokens, count=320, method="POST", body=by_token),
        Work(name="GET /auth/tokens", path=tokens, count=640, headers={"x_subject_token": token}),
        Work(name="GET /projects, all 1,000", path=f"{identity}/projects", count=32),
        Work(name="GET /users, 1,000 of 10,000", path=f"{identity}/users?limit=1000", count=32),
        Work(name="assignments of a project", path=f"{assignments}?scope.project.id={project_id}",
             count=320),
        Work(name="... effective, with names",
             path=f"{assignments}?scope.project.id={project_id}&{full}", count=96),
        Work(name="assignments of a user, effective, with names",
             path=f"{assignments}?user.id={user_id}&{full}", count=320),
    ]  # fmt: skip


def _row(settings: Settings, client: Client, pid: int, work: Work) -> tuple[str, ...]:
    sample = client.must(work.method, work.path, work.body, **work.headers)
    before = client.statements()
    client.must(work.method, work.path, work.body, **work.headers)
    statements = client.statements() - before
    ours_s, _ = control.measure(
        client, pid, work.path, work.count, work.headers, method=work.method, body=work.body
    )
    ours_p99_s = _p99_s(client, work)
    with control.bare(settings, Canned(headers=sample.headers, data=sample.data)) as bare:
        bare_s, _ = control.measure(
            bare, int(bare.token), work.path, work.count, work.headers,
            method=work.method, body=work.body,
        )  # fmt: skip
        bare_p99_s = _p99_s(bare, work)
    return (
        work.name,
        f"{len(sample.data):,}",
        f"{statements:.0f}",
        f"{ours_s * 1000:.2f} ms",
        f"{bare_s * 1000:.2f} ms",
        ratio(ours_s, bare_s),
        f"{ours_p99_s * 1000:.1f} ms",
        f"{bare_p99_s * 1000:.1f} ms",
    )


def _p99_s(client: Client, work: Work) -> float:
    """Of `work.count` requests in all, over 16 connections at once."""
    took: list[float] = []

    def ask() -> None:
        with client.again() as own:
            own.must(work.method, work.path, work.body, **work.headers)  # connects
            for _ in range(max(2, work.count // CONNECTIONS)):
                answer = own.must(work.method, work.path, work.body, **work.headers)
                took.append(answer.seconds)

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) >= 2 * CONNECTIONS, "a connection gave up"
    return sorted(took)[int(len(took) * 0.99) - 1]


# --- what there is -----------------------------------------------------------------------------------------


@contextmanager
def _filled() -> Iterator[tuple[Path, str, str]]:
    """A database in a file, and one project and one user in it."""
    with tempfile.TemporaryDirectory(prefix="cvb-") as folder:
        file = Path(folder) / "cairn.db"
        database = Database(f"sqlite:///{file}", inline=True)
        try:
            database.create_all()
            hash_ = hash_now(PASSWORD)
            database.write_now(lambda tx: bootstrap(tx, hash_))
            database.write_now(_projects)
            for start in range(0, USERS, BATCH):
                database.write_now(partial(_users, start=start, hash_=hash_))
            database.write_now(_groups)
        finally:
            database.close()
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("ANALYZE")
        yield file, _id("project", 7), _id("user", 7)


def _id(kind: str, number: int) -> str:
    return f"{kind.encode().hex()[:12]:0<12}{number:020d}"


def _projects(tx: Tx) -> None:
    for n in range(PROJECTS):
        new = Project(
            id=ProjectId(_id("project", n)),
            name=f"project-{n}",
            domain_id=DEFAULT_DOMAIN,
            parent_id=DEFAULT_DOMAIN,
        )
        places.create_project(tx, new)


def _users(tx: Tx, *, start: int, hash_: str) -> None:
    """Each is a member of one project and a reader of another."""
    roles = _roles(tx)
    for n in range(start, start + BATCH):
        new = User(id=UserId(_id("user", n)), name=f"user-{n}", domain_id=DEFAULT_DOMAIN)
        people.create_user(tx, new, hash_)
        for role, number in (("member", n % PROJECTS), ("reader", n * 7 % PROJECTS)):
            _give(tx, Actor(kind=ActorKind.USER, id=new.id), number, roles[role])


def _groups(tx: Tx) -> None:
    """Each has a hundred users and is a reader of fifty projects."""
    roles = _roles(tx)
    for n in range(GROUPS):
        new = Group(id=GroupId(_id("group", n)), name=f"group-{n}", domain_id=DEFAULT_DOMAIN)
        people.create_group(tx, new)
        for member in range(n, USERS, GROUPS):
            store.add_member(tx, new.id, UserId(_id("user", member)))
        for number in range(n, PROJECTS, PROJECTS // 50):
            _give(tx, Actor(kind=ActorKind.GROUP, id=new.id), number, roles["reader"])


def _roles(tx: Tx) -> dict[str, Any]:
    return {role.name: role.id for role in store.ROLES.page(tx, [], limit=100)}


def _give(tx: Tx, actor: Actor, number: int, role_id: Any) -> None:
    scope = Scope(kind=ScopeKind.PROJECT, id=_id("project", number))
    new = Assignment(actor=actor, scope=scope, role_id=role_id)
    if not store_grants.is_assigned(tx, new):
        grants.grant(tx, new)
